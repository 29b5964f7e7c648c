"""The centre variable: who is it, who is next, and its value. All members that see the same agree."""

from __future__ import annotations

import asyncio

import pytest
import torch
from helpers.swarm import tiny_model, values
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.health.trust import PARTNERS_MAX, Verdict
from p2p_elastic.peers.centre.succession import Candidate, candidates, rightful, succession
from p2p_elastic.peers.centre.variable import TURN_ANNOUNCEMENTS, VACANT_ANNOUNCEMENTS, Centre
from p2p_elastic.peers.membership.liveness import SILENT_ANNOUNCEMENTS, Member
from p2p_elastic.protocol.messages import CLOCK_MAX, TERM_MAX, Stamp
from p2p_elastic.protocol.records import CentreClaim, PeerRecord
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.pairwise import elastic

ANNOUNCE = 1.0
stamps = st.builds(Stamp, term=st.integers(0, 3) | st.just(TERM_MAX), clock=st.integers(0, 5) | st.just(CLOCK_MAX))
swarms = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.tuples(stamps, st.booleans()), min_size=1)
vacant_swarms = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), stamps, min_size=2, max_size=6)
FACTS = Facts(1, None, 1.0)


def listed(swarm: dict[str, tuple[Stamp, bool]]) -> list[Candidate]:
    return [Candidate(peer, stamp, seated) for peer, (stamp, seated) in swarm.items()]


def member(peer: str, stamp: Stamp | None, *, seated: bool = False, at: float = 0.0, suspect: bool = False) -> Member:
    claim = None if stamp is None else CentreClaim(stamp=stamp, seated=seated)
    return Member(PeerRecord(peer=peer, run="r", schema_hash="0" * 32, centre=claim), at, int(suspect))


def centre(stamp: Stamp | None = None, *, seated: bool = False) -> Centre:
    made = Centre(values(tiny_model(0)), elastic(0.2), seated=seated, announce_seconds=ANNOUNCE)
    made.stamp = stamp or made.stamp
    return made


@given(swarms, st.randoms(use_true_random=False))
def test_all_that_see_the_same_agree_on_the_centre_and_its_heir(
    swarm: dict[str, tuple[Stamp, bool]], rng: object
) -> None:
    seen = listed(swarm)
    top, next_one = rightful(seen), succession(seen)[0]
    rng.shuffle(seen)  # type: ignore[attr-defined]
    assert rightful(seen) == top
    assert succession(seen)[0] == next_one
    seated = [c for c in seen if c.seated]
    assert (top is None) == (not seated)
    if top is not None:
        assert all(c.stamp.term <= top.stamp.term for c in seated)
    assert all(c.stamp.age <= next_one.stamp.age for c in seen)


@given(swarms)
def test_nobody_claims_a_place_that_is_taken_and_one_of_two_centres_remains(
    swarm: dict[str, tuple[Stamp, bool]],
) -> None:
    top = rightful(listed(swarm))
    if top is None:
        return
    still_seated = []
    for peer, (stamp, seated) in swarm.items():
        ours = centre(stamp, seated=seated)
        ours.stamp = stamp
        others = {p: member(p, s, seated=x, at=1000.0) for p, (s, x) in swarm.items() if p != peer}
        for now in (1000.0, 1001.0, 1002.0):
            ours.look(peer, others, now)
        assert ours.holder == top.peer
        if ours.seated:
            still_seated.append(peer)
    assert still_seated == [top.peer]


@given(vacant_swarms)
def test_a_vacant_place_has_exactly_one_heir_and_a_next_one(swarm: dict[str, Stamp]) -> None:
    order = [c.peer for c in succession([Candidate(p, s, False) for p, s in swarm.items()])]
    for turn, peer in enumerate(order):
        ours = centre(swarm[peer])
        others = {p: member(p, s, at=1000.0) for p, s in swarm.items() if p != peer}
        fresh = {p: m._replace(changed_at=1e6) for p, m in others.items()}
        due = (VACANT_ANNOUNCEMENTS + TURN_ANNOUNCEMENTS * turn) * ANNOUNCE
        assert not ours.look(peer, fresh, 1000.0)
        assert not ours.look(peer, fresh, 1000.0 + due - 0.01)
        assert not ours.look(peer, fresh, 1000.0 + due, leaving=True)
        assert not ours.seated
        assert ours.look(peer, fresh, 1000.0 + due)
        assert (ours.seated, ours.holder) == (True, peer)
        highest = max(s.term for s in swarm.values())
        assert ours.stamp == Stamp(term=min(highest + 1, TERM_MAX), clock=swarm[peer].clock)
        assert not ours.look(peer, fresh, 1001.0 + due)


def test_alone_nobody_claims() -> None:
    ours = centre(Stamp(term=1, clock=5))
    others = {"a": member("a", Stamp(term=1), at=0.0), "b": member("b", None, at=1e6)}
    for now in range(100, 200):
        assert not ours.look("me", others, float(now))
    assert ours.holder is None


def test_candidates_are_those_that_are_there_and_have_a_copy() -> None:
    now = 100.0
    gone = now - SILENT_ANNOUNCEMENTS * ANNOUNCE - 0.1
    members = {
        "here": member("here", Stamp(term=1, clock=2), at=now),
        "gone": member("gone", Stamp(term=9), seated=True, at=gone),
        "failed": member("failed", Stamp(term=9), seated=True, at=gone + 0.5, suspect=True),
        "none": member("none", None, at=now),
        "drained": drained(member("drained", Stamp(term=9), at=now)),
    }
    assert list(candidates(members, now, ANNOUNCE)) == [Candidate("here", Stamp(term=1, clock=2), False)]


def drained(of: Member) -> Member:
    return of._replace(record=of.record.model_copy(update={"drained": True}))


def test_a_drained_centre_is_the_centre_until_it_gives_the_place_up() -> None:
    ours = centre(Stamp(term=1, clock=5))
    there = {"a": drained(member("a", Stamp(term=1, clock=9), seated=True, at=1e6))}
    for now in range(100):
        assert not ours.look("me", there, float(now))
    assert ours.holder == "a"


def test_who_is_drained_gives_the_place_up_once_another_one_has_a_copy_and_no_exchange_is_under_way() -> None:
    ours = centre(Stamp(term=1, clock=5), seated=True)
    nobody, new = {}, {"b": member("b", Stamp(term=0), at=1e6)}
    other = {**new, "a": member("a", Stamp(term=1, clock=3), at=1e6)}
    for members in (nobody, new):
        assert not ours.look("me", members, 0.0, drained=True)
    assert not ours.look("me", other, 0.0)

    async def under_way() -> None:
        await ours.reserve()
        assert not ours.look("me", other, 0.0, drained=True)
        assert ours.seated
        ours.free()

    asyncio.run(under_way())
    assert ours.look("me", other, 0.0, drained=True)
    assert (ours.seated, ours.holder) == (False, None)
    for now in range(100):
        assert not ours.look("me", other, float(now), drained=True)


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_the_centre_moves_by_the_trust_that_the_distance_tells(trust: float) -> None:
    ours, told = centre(seated=True), []

    def judged(distance: float) -> Verdict:
        told.append(distance)
        return Verdict(trust, 1.0, (), 0.0, None)

    async def once() -> float:
        await ours.reserve()
        ours.vectors.theirs.copy_(ours.value + 1.0)
        return ours.move("b", FACTS, FACTS, judged)

    before = ours.value
    distance = asyncio.run(once())
    assert told == [pytest.approx(distance)]
    share = 0.4 * trust / (1.0 + trust)
    torch.testing.assert_close(ours.value, before + share)


def test_a_vacancy_that_ends_begins_anew() -> None:
    ours = centre(Stamp(term=1, clock=5))
    there = {"a": member("a", Stamp(term=1), at=1e6)}
    seated = {"a": member("a", Stamp(term=2), seated=True, at=1e6)}
    assert not ours.look("me", there, 0.0)
    assert not ours.look("me", seated, 0.4)
    assert not ours.look("me", there, 0.6)
    assert not ours.look("me", there, 1.0)
    assert ours.look("me", there, 1.1)


def test_who_steps_down_takes_whatever_the_successor_sends() -> None:
    ours = centre(Stamp(term=1, clock=500), seated=True)
    assert ours.look("me", {"a": member("a", Stamp(term=2, clock=3), seated=True, at=1e6)}, 0.0)
    assert not ours.seated
    ours.saw(torch.ones_like(ours.value), Stamp(term=2, clock=4))
    assert ours.stamp == Stamp(term=2, clock=4)
    assert torch.equal(ours.value, torch.ones_like(ours.value))


def test_only_what_is_as_fresh_is_kept() -> None:
    ours = centre(Stamp(term=2, clock=7))
    before = ours.value
    for stale in (Stamp(term=2, clock=6), Stamp(term=1, clock=99)):
        ours.saw(torch.ones_like(before), stale)
        assert ours.value is before
    ours.saw(torch.ones_like(before), Stamp(term=2, clock=7))
    assert torch.equal(ours.value, torch.ones_like(before))
    seated = centre(seated=True)
    seated.saw(torch.ones_like(before), Stamp(term=9))
    assert seated.stamp.term == 1


def exchange(ours: Centre, theirs: torch.Tensor) -> float:
    async def once() -> float:
        await ours.reserve()
        ours.vectors.theirs.copy_(theirs)
        try:
            return ours.move("b", FACTS, FACTS)
        finally:
            ours.free()

    return asyncio.run(once())


def test_a_reader_in_another_thread_never_sees_half_a_move() -> None:
    ours = centre(seated=True)
    seen, copy = ours.value, ours.value.clone()
    exchange(ours, copy + 1.0)
    assert torch.equal(seen, copy)
    torch.testing.assert_close(ours.value, copy + 0.2)
    assert ours.stamp == Stamp(term=1, clock=1)
    other = centre()
    seen, copy = other.value, other.value.clone()
    other.saw(copy + 1.0, Stamp(term=1))
    assert torch.equal(seen, copy)


def test_an_exchange_that_outlived_the_centre_changes_no_copy() -> None:
    ours = centre(Stamp(term=1, clock=5), seated=True)

    async def step_down_meanwhile() -> None:
        await ours.reserve()
        ours.look("me", {"a": member("a", Stamp(term=2), seated=True, at=1e6)}, 0.0)
        ours.saw(torch.zeros_like(ours.value), Stamp(term=2, clock=1))
        ours.vectors.theirs.fill_(5.0)
        ours.move("b", FACTS, FACTS)
        ours.free()

    asyncio.run(step_down_meanwhile())
    assert ours.stamp == Stamp(term=2, clock=1)
    assert torch.equal(ours.value, torch.zeros_like(ours.value))


def test_finite_numbers_that_overflow_do_not_end_the_centre() -> None:
    ours = centre(seated=True)
    evil = torch.full_like(ours.value, 3.4e38)
    evil[::2] *= -1
    for sign in (1.0, -1.0, 1.0, -1.0):
        exchange(ours, sign * evil)
    assert bool(torch.isfinite(ours.value).all())
    assert ours.value.abs().max() < 1e30


def test_a_liar_cannot_make_stamps_overflow() -> None:
    ours = centre(Stamp(term=TERM_MAX, clock=CLOCK_MAX), seated=True)
    exchange(ours, ours.value + 1.0)
    assert ours.stamp == Stamp(term=TERM_MAX, clock=CLOCK_MAX)
    assert ours.stamp.next_term() == ours.stamp


def test_who_waits_in_vain_leaves_the_place_free() -> None:
    ours = centre(seated=True)

    async def wait_in_vain() -> None:
        await ours.reserve()
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ours.reserve(), 0.01)
            cancelled = asyncio.ensure_future(ours.reserve())
            await asyncio.sleep(0)
            cancelled.cancel()
        ours.free()
        await asyncio.wait_for(ours.reserve(), 0.01)
        ours.free()
        with pytest.raises(RuntimeError):
            ours.free()

    asyncio.run(wait_in_vain())


def test_the_value_is_shown_as_it_is_now_and_not_copied() -> None:
    ours = centre(seated=True)
    first = ours.shown("me")
    assert first is not None
    first.sending = 1  # a slow reader
    assert ours.shown("me") is first
    exchange(ours, ours.value + 1.0)
    second = ours.shown("me")
    assert second is not None
    assert (second.step, second.vector is ours.value, second.sending) == (1, True, 0)
    assert centre().shown("me") is None


# ---------------------------------------------------------------- two centres that meet


def test_who_steps_down_keeps_its_value_to_hand_it_over_where_something_was_learnt() -> None:
    async def main() -> None:
        ours, idle = centre(seated=True), centre(seated=True)
        await ours.reserve()
        ours.vectors.theirs.copy_(ours.vectors.mine + 1.0)
        ours.move("b", FACTS, FACTS)
        ours.free()
        learnt = ours.value
        for one in (ours, idle):
            one.look("a", {"z": member("z", Stamp(term=2, clock=9), seated=True)}, 0.0)
            assert not one.seated
        assert ours.given is not None
        assert torch.equal(ours.given.value, learnt)
        assert ours.given.stamp == Stamp(term=1, clock=1)
        assert idle.given is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("own", "theirs", "share"), [(30, 10, 0.25), (10, 30, 0.75), (0, 5, 1.0), (5, 0, 0.0), (0, 0, 0.0), (5, -3, 0.0)]
)
def test_a_centre_counts_by_the_exchanges_behind_it_since_the_split(own: int, theirs: int, share: float) -> None:
    async def main() -> None:
        heir = centre(Stamp(term=1, clock=100))
        heir.look("a", {"b": member("b", Stamp(term=1, clock=90))}, 0.0)
        heir.look("a", {"b": member("b", Stamp(term=1, clock=90))}, VACANT_ANNOUNCEMENTS * ANNOUNCE)
        assert heir.seated
        for _ in range(own):
            await heir.reserve()
            heir.vectors.theirs.copy_(heir.vectors.mine)
            heir.move("b", FACTS, FACTS)
            heir.free()
        given = Stamp(term=1, clock=100 + theirs)
        assert heir.inheritance(given) == share
        before, clock = heir.value, heir.stamp.clock
        await heir.reserve()
        heir.vectors.theirs.copy_(before + 4.0)
        assert heir.inherits("old", given)
        heir.take_in("old", given, share)
        heir.free()
        torch.testing.assert_close(heir.value, before + 4.0 * share)
        assert heir.stamp.clock == clock + (share > 0.0)
        assert not heir.inherits("old", given)  # once
        assert heir.inherits("other", given)
        assert not heir.inherits("other", Stamp(term=3))  # that one should stand
        again = Stamp(term=1, clock=100 + theirs + own)
        assert heir.inheritance(again) <= 0.5  # what was taken in counts as ours

    asyncio.run(main())


def test_whatever_a_centre_that_is_given_up_claims_memory_and_clock_stay_bounded() -> None:
    async def main() -> None:
        heir = centre(seated=True)
        for number in range(PARTNERS_MAX + 50):
            given = Stamp(term=1, clock=CLOCK_MAX)
            assert 0.0 <= heir.inheritance(given) <= 1.0
            await heir.reserve()
            heir.vectors.theirs.copy_(heir.vectors.mine)
            heir.take_in(f"p{number}", given, heir.inheritance(given))
            heir.free()
        known = [number for number in range(PARTNERS_MAX + 50) if not heir.inherits(f"p{number}", given)]
        assert known == list(range(50, PARTNERS_MAX + 50))  # the latest
        assert heir.stamp.clock == PARTNERS_MAX + 50

    asyncio.run(main())
