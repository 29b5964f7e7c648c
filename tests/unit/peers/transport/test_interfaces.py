"""One contract for every Transport and Directory (`interfaces.py`), for the simulated ones and those over libp2p."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import pytest

from p2p_elastic.errors import DirectoryError, PartnerUnreachable
from p2p_elastic.peers.direct.connections import NoConnections
from p2p_elastic.peers.discovery.dht_directory import DHTDirectory, Told
from p2p_elastic.peers.discovery.signed_dht import SignedDHT
from p2p_elastic.peers.membership.liveness import observe
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import Directory, Stream, Transport
from p2p_elastic.peers.transport.libp2p import Libp2pHost, Libp2pTransport
from p2p_elastic.peers.transport.ports import is_here
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

pytestmark = pytest.mark.processes

SCHEMA = "0" * 32
DEADLINE = 20.0


class Node(NamedTuple):
    transport: Transport
    directory: Directory
    addresses: tuple[str, ...]

    def record(self, *, run: str = "test", sequence: int = 1, step: int = 0) -> PeerRecord:
        return PeerRecord(
            peer=self.transport.peer,
            run=run,
            schema_hash=SCHEMA,
            addresses=self.addresses,
            sequence=sequence,
            step=step,
        )


Contract = Callable[[Node, Node], Awaitable[None]]


class Fabric(Protocol):
    def run(self, contract: Contract) -> None: ...


class Simulated:
    def run(self, contract: Contract) -> None:
        network = SimulatedNetwork()
        nodes = [Node(network.transport(name), network.directory(name), ()) for name in ("a", "b")]
        run_virtual(asyncio.wait_for(contract(*nodes), 3600.0))


class Live:
    def run(self, contract: Contract) -> None:
        asyncio.run(asyncio.wait_for(self._run(contract), DEADLINE))

    async def _run(self, contract: Contract) -> None:
        hosts, nodes = [], []
        try:
            for _ in range(2):
                identity = Identity.generate()
                host = Libp2pHost(identity, "127.0.0.1", 0)
                hosts.append(host)
                await host.start()
                dht = SignedDHT(host, identity)
                await dht.start()
                met = {n.transport.peer: n.addresses for n in nodes}
                directory = DHTDirectory(dht, identity, met)
                directory.told = Told(host.addresses)
                if met:
                    assert await directory.attach()
                nodes.append(Node(Libp2pTransport(host, NoConnections()), directory, host.addresses))
            await contract(*nodes)
        finally:
            for node in nodes:
                await node.transport.close()
            for host in hosts:
                await host.close()


CONTRACT: list[Contract] = []


def contract(promise: Contract) -> Contract:
    CONTRACT.append(promise)
    return promise


async def receive(stream: Stream, length: int) -> bytes:
    buffer = bytearray(length)
    await stream.receive_into(memoryview(buffer))
    return bytes(buffer)


@contract
async def bytes_arrive_in_order_both_ways_at_once(a: Node, b: Node) -> None:
    there, back = bytes(range(256)) * 12_000, bytes(reversed(range(256))) * 12_000
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(stream: Stream) -> None:
        _, data = await asyncio.gather(stream.send(back), receive(stream, len(there)))
        got.set_result(data)
        with pytest.raises(PartnerUnreachable):
            await receive(stream, 1)

    await b.transport.serve(handler)
    stream = await a.transport.open(b.record())
    _, data = await asyncio.gather(stream.send(there), receive(stream, len(back)))
    assert (data, await got) == (back, there)
    await stream.close()


@contract
async def each_end_knows_the_other_by_its_proven_id(a: Node, b: Node) -> None:
    async def handler(stream: Stream) -> None:
        await stream.send(stream.partner.encode())
        with pytest.raises(PartnerUnreachable):
            await receive(stream, 1)

    await b.transport.serve(handler)
    stream = await a.transport.open(b.record())
    assert await receive(stream, len(a.transport.peer)) == a.transport.peer.encode()
    assert stream.partner == b.transport.peer
    await stream.close()


@contract
async def nobody_at_the_other_end_is_unreachable(a: Node, b: Node) -> None:
    stranger = Identity.generate().peer
    with pytest.raises(PartnerUnreachable):
        await a.transport.open(b.record().model_copy(update={"peer": stranger}))


@contract
async def the_end_of_a_stream_is_seen_by_the_partner(a: Node, b: Node) -> None:
    ended = asyncio.Event()

    async def handler(stream: Stream) -> None:
        await stream.send(b"goodbye")
        with pytest.raises(PartnerUnreachable):
            await receive(stream, 1)
        ended.set()

    await b.transport.serve(handler)
    stream = await a.transport.open(b.record())
    assert await receive(stream, 7) == b"goodbye"
    await stream.close()  # by the one who read the last word
    await ended.wait()


@contract
async def an_aborted_stream_ends_for_the_partner(a: Node, b: Node) -> None:
    ended = asyncio.Event()

    async def handler(stream: Stream) -> None:
        try:
            await receive(stream, 6)
        except PartnerUnreachable:
            ended.set()

    await b.transport.serve(handler)
    stream = await a.transport.open(b.record())
    await stream.send(b"hello")
    stream.abort()
    await ended.wait()


@contract
async def a_partner_that_does_not_read_holds_the_sender_back(a: Node, b: Node) -> None:
    async def handler(stream: Stream) -> None:
        await asyncio.Event().wait()

    async def flood(stream: Stream) -> None:
        for _ in range(1000):
            await stream.send(bytes(1 << 18))

    await b.transport.serve(handler)
    stream = await a.transport.open(b.record())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(flood(stream), 1.0)
    stream.abort()


@contract
async def closing_a_stream_whose_partner_does_not_read_takes_seconds_and_not_for_ever(a: Node, b: Node) -> None:
    async def handler(stream: Stream) -> None:
        await asyncio.Event().wait()

    await b.transport.serve(handler)
    stream = await a.transport.open(b.record())
    with pytest.raises(asyncio.TimeoutError):
        while True:
            await asyncio.wait_for(stream.send(bytes(1 << 14)), 0.5)
    await asyncio.wait_for(stream.close(), 5.0)


@contract
async def an_address_that_is_none_makes_a_peer_unreachable_and_no_more(a: Node, b: Node) -> None:
    stranger = Identity.generate().peer
    for address in ("/dns4/a..b/tcp/1", "/ip4/999.1.1.1/tcp/1", "/", "/ip4/1.2.3.4/tcp/1/p2p/nobody"):
        record = b.record().model_copy(update={"peer": stranger, "addresses": (address,)})
        with pytest.raises(PartnerUnreachable):
            await a.transport.open(record)


@contract
async def a_closed_transport_serves_nobody(a: Node, b: Node) -> None:
    async def handler(stream: Stream) -> None:
        await stream.send(b"x")

    await b.transport.serve(handler)
    await b.transport.close()
    with pytest.raises(PartnerUnreachable):
        stream = await a.transport.open(b.record())
        try:
            await receive(stream, 1)
        finally:
            await stream.close()


@contract
async def an_announced_peer_is_found_by_the_others_and_not_by_itself(a: Node, b: Node) -> None:
    await a.directory.announce(a.record(step=7))
    await b.directory.announce(b.record())
    (found,) = await b.directory.members()
    assert (found.peer, found.step) == (a.transport.peer, 7)
    assert [r.peer for r in await a.directory.members()] == [b.transport.peer]


@contract
async def a_new_announcement_replaces_the_old_one(a: Node, b: Node) -> None:
    await b.directory.announce(b.record())
    for sequence in (1, 2, 3):
        await a.directory.announce(a.record(sequence=sequence))
    assert [r.sequence for r in await b.directory.members()] == [3]


@contract
async def a_withdrawn_peer_is_no_member_any_more(a: Node, b: Node) -> None:
    await b.directory.announce(b.record())
    await a.directory.announce(a.record())
    before = observe({}, await b.directory.members(), 0.0)
    await a.directory.withdraw()
    assert list(before) == [a.transport.peer]
    assert observe(before, await b.directory.members(), 1.0) == {}


@contract
async def peers_of_another_run_are_not_members(a: Node, b: Node) -> None:
    await a.directory.announce(a.record(run="another"))
    await b.directory.announce(b.record())
    assert await b.directory.members() == ()


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("fabric", [Simulated(), Live()], ids=["simulated", "libp2p"])
def test_contract(fabric: Fabric, promise: Contract) -> None:
    fabric.run(promise)


def test_a_simulated_peer_cannot_announce_another() -> None:
    async def forge(a: Node, b: Node) -> None:
        with pytest.raises(DirectoryError):
            await a.directory.announce(b.record())

    Simulated().run(forge)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("/ip4/127.0.0.1/tcp/31330", True),
        ("/ip4/127.0.0.1/tcp/31331", False),
        ("/ip4/192.0.2.7/tcp/31330", False),  # an example's, nobody's
        ("/dns4/peer.example/tcp/31330", False),
    ],
)
def test_a_port_of_this_machine_is_told_from_others(address: str, here: bool) -> None:
    assert is_here(f"{address}/p2p/{Identity.generate().peer}", 31330) is here
