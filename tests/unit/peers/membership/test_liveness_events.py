"""Alive, suspect, dead: by our own clock, from records and exchanges. And what is said of it."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.peers.membership.liveness import (
    UNLISTED_MAX,
    UNLISTED_SECONDS,
    Liveness,
    Member,
    Members,
    heard,
    is_gone,
    judge,
    liveness,
    observe,
    silence_allowed,
    suspected,
)
from p2p_elastic.peers.membership.liveness_events import Watch
from p2p_elastic.peers.membership.selection import choose_partner
from p2p_elastic.protocol.records import RECORD_SECONDS_MAX, PeerRecord
from p2p_elastic.status.events import EventLog

checked = settings(max_examples=100)
ANNOUNCE = 5.0
RANK: dict[Liveness, int] = {"alive": 0, "suspect": 1, "dead": 2}


def record(peer: str, sequence: int = 1, *, left: bool = False, drained: bool = False) -> PeerRecord:
    return PeerRecord(peer=peer, run="r", schema_hash="0" * 32, sequence=sequence, left=left, drained=drained)


def announced(every: Iterable[float], peer: str = "a") -> Members:
    """After announcements at these intervals, the first at 0."""
    members, now = observe({}, [record(peer)], 0.0), 0.0
    for sequence, pause in enumerate(every, 2):
        now += pause
        members = observe(members, [record(peer, sequence)], now)
    return members


def state(members: Members, now: float, peer: str = "a") -> Liveness:
    return liveness(members[peer], now, ANNOUNCE)


def alive(members: Members, now: float) -> set[str]:
    return {peer for peer in members if state(members, now, peer) == "alive"}


def choice(members: Members, now: float, excluding: tuple[str, ...] = ()) -> str | None:
    found = choose_partner(members, random.Random(0), now=now, announce_seconds=ANNOUNCE, excluding=excluding)
    return None if found is None else found.peer


# ---------------------------------------------------------------- judging


@pytest.mark.parametrize(
    ("silence", "failures", "expected"),
    [
        (14.9, 0, "alive"),
        (15.1, 0, "suspect"),
        (29.9, 0, "suspect"),
        (30.1, 0, "dead"),
        (0.0, 1, "suspect"),
        (9.9, 1, "suspect"),
        (10.1, 1, "dead"),
        (0.0, 2, "dead"),
    ],
)
def test_silence_and_failures_make_a_member_suspect_and_then_dead(
    silence: float, failures: int, expected: Liveness
) -> None:
    assert liveness(Member(record("a"), 100.0, failures), 100.0 + silence, ANNOUNCE) == expected


@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.integers(0, 3), st.integers(0, 3))
@checked
def test_longer_silence_and_more_failures_never_make_anybody_more_alive(
    silence: float, more: float, failures: int, further: int
) -> None:
    before = liveness(Member(record("a"), 0.0, failures), silence, ANNOUNCE)
    after = liveness(Member(record("a"), 0.0, failures + further), silence + more, ANNOUNCE)
    assert RANK[after] >= RANK[before]


def test_whoever_is_not_alive_has_a_reason() -> None:
    assert judge(Member(record("a"), 0.0), 1.0, ANNOUNCE) == ("alive", "")
    assert judge(Member(record("a"), 0.0, 1), 1.0, ANNOUNCE) == ("suspect", "1 exchange with it failed")
    assert judge(Member(record("a"), 0.0), 40.0, ANNOUNCE) == ("dead", "nothing came from it for 40 s")


def test_who_announces_irregularly_is_given_more_time() -> None:
    regular, irregular = announced([5.0] * 20), announced([5.0, 5.0, 15.0, 10.0, 20.0] * 4)
    assert silence_allowed(regular["a"], ANNOUNCE) == 15.0
    assert silence_allowed(irregular["a"], ANNOUNCE) > 20.0
    assert silence_allowed(announced([1000.0] * 5)["a"], ANNOUNCE) == 30.0


def test_looking_every_three_seconds_for_records_of_every_five_takes_no_longer() -> None:
    assert silence_allowed(announced([6.0, 3.0, 6.0] * 10)["a"], ANNOUNCE) == 15.0


def test_two_failures_do_not_make_vacant_what_a_member_holds_while_it_announces_itself() -> None:
    member = Member(record("a"), 100.0, 2)
    assert liveness(member, 101.0, ANNOUNCE) == "dead"
    assert not is_gone(member, 101.0, ANNOUNCE)
    assert is_gone(member, 110.1, ANNOUNCE)


# ---------------------------------------------------------------- alive again


def test_the_dead_are_alive_again_once_they_announce_themselves_anew() -> None:
    members = suspected(suspected(announced([]), "a"), "a")
    assert state(observe(members, [record("a")], 3.0), 3.0) == "dead"
    assert state(observe(members, [record("a", 2)], 3.0), 3.0) == "alive"


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_the_dead_are_alive_again_once_they_contact_us(failures: int) -> None:
    members = announced([])
    for _ in range(failures):
        members = suspected(members, "a")
    assert state(members, 40.0) == "dead"
    assert state(heard(members, "a", 40.0), 40.0) == "alive"
    assert heard(members, "stranger", 40.0) == members


def test_one_of_two_is_tried_again_after_one_failure_but_not_after_two() -> None:
    members = suspected(announced([]), "a")
    assert choice(members, 1.0) == "a"
    assert choice(suspected(members, "a"), 1.0) is None


def test_a_suspect_is_not_tried_while_anybody_is_alive_be_it_that_they_were_asked_already() -> None:
    members = suspected(observe({}, [record("a"), record("b")], 0.0), "a")
    assert choice(members, 1.0) == "b"
    assert choice(members, 1.0, ("b",)) is None
    drained = suspected(observe({}, [record("a"), record("b", drained=True)], 0.0), "a")
    assert choice(drained, 1.0) == "a"


# ---------------------------------------------------------------- who vanished


def test_who_vanished_is_doubted_then_dead_then_forgotten() -> None:
    members = observe(announced([]), [], 3.0)
    assert state(members, 3.0) == "suspect"
    assert is_gone(members["a"], 3.0, ANNOUNCE)
    assert state(observe(members, [], 11.0), 11.0) == "dead"
    assert list(observe(members, [], 3.0 + UNLISTED_SECONDS)) == ["a"]
    assert observe(members, [], 3.1 + UNLISTED_SECONDS) == {}


def test_a_record_that_is_there_again_was_never_gone() -> None:
    before = announced([])
    assert observe(observe(before, [], 3.0), [record("a")], 6.0) == before


def test_who_vanished_and_contacts_us_is_alive() -> None:
    members = heard(observe(announced([]), [], 3.0), "a", 4.0)
    assert state(members, 4.0) == "alive"


def test_few_are_remembered_that_vanished_the_latest() -> None:
    members: Members = {}
    for i in range(UNLISTED_MAX + 5):
        members = observe(members, [record(f"p{i:03}")], float(i))
    assert len(members) == UNLISTED_MAX + 1
    assert f"p{UNLISTED_MAX + 4:03}" in members
    assert "p000" not in members


def test_a_goodbye_counts_also_of_the_dead() -> None:
    members = suspected(suspected(announced([]), "a"), "a")
    assert observe(members, [record("a", 2, left=True)], 1.0) == {}


# ---------------------------------------------------------------- clocks


def test_a_peer_that_began_anew_with_its_clock_set_back_is_alive_once_its_old_records_must_have_expired() -> None:
    members = observe({}, [record("a", 1000)], 0.0)
    assert state(observe(members, [record("a", 5)], RECORD_SECONDS_MAX), RECORD_SECONDS_MAX) == "dead"
    later = RECORD_SECONDS_MAX + 0.1
    assert state(observe(members, [record("a", 5)], later), later) == "alive"


@given(st.integers(0, 2**40), st.lists(st.floats(0.1, 40.0), max_size=10), st.floats(0.0, 100.0))
@checked
def test_what_another_clock_says_changes_nothing(first: int, pauses: list[float], silence: float) -> None:
    """First sequences are taken from the peer's own clock; only their order counts."""

    def lived(start: int) -> Liveness:
        members, now = observe({}, [record("a", start)], 0.0), 0.0
        for i, pause in enumerate(pauses, 1):
            now += pause
            members = observe(members, [record("a", start + i)], now)
        return state(members, now + silence)

    assert lived(first) == lived(0)


# ---------------------------------------------------------------- what is said of it


def test_each_change_is_said_once_with_its_reason() -> None:
    events = EventLog(lambda: 0.0)
    watch, members = Watch(events), announced([])
    watch.look(members, alive(members, 1.0), 1.0, ANNOUNCE)
    members = suspected(members, "a")
    watch.look_at("a", members, 1.0, ANNOUNCE, "timeout")
    watch.look(members, alive(members, 2.0), 2.0, ANNOUNCE)
    watch.look(members, alive(members, 20.0), 20.0, ANNOUNCE)
    watch.look(members, alive(members, 21.0), 21.0, ANNOUNCE)
    watch.look(observe(members, [record("a", 2)], 22.0), {"a"}, 22.0, ANNOUNCE)
    watch.look_at("stranger", members, 22.0, ANNOUNCE)
    assert [(event.kind, event.text) for event in events.since(0)] == [
        ("suspect", "a is suspect: 1 exchange with it failed (timeout)"),
        ("dead", "a is dead: 1 exchange with it failed, nothing came from it for 20 s"),
        ("alive", "a is alive again"),
    ]
