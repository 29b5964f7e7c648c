"""Snapshots that spread: who gets a copy, who is sent elsewhere, and what is held."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.peers.exchange.snapshots import (
    COPIES,
    REFERRED_MAX,
    SNAPSHOTS_MAX,
    TRIES,
    Snapshot,
    Snapshots,
    next_holder,
)

NAMES = [f"p{i}" for i in range(9)]
MEMBERS = frozenset(NAMES)


def made(origin: str = "o", step: int = 1) -> Snapshot:
    return Snapshot(origin, step, 0.5, torch.zeros(2))


def send(snapshot: Snapshot, peer: str, *, arrives: bool = True) -> None:
    """What the responder does around a transfer."""
    assert snapshot.may_send(peer)
    snapshot.tries[peer] += 1
    if arrives:
        snapshot.holders.append(peer)


def test_the_first_get_copies_the_others_are_sent_to_them() -> None:
    snapshot = made()
    for peer in NAMES[:COPIES]:
        send(snapshot, peer)
    assert not snapshot.may_send("p5")
    assert snapshot.refer("p5", MEMBERS) == tuple(NAMES[:COPIES])


def test_one_peer_cannot_take_all_copies() -> None:
    snapshot = made()
    send(snapshot, "p0")
    assert not snapshot.may_send("p0")
    assert snapshot.may_send("p1")


def test_copies_on_their_way_count_and_nobody_is_referred_to_them() -> None:
    snapshot = made()
    snapshot.sending = COPIES
    assert not snapshot.may_send("p0")
    assert snapshot.refer("p0", MEMBERS) == ()
    assert not snapshot.may_send("p0")  # still: it is on its way


def test_a_transfer_that_failed_gives_its_place_back_but_not_for_ever_to_the_same() -> None:
    snapshot = made()
    for _ in range(TRIES):
        send(snapshot, "p0", arrives=False)
    assert not snapshot.may_send("p0")
    assert snapshot.may_send("p1")


def test_who_was_referred_in_vain_gets_one_copy() -> None:
    snapshot = made()
    for peer in NAMES[:COPIES]:
        send(snapshot, peer)
    assert snapshot.refer("p5", MEMBERS)
    send(snapshot, "p5")
    assert not snapshot.may_send("p5")
    assert not snapshot.may_send("p6")
    assert snapshot.refer("p6", MEMBERS) == ("p0", "p1", "p5")


def test_nobody_is_referred_to_the_dead_or_to_itself() -> None:
    snapshot = made()
    for peer in NAMES[:COPIES]:
        send(snapshot, peer)
    assert snapshot.refer("p0", MEMBERS) == ("p1",)
    assert snapshot.refer("p5", MEMBERS - {"p0"}) == ("p1",)
    assert snapshot.refer("p6", ()) == ()
    assert snapshot.may_send("p6")  # those that have it are gone


def test_a_referral_names_few() -> None:
    snapshot = made()
    snapshot.holders.extend(NAMES[:7])
    assert snapshot.refer("p8", MEMBERS) == tuple(NAMES[7 - REFERRED_MAX : 7])


@given(st.lists(st.sampled_from(NAMES), max_size=60))
def test_a_snapshot_goes_to_each_at_most_once(askers: list[str]) -> None:
    snapshot, asked = made(), set[str]()
    for peer in askers:
        if snapshot.may_send(peer):
            assert len(snapshot.holders) < COPIES or peer in asked
            send(snapshot, peer)
        elif snapshot.refer(peer, MEMBERS):
            asked.add(peer)
    assert len(snapshot.holders) == len(set(snapshot.holders))


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9)), max_size=40))
def test_what_is_held_is_bounded_and_the_newest_of_each(kept: list[tuple[str, int]]) -> None:
    snapshots, last = Snapshots(), dict[str, int]()
    for origin, step in kept:
        snapshots.keep(made(origin, step))
        last.pop(origin, None)
        last[origin] = step
    held = {name: found.step for name in NAMES if (found := snapshots.newest(name)) is not None}
    assert held == dict(list(last.items())[-SNAPSHOTS_MAX:])


def test_only_that_very_one_is_dropped() -> None:
    snapshots, old, new = Snapshots(), made("o", 1), made("o", 2)
    snapshots.keep(old)
    snapshots.keep(new)
    snapshots.drop(old)
    assert snapshots.newest("o") is new
    snapshots.drop(new)
    snapshots.drop(new)
    assert snapshots.newest("o") is None


def test_the_next_holder_is_alive_known_and_was_not_asked() -> None:
    rng = random.Random(0)
    members = MEMBERS - {"p1"}
    assert next_holder(("stranger", "p1", "p2", "p3"), {"p3"}, members, rng) == "p2"
    assert next_holder(("stranger", "p1", "p3"), {"p3"}, members, rng) is None
    assert next_holder((), set(), members, rng) is None
    assert {next_holder({"p2", "p3"}, set(), members, rng) for _ in range(50)} == {"p2", "p3"}
