"""This peer's place among the members."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest
from helpers.peer_parts import parts_in, record

from p2p_elastic.errors import DirectoryError, IdentityInUse
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.announcer import LOST_WANTED, Presence
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


class Board:
    """A directory that a test writes to."""

    def __init__(self) -> None:
        self.announced: list[PeerRecord] = []
        self.mine: PeerRecord | None = None
        self.others: tuple[PeerRecord, ...] = ()
        self.fails = False
        self.neighbours = frozenset[str]()
        self.wanted: Collection[str] = ()
        self.size: int | None = None

    def want(self, peers: Collection[str]) -> None:
        self.wanted = peers

    def reads(self, _peer: str) -> bool:
        return True

    @property
    def count(self) -> int:
        return len(self.others) + 1 if self.size is None else self.size

    async def announce(self, record: PeerRecord) -> None:
        self.announced.append(record)
        self.mine = record

    async def own(self, run: str) -> PeerRecord | None:
        if self.fails:
            raise DirectoryError("nobody answers")
        return self.mine

    async def members(self) -> tuple[PeerRecord, ...]:
        if self.fails:
            raise DirectoryError("nobody answers")
        return self.others

    async def withdraw(self) -> None:
        self.mine = None


def presence() -> tuple[Presence, Board, StrategyParts]:
    parts, board = parts_in(SimulatedNetwork(), first_sequence=1000, group="attic"), Board()
    return Presence(parts.local, board), board, parts


def test_what_is_announced_is_how_the_peer_is_now_each_time_with_the_next_sequence() -> None:
    made, board, parts = presence()

    async def main() -> None:
        await made.announce()
        parts.local.own.report_loss(0.5)
        parts.local.own.stepped()
        parts.local.own.condition.drain()
        await made.announce()

    run_virtual(main())
    first, second = board.announced
    assert (first.sequence, first.step, first.loss, first.drained) == (1001, 0, None, False)
    assert (second.sequence, second.step, second.loss, second.drained) == (1002, 1, 0.5, True)
    assert (second.peer, second.run, second.group) == ("a", "test", "attic")
    assert (made.sequence, made.next_sequence) == (1002, 1003)


def test_who_leaves_announces_nothing() -> None:
    made, board, parts = presence()
    parts.local.departure.leave()
    run_virtual(made.announce())
    assert board.announced == []


def test_a_process_with_the_same_identity_that_began_earlier_goes_on_and_this_one_ends() -> None:
    made, board, parts = presence()

    async def main() -> None:
        board.mine = record("a", 500)
        await made.announce()
        board.mine = record("a", 501)
        for _ in range(2):
            with pytest.raises(IdentityInUse, match="alive elsewhere"):
                await made.announce()

    run_virtual(main())
    assert parts.local.departure.leaving
    assert len(board.announced) == 1


def test_one_that_began_later_is_told_of_once_and_this_one_goes_on() -> None:
    made, board, parts = presence()

    async def main() -> None:
        await made.announce()
        for sequence in (5000, 5001):
            board.mine = record("a", sequence, addresses=("/ip4/10.0.0.1/tcp/1",))
            await made.announce()

    run_virtual(main())
    told = [event for event in parts.local.events.since(0) if event.kind == "duplicate"]
    assert [event.data for event in told] == [{"instance": 5000}]
    assert "/ip4/10.0.0.1/tcp/1" in told[0].text
    assert len(board.announced) == 3


def test_a_directory_that_cannot_be_read_does_not_keep_a_peer_from_announcing() -> None:
    made, board, _ = presence()
    board.fails = True
    run_virtual(made.announce())
    assert len(board.announced) == 1


def test_refreshing_reads_who_is_there() -> None:
    made, board, parts = presence()
    board.others = (record("b"), record("c"))
    run_virtual(made.refresh())
    assert set(parts.local.members.known) == {"b", "c"}
    assert board.announced == []


@pytest.mark.parametrize("size", [VIEW_MAX, 1000])
def test_in_a_large_run_those_that_a_partition_took_are_asked_for_by_name_in_turns(size: int) -> None:
    made, board, parts = presence()
    board.size, quiet = size, 10 * parts.local.run.context.announce_seconds
    lost, left = ([f"{side}{number}" for number in range(20)] for side in "xy")
    asked: list[Collection[str]] = []

    async def main() -> None:
        board.neighbours = frozenset([*lost, *left])
        board.others = tuple(record(name, 1) for name in (*lost, *left))
        await made.refresh()
        assert not board.wanted
        await asyncio.sleep(quiet)
        board.others = tuple(record(name, 2) for name in left)
        for _ in range(4):
            await made.refresh()
            asked.append(board.wanted)
        board.others = tuple(record(name, 3) for name in (*lost, *left))
        for _ in range(2):
            await made.refresh()

    run_virtual(main())
    names = {name for wanted in asked for name in wanted}
    assert names == (set(lost) if size > VIEW_MAX else set())
    assert max(map(len, asked)) <= LOST_WANTED
    assert not board.wanted  # all are back


def test_a_change_of_being_drained_is_announced_at_once_and_once() -> None:
    made, board, parts = presence()

    async def main() -> None:
        parts.local.own.condition.drain()
        await made.refresh()
        await made.refresh()
        parts.local.own.condition.undrain()
        await made.refresh()

    run_virtual(main())
    assert [one.drained for one in board.announced] == [True, False]


def test_a_refresh_that_fails_says_so_and_keeps_who_was_known() -> None:
    made, board, parts = presence()
    board.others = (record("b"),)

    async def main() -> None:
        await made.refresh()
        board.fails = True
        with pytest.raises(DirectoryError):
            await made.refresh()

    run_virtual(main())
    assert set(parts.local.members.known) == {"b"}
