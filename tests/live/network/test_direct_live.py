"""Direct connections between live peers, and what happens if they cannot be had, or die in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import torch
from helpers.swarm import Member, run_members, tiny_model, values

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.direct.connections import Connections
from p2p_elastic.peers.direct.tcp_wire import DirectPort, TcpWire
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.libp2p import Libp2pTransport
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule

DEADLINE, LOOPBACK, WIDTH = 60.0, "127.0.0.1", 400  # 160,400 parameters: three chunks


@contextlib.asynccontextmanager
async def networks(count: int) -> AsyncIterator[list[LiveNetwork]]:
    opened: list[LiveNetwork] = []
    try:
        for _ in range(count):
            network = LiveNetwork(Identity.generate(), opened[0].host.addresses if opened else ())
            opened.append(network)
            await network.open(LOOPBACK, 0, DirectPort())
            await network.stay_attached()
            if len(opened) > 1:
                assert await network.directory.attach()
        yield opened
    finally:
        for network in opened:
            await network.close()


def member(network: LiveNetwork, seed: int, streams: int | None = None) -> Member:
    model = tiny_model(seed, width=WIDTH)
    peer = Peer(
        vector=ParameterVector(model),
        policy=Policy(elastic(0.3), Schedule(probability=0.1)),
        transport=network.transport,
        directory=network.directory,
        context=RunContext(run="direct", streams=streams, announce_seconds=1.0, refresh_seconds=0.3),
        seed=seed,
    )
    return Member(peer, model, step_seconds=0.005)


def live(count: int, scenario: Callable[[list[LiveNetwork]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with networks(count) as opened:
            await scenario(opened)

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


async def exchange(members: list[Member], steps: int = 400) -> None:
    """Train, and see that what one peer gained another one lost, whatever happened on the way."""
    await run_members(members, steps=steps, settle_seconds=10.0)
    start = torch.stack([values(tiny_model(i, width=WIDTH)) for i in range(len(members))])
    end = torch.stack([values(m.model) for m in members])
    torch.testing.assert_close(end.sum(dim=0), start.sum(dim=0), rtol=0, atol=2e-6)


def ways(members: list[Member]) -> tuple[int, Counter[str]]:
    totals = [m.peer.exchanges() for m in members]
    return sum(t.direct for t in totals), sum((Counter(t.not_direct) for t in totals), Counter[str]())


@pytest.mark.parametrize("streams", [None, 3])
def test_three_peers_exchange_directly(streams: int | None) -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        members = [member(network, i, streams) for i, network in enumerate(opened)]
        await exchange(members)
        direct, others = ways(members)
        assert direct == sum(m.peer.exchanges().by_outcome[Outcome.COMPLETED] for m in members) > 30
        assert not others
        assert all(record.way.direct for m in members for record in m.peer.last_exchanges() if record.distance)

    live(3, scenario)


def with_port(network: LiveNetwork, port: int) -> None:
    """Let its partners believe that this is where it is dialled."""
    wire = TcpWire()
    wire.port = port
    network.transport = Libp2pTransport(network.host, Connections(wire))


@pytest.mark.parametrize("mute", [True, False], ids=["silent", "refused"])
def test_a_port_that_cannot_be_reached_costs_a_second_once(mute: bool) -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        with socket.create_server((LOOPBACK, 0)) as there:
            port = there.getsockname()[1]
            if not mute:
                there.close()
            for network in opened:
                with_port(network, port)
            members = [member(network, i) for i, network in enumerate(opened)]
            await exchange(members, steps=1200)
        direct, others = ways(members)
        assert direct == 0
        assert 1 <= others["not connected"] + others["not in time"] <= 4  # each end, each way of dialling
        assert others["no way to dial"] > 10
        assert set(Counter(o for m in members for o in m.peer.exchanges().by_outcome)) <= {
            Outcome.COMPLETED,
            Outcome.DECLINED,
        }

    live(2, scenario)


class Cutter:
    """Forwards connections to a port, and cuts each after so many bytes in one direction."""

    def __init__(self, port: int, after: int) -> None:
        self._port, self._after, self.cuts = port, after, 0

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._forward, LOOPBACK, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(LOOPBACK, self._port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            left = self._after
            while data := await source.read(65536):
                left -= len(data)
                if left < 0:
                    self.cuts += 1
                    break
                target.write(data)
                await target.drain()
            for one in (writer, back):
                one.transport.abort()

        with contextlib.suppress(OSError):
            await asyncio.gather(pump(reader, back), pump(there, writer))


def test_a_connection_that_dies_in_the_middle_costs_one_exchange_and_others_go_over_libp2p() -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            cutters = []
            for network in opened:
                wire = TcpWire()
                await wire.listen(LOOPBACK, DirectPort(0))
                stack.push_async_callback(wire.close)
                cutters.append(Cutter(wire.port or 0, after=400_000))  # of 641,600 that one vector takes
                wire.port = await stack.enter_async_context(cutters[-1])
                network.transport = Libp2pTransport(network.host, Connections(wire))
            members = [member(network, i) for i, network in enumerate(opened)]
            await exchange(members, steps=1200)
        _, others = ways(members)
        assert sum(cutter.cuts for cutter in cutters) >= 1
        assert others["failed lately"] > 5
        assert sum(m.peer.exchanges().by_outcome.get(Outcome.BROKEN, 0) for m in members) in (1, 2, 3, 4)

    live(2, scenario)
