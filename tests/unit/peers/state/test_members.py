"""Who is in the run, as one peer sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from helpers.swarm import tiny_model

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.discovery.view import WANTED_MAX
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.state.members import Membership
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import CentreClaim, PeerRecord
from p2p_elastic.protocol.software import OURS
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.virtual_time import run_virtual

POLICY = Policy(elastic(0.5), Schedule(period=1))
RUN = CurrentRun("a", ParameterVector(tiny_model(0)), RunContext("test", announce_seconds=1.0), POLICY)


def built() -> tuple[Membership, EventLog]:
    events = EventLog(lambda: 0.0)
    return Membership(RUN, events), events


def record(peer: str, sequence: int = 1, **facts: object) -> PeerRecord:
    facts = {"schema_hash": RUN.vector.schema_hash, "addresses": (OURS.told,), **facts}
    return PeerRecord(peer=peer, run="test", sequence=sequence, **facts)  # type: ignore[arg-type]


def said(events: EventLog) -> list[tuple[str, object]]:
    return [(event.kind, event.data.get("peer")) for event in events.since(0)]


def in_time(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    run_virtual(main())


def test_what_the_directory_lists_is_known_and_said_but_for_other_models() -> None:
    members, events = built()
    members.look([record("b"), record("c"), record("other", schema_hash="f" * 32)], now=1.0)
    assert set(members.known) == set(members.alive()) == {"b", "c"}
    assert members.looked_at == 1.0
    assert said(events) == [("joined", "b"), ("joined", "c")]


def test_of_a_large_swarm_who_is_shown_no_more_is_neither_lost_nor_said_to_have_left() -> None:
    members, events = built()
    count = VIEW_MAX + 100

    async def scenario() -> None:
        members.look([record("b"), record("c"), record("d")], now=0.0, count=count)
        members.look([record("c", 2), record("d"), record("e")], now=1.0, count=count)
        assert set(members.known) == {"c", "d", "e"}
        await asyncio.sleep(5.0)
        members.look([record("c", 3), record("e", 2)], now=5.0, count=count)  # it had been silent before
        assert set(members.alive()) == {"c", "e"}
        assert "d" in members.known
        members.look_apart(1)
        assert members.apart.partition is None
        assert said(events) == [("dead", "d")]

    in_time(scenario)


def test_the_latest_contacts_are_members_or_not() -> None:
    members, _ = built()

    async def scenario() -> None:
        members.look([record("b")], now=0.0)
        for peer in ("b", "stranger", "b"):
            members.heard(peer)
        assert members.contacts == ("b", "stranger")
        assert [members.ever_answered(peer) for peer in members.contacts] == [True, False]
        for number in range(2 * WANTED_MAX):
            members.heard(f"stranger {number}")
        assert len(members.contacts) == WANTED_MAX
        assert members.ever_answered("b")  # strangers put no member out of memory

    in_time(scenario)


def test_a_view_does_not_change_afterwards_and_cannot_be_changed() -> None:
    members, _ = built()
    members.look([record("b")], now=1.0)
    view = members.known
    members.look([record("b"), record("c")], now=2.0)
    assert set(view) == {"b"}
    with pytest.raises(TypeError):
        members.known["d"] = view["b"]  # type: ignore[index]


def test_exchanges_that_fail_make_a_member_suspect_then_dead_and_who_is_heard_is_alive() -> None:
    members, events = built()

    async def scenario() -> None:
        members.look([record("b"), record("c")], now=0.0)
        members.failed("b", Outcome.TIMEOUT)
        assert (set(members.alive()), set(members.not_dead())) == ({"c"}, {"b", "c"})
        members.failed("b", Outcome.TIMEOUT)
        assert set(members.not_dead()) == {"c"}
        await asyncio.sleep(0.1)
        members.heard("b")
        members.heard("stranger")
        assert set(members.alive()) == {"b", "c"}
        assert said(events)[2:] == [("suspect", "b"), ("dead", "b"), ("alive", "b")]

    in_time(scenario)


def test_who_said_goodbye_is_dropped_and_no_older_record_brings_it_back() -> None:
    members, events = built()

    async def scenario() -> None:
        members.look([record("b", 5)], now=0.0)
        assert members.left("b", 4, asked=False) is None  # the end of an earlier life
        assert members.left("b", 7, asked=False) == record("b", 5)
        assert members.left("b", 7, asked=False) is None
        assert (dict(members.known), tuple(members.departed)) == ({}, ("b",))
        members.look([record("b", 6)], now=1.0)
        assert not members.known
        members.look([record("b", 8)], now=2.0)
        assert set(members.known) == {"b"}
        assert said(events) == [("joined", "b"), ("left", "b"), ("joined", "b")]

    in_time(scenario)


def test_one_that_left_may_ask_once_for_something_to_be_taken() -> None:
    members, _ = built()

    async def scenario() -> None:
        members.look([record("b", 5), record("c", 5)], now=0.0)
        members.left("b", 7, asked=False)
        members.left("c", 7, asked=True)
        assert members.asked_after_leaving("b") == record("b", 5)
        for peer in ("b", "c", "stranger"):
            assert members.asked_after_leaving(peer) is None

    in_time(scenario)


def test_a_named_centre_counts_until_its_own_next_record() -> None:
    members, _ = built()
    claim = CentreClaim(stamp=Stamp(term=2, clock=3), seated=True)
    members.look([record("b", 1)], now=0.0)
    members.revise("b", {"centre": claim})
    members.revise("stranger", {"centre": claim})
    assert members.known["b"].record.centre == claim
    members.look([record("b", 2)], now=1.0)
    assert members.known["b"].record.centre is None


def test_members_that_vanish_together_are_a_partition_until_they_are_back() -> None:
    members, events = built()

    async def scenario() -> None:
        for second in range(40):
            names = "bcd" if second < 5 or second > 20 else "b"
            members.look([record(name, second + 1) for name in names], now=float(second))
            if second == 0:
                members.heard("c")
                members.reached = frozenset("d")
            members.look_apart(step=10 * second)
            await asyncio.sleep(1.0)
        told = [event for event in events.since(0) if event.kind in ("partition", "healed")]
        assert [event.kind for event in told] == ["partition", "healed"]
        assert told[0].data["peers"] == ["c", "d"]

    in_time(scenario)


def test_members_that_never_answered_are_no_partition_when_their_records_end() -> None:
    members, events = built()

    async def scenario() -> None:
        for second in range(40):
            names = [str(number) for number in range(50)] if second < 5 else []
            members.look([record(name, second + 1) for name in (*names, "b")], now=float(second))
            members.heard("b")
            members.look_apart(step=10 * second)
            await asyncio.sleep(1.0)
        assert "partition" not in [event.kind for event in events.since(0)]

    in_time(scenario)


def test_deadlines_of_a_stranger_teach_nothing_and_another_run_has_no_members() -> None:
    members, _ = built()
    members.look([record("b")], now=0.0)
    members.waits(members.known["b"].record).saw("answer", 0.5)
    members.waits_of("stranger").saw("answer", 9.0)
    assert members.deadlines.of_all["answer"].smoothed == 0.5
    members.forget()
    assert not members.known
