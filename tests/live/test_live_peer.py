"""The production peer over real libp2p and a real DHT, in one process."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import torch
from helpers.daemons import daemons_of
from helpers.swarm import Member, run_members, tiny_model, values

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.framing import MESSAGE_HEADER
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule

DEADLINE = 60.0


async def live_member(network: LiveNetwork, seed: int) -> Member:
    model = tiny_model(seed, width=400)  # 160,400 parameters: three chunks
    peer = Peer(
        vector=ParameterVector(model),
        policy=Policy(elastic(0.3), Schedule(probability=0.1)),
        transport=network.transport,
        directory=network.directory,
        context=RunContext(run="live", announce_seconds=1.0, refresh_seconds=0.3),
        seed=seed,
    )
    return Member(peer, model, step_seconds=0.005)


async def networks(count: int) -> list[LiveNetwork]:
    opened: list[LiveNetwork] = []
    for _ in range(count):
        network = LiveNetwork(Identity.generate(), opened[0].host.addresses if opened else ())
        await network.open("127.0.0.1", 0)
        await network.stay_attached()
        if opened:
            assert await network.directory.attach()
        opened.append(network)
    return opened


def live(count: int, scenario: Callable[[list[LiveNetwork]], Awaitable[None]]) -> None:
    async def main() -> None:
        opened = await networks(count)
        try:
            await scenario(opened)
        finally:
            for network in opened:
                await network.close()

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_three_peers_come_together_and_conserve_their_sum() -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        members = [await live_member(network, i) for i, network in enumerate(opened)]
        await run_members(members, steps=400, settle_seconds=10.0)
        start = torch.stack([values(tiny_model(i, width=400)) for i in range(3)])
        end = torch.stack([values(m.model) for m in members])
        totals = [m.peer.exchanges() for m in members]
        assert all(t.by_outcome[Outcome.COMPLETED] > 10 for t in totals)
        # A timeout: other tests may keep the machine from one of them for 2 s; the sum is kept all the same.
        outcomes = set().union(*(t.by_outcome for t in totals))
        assert outcomes <= {Outcome.COMPLETED, Outcome.DECLINED, Outcome.TIMEOUT}
        assert end.std(dim=0).max() < 0.01 * start.std(dim=0).max()
        torch.testing.assert_close(end.sum(dim=0), start.sum(dim=0), rtol=0, atol=2e-6)

    live(3, scenario)


def test_a_member_that_shows_its_page_says_where_and_is_reached_all_the_same() -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        opened[0].show_page("192.0.2.7", 8765)
        opened[1].show_page("127.0.0.1", 8765)
        members = [await live_member(network, i) for i, network in enumerate(opened)]

        async def watch() -> None:
            await _until(lambda: all(m.peer.exchanges().by_outcome.get(Outcome.COMPLETED, 0) > 3 for m in members))
            seen_by = [member.peer.members()[0].addresses for member in members]
            assert seen_by[1] == (*opened[0].host.addresses, "/ip4/192.0.2.7/tcp/8765/http")
            assert seen_by[0] == opened[1].host.addresses
            for member in members:
                member.steps = 10**9

        await asyncio.gather(run_members(members, steps=10**8, settle_seconds=10.0), watch())

    live(2, scenario)


def test_exchanges_go_on_after_the_daemon_of_a_peer_was_killed() -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        members = [await live_member(network, i) for i, network in enumerate(opened)]

        async def kill() -> None:
            await _until(lambda: members[0].peer.exchanges().by_outcome.get(Outcome.COMPLETED, 0) > 3)
            daemons_of(os.getpid())[0].kill()
            await _until(lambda: sum(network.host.restarts for network in opened) >= 1)
            before = members[0].peer.exchanges().by_outcome[Outcome.COMPLETED]
            await _until(lambda: members[0].peer.exchanges().by_outcome[Outcome.COMPLETED] > before + 3)
            for member in members:
                member.steps = 10**9

        await asyncio.gather(run_members(members, steps=10**8, settle_seconds=10.0), kill())

    live(2, scenario)


def test_sockets_are_in_a_private_folder_of_any_name_and_nothing_is_left_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        folders = list(base.iterdir())  # noqa: ASYNC240
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
        await opened[0].transport.serve(lambda stream: asyncio.sleep(0))
        found = [path for folder in folders for path in folder.iterdir()]
        assert found
        assert all(path.is_socket() for path in found)  # the key is gone

    with tempfile.TemporaryDirectory(prefix="für p2pd ") as folder:
        base = Path(folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        live(2, scenario)
        assert list(base.iterdir()) == []


def test_a_stream_that_is_refused_leaves_no_open_file_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # Since Python 3.11.5 a writer that nobody holds closes itself.
    monkeypatch.setattr(asyncio.StreamWriter, "__del__", lambda writer: None, raising=False)

    async def scenario(opened: list[LiveNetwork]) -> None:
        asker, asked = opened
        processes = [psutil.Process(pid) for pid in asker.host.pids]
        before = [process.num_fds() for process in processes]
        for _ in range(20):
            with pytest.raises(PartnerUnreachable, match="protocol"):
                await asker.host.open_stream(asked.host.peer, "/nobody/serves/this")
        await asker.directory.attach()  # p2pd has seen that they are closed
        assert all(process.num_fds() < known + 10 for process, known in zip(processes, before, strict=True))

    live(2, scenario)


def test_hostile_bytes_are_refused_over_libp2p_too() -> None:
    async def scenario(opened: list[LiveNetwork]) -> None:
        member = await live_member(opened[0], 0)
        life = asyncio.ensure_future(member.peer.run())
        await member.train(1)
        target = PeerRecord(
            peer=opened[0].identity.peer, run="live", schema_hash="0" * 32, addresses=opened[0].host.addresses
        )
        attacks = (b"\x00" * 4096, MESSAGE_HEADER.pack(b"PXE1", 1, 2**32 - 1) + bytes(4096))
        for attack in attacks:
            stream = await opened[1].transport.open(target)
            await stream.send(attack)
            try:
                await stream.receive_into(memoryview(bytearray(1)))
            except PartnerUnreachable:
                pass
            else:
                raise AssertionError("an answer to garbage")
            await stream.close()
        assert member.peer.streams_refused() == {"RemoteProtocolError": 2}
        life.cancel()

    live(2, scenario)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the whole scenario has a deadline
        await asyncio.sleep(0.02)
