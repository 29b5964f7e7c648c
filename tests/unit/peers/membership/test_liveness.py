"""Who is chosen, what was answered, where the two threads meet, and what is remembered of it."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from p2p_elastic.health.trust import CHANCE_MIN, PARTNERS_MAX, Verdict
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.journal import FAILURES_KEPT, PARTNERS_KEPT, Entry, Journal
from p2p_elastic.peers.exchange.mailbox import Mailbox, Move, Settled, State
from p2p_elastic.peers.exchange.pacing import Times
from p2p_elastic.peers.membership.liveness import Member, Members, liveness, observe, own_weight, suspected
from p2p_elastic.peers.membership.selection import (
    FAR,
    SLOW_CHANCE_MIN,
    UNHEARD_SHARE,
    USUAL_SECONDS_MIN,
    chance_by_time,
    choose_partner,
    usual_time,
)
from p2p_elastic.peers.session.commit_log import Key, Ledger
from p2p_elastic.peers.session.deadlines import Estimate
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.status.schema import FAILED_LATELY_SECONDS, PartnerStatus
from p2p_elastic.testing.virtual_time import run_virtual

checked = settings(max_examples=60)


def record(peer: str, sequence: int = 1, *, step: int = 0, left: bool = False) -> PeerRecord:
    return PeerRecord(peer=peer, run="run", schema_hash="0" * 32, sequence=sequence, step=step, left=left)


# ---------------------------------------------------------------- members

ANNOUNCE = 5.0


def states(members: Members, now: float = 1.0) -> dict[str, str]:
    return {peer: liveness(member, now, ANNOUNCE) for peer, member in members.items()}


def choose(members: Members, rng: random.Random, now: float = 0.0, **options: Any) -> PeerRecord | None:
    return choose_partner(members, rng, now=now, announce_seconds=ANNOUNCE, **options)


def test_who_is_listed_is_a_member_since_now() -> None:
    members = observe({}, [record("a"), record("b")], now=5.0)
    assert members == {"a": Member(record("a"), 5.0), "b": Member(record("b"), 5.0)}


def test_who_said_goodbye_is_gone_at_once() -> None:
    before = observe({}, [record("b"), record("c")], now=0.0)
    assert list(observe(before, [record("b"), record("c", 2, left=True)], now=1.0)) == ["b"]


def test_a_goodbye_of_somebody_unknown_makes_no_member() -> None:
    assert observe({}, [record("a", left=True)], now=0.0) == {}


def test_a_new_record_replaces_the_old_one_and_an_unchanged_one_keeps_its_age() -> None:
    before = observe({}, [record("a", 3), record("b", 3)], now=1.0)
    after = observe(before, [record("a", 4, step=9), record("b", 3)], now=2.0)
    interval = Estimate(1.0, 0.5)
    assert after == {"a": Member(record("a", 4, step=9), 2.0, interval=interval), "b": Member(record("b", 3), 1.0)}


@pytest.mark.parametrize("replayed", [record("a", 4, step=1), record("a", 4, left=True)], ids=["record", "goodbye"])
def test_a_replay_of_an_older_record_changes_nothing(replayed: PeerRecord) -> None:
    before = observe({}, [record("a", 5, step=9)], now=1.0)
    assert observe(before, [replayed], now=2.0) == before


def test_a_suspect_stays_one_until_it_announces_itself_anew() -> None:
    members = suspected(observe({}, [record("a"), record("b")], now=0.0), "a")
    assert states(members) == {"a": "suspect", "b": "alive"}
    assert states(observe(members, [record("a"), record("b")], now=1.0))["a"] == "suspect"
    assert states(observe(members, [record("a", 2), record("b")], now=1.0))["a"] == "alive"


def test_suspecting_somebody_who_left_meanwhile_changes_nothing() -> None:
    members = observe({}, [record("a")], now=0.0)
    assert suspected(members, "b") == members


def test_suspecting_does_not_change_what_others_hold() -> None:
    members = observe({}, [record("a")], now=0.0)
    suspected(members, "a")
    assert states(members) == {"a": "alive"}


def test_partners_are_chosen_uniformly_among_the_live_ones_not_yet_asked() -> None:
    members = suspected(observe({}, map(record, "abcde"), now=0.0), "b")
    rng, chosen = random.Random(1), Counter[str]()
    for _ in range(3000):
        partner = choose(members, rng, excluding={"d"})
        assert partner is not None
        chosen[partner.peer] += 1
    assert sorted(chosen) == ["a", "c", "e"]
    assert all(n == pytest.approx(1000, rel=0.1) for n in chosen.values())


def test_the_choice_follows_from_the_seed_and_not_from_the_order_of_the_records() -> None:
    there, back = (observe({}, map(record, names), now=0.0) for names in ("abcde", "edcba"))
    first, second = random.Random(4), random.Random(4)
    assert [choose(there, first) for _ in range(20)] == [choose(back, second) for _ in range(20)]


def chosen(members: Members, trust: dict[str, float] | None = None, times: int = 4000) -> Counter[str]:
    rng, counted = random.Random(2), Counter[str]()
    for _ in range(times):
        partner = choose(members, rng, trust=trust)
        counted[partner.peer if partner is not None else ""] += 1
    return counted


def weighing(peer: str, weight: float = 1.0, *, drained: bool = False) -> PeerRecord:
    return record(peer).model_copy(update={"weight": weight, "drained": drained})


def test_who_counts_less_or_is_trusted_less_is_chosen_less_often_but_now_and_then() -> None:
    members = observe({}, [weighing("a"), weighing("b", 0.0), weighing("c"), weighing("d", 0.5)], now=0.0)
    counted = chosen(members, trust={"c": 0.0, "d": 0.75, "gone": 0.0})
    whole = counted["a"]
    assert counted["b"] == pytest.approx(CHANCE_MIN * whole, rel=0.2)
    assert counted["c"] == pytest.approx(CHANCE_MIN * whole, rel=0.2)
    assert counted["d"] == pytest.approx((CHANCE_MIN + 0.5 * (1 - CHANCE_MIN)) * whole, rel=0.2)


def test_who_is_drained_is_not_chosen_even_where_nobody_else_is_left() -> None:
    members = observe({}, [weighing("a", drained=True), weighing("b")], now=0.0)
    assert set(chosen(members, times=50)) == {"b"}
    assert set(chosen({"a": members["a"]}, times=5)) == {""}


def test_where_nobody_counts_all_are_chosen_alike() -> None:
    counted = chosen(observe({}, [weighing(peer, 0.0) for peer in "abc"], now=0.0), times=3000)
    assert all(n == pytest.approx(1000, rel=0.1) for n in counted.values())


def test_nobody_is_chosen_where_nobody_is_left() -> None:
    members = observe({}, [record("a"), record("b")], now=0.0)
    assert choose({}, random.Random(0)) is None
    assert choose(members, random.Random(0), excluding=("a", "b")) is None
    assert choose(suspected(members, "a"), random.Random(0), excluding=("b",)) is None


@pytest.mark.parametrize(
    ("newcomer", "step", "weight"), [(True, 10, 0.0), (True, 20, 1.0), (True, 30, 1.0), (False, 10, 1.0)]
)
def test_a_newcomer_does_not_count_while_anybody_is_ahead_of_it(newcomer: bool, step: int, weight: float) -> None:
    members = observe({}, [record("a", step=5), record("b", step=20)], now=0.0)
    assert own_weight(newcomer, step, members) == weight


def test_a_newcomer_that_is_alone_counts() -> None:
    assert own_weight(True, 0, {}) == 1.0


# ---------------------------------------------------------------- ledger


def key(number: int, partner: str = "alice") -> Key:
    return Key(partner, f"{number:032x}")


def test_an_exchange_is_begun_once() -> None:
    async def main() -> None:
        ledger = Ledger(8)
        assert ledger.begin(key(1))
        assert not ledger.begin(key(1))
        ledger.end(key(1), committed=True)
        assert not ledger.begin(key(1))
        assert ledger.begin(key(2))
        assert ledger.begin(key(1, "bob"))  # ids are chosen by initiators: another one's is another exchange

    run_virtual(main())


@pytest.mark.parametrize("committed", [True, False])
def test_how_an_exchange_ended_is_answered_and_the_first_word_stands(committed: bool) -> None:
    async def main() -> None:
        ledger = Ledger(8)
        ledger.begin(key(1))
        ledger.end(key(1), committed=committed)
        ledger.end(key(1), committed=not committed)
        assert await ledger.verdict(key(1)) is committed
        assert await ledger.verdict(key(1)) is committed

    run_virtual(main())


def test_who_asks_while_the_exchange_is_under_way_waits_for_its_end() -> None:
    async def main() -> None:
        ledger = Ledger(8)
        ledger.begin(key(1))
        given_up, patient = (asyncio.ensure_future(ledger.verdict(key(1))) for _ in range(2))
        await asyncio.sleep(1.0)
        assert not patient.done()
        given_up.cancel()
        await asyncio.sleep(1.0)
        ledger.end(key(1), committed=True)
        assert await patient

    run_virtual(main())


def test_an_unknown_exchange_did_not_take_place_and_cannot_any_more() -> None:
    async def main() -> None:
        ledger = Ledger(8)
        assert not await ledger.verdict(key(1))
        assert not ledger.begin(key(1))

    run_virtual(main())


def test_ending_what_was_never_begun_is_harmless() -> None:
    async def main() -> None:
        ledger = Ledger(8)
        ledger.end(key(1), committed=True)
        assert not await ledger.verdict(key(1))

    run_virtual(main())


def test_the_oldest_exchanges_are_forgotten_first() -> None:
    async def main() -> None:
        ledger = Ledger(3)
        for number in range(5):
            ledger.begin(key(number))
            ledger.end(key(number), committed=True)
        assert [await ledger.verdict(key(number)) for number in (2, 3, 4)] == [True, True, True]
        assert not await ledger.verdict(key(0))

    run_virtual(main())


def test_an_exchange_under_way_is_not_forgotten_whatever_strangers_ask_meanwhile() -> None:
    async def main() -> None:
        ledger = Ledger(3)
        ledger.begin(key(0))
        for number in range(10):
            assert not await ledger.verdict(key(number, "mallory"))
        ledger.end(key(0), committed=True)
        assert await ledger.verdict(key(0))

    run_virtual(main())


# ---------------------------------------------------------------- mailbox


class Side:
    """A mailbox of a model with the parameters [0, 0], used from one thread."""

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1)
        self.mailbox = Mailbox(ParameterVector(self.model))
        self.published: list[bool] = []
        self.set(0.0)

    def set(self, value: float) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(value)

    def parameters(self) -> list[float]:
        return [float(parameter.detach()) for parameter in self.model.parameters()]

    def step(self, number: int, *, due: bool = False, settle: bool = True) -> int | None:
        return self.mailbox.between_steps(number, due=due, settle=settle, published=self.published.append)

    def deliver(self, move: float) -> None:
        self.mailbox.deliver(Move("x", torch.full((2,), move), 1.0))


def test_a_snapshot_is_taken_at_the_step_after_it_was_asked_for() -> None:
    side = Side()
    side.set(3.0)
    assert side.mailbox.request()
    assert side.mailbox.state is State.WANTED
    assert side.published == []
    assert side.step(7) is None
    assert (side.mailbox.mine.tolist(), side.mailbox.snapshot_step) == ([3.0, 3.0], 7)
    assert (side.mailbox.state, side.published) == (State.READY, [False])


@pytest.mark.parametrize("work", ["request", "deliver", "show"])
def test_who_waits_is_woken_by_what_the_network_wants(work: str) -> None:
    side = Side()
    if work == "deliver":
        side.step(1, due=True)
    woken = threading.Thread(target=side.mailbox.wait, args=(60.0,))
    woken.start()
    if work == "request":
        side.mailbox.request()
    elif work == "deliver":
        side.deliver(0.5)
    else:
        side.mailbox.show(torch.empty(2), lambda step: None)
    woken.join(30.0)
    assert not woken.is_alive()
    side.mailbox.wait(60.0)  # there still is something to do


def test_a_due_step_takes_a_snapshot_to_initiate_with() -> None:
    side = Side()
    side.step(4, due=True)
    assert (side.mailbox.state, side.published, side.mailbox.snapshot_step) == (State.READY, [True], 4)


def test_a_snapshot_that_the_network_wanted_goes_before_one_that_is_due() -> None:
    side = Side()
    side.mailbox.request()
    side.step(4, due=True)
    assert side.published == [False]


def test_a_step_that_nobody_wants_a_snapshot_of_takes_none() -> None:
    side = Side()
    assert side.step(1) is None
    assert (side.mailbox.state, side.published) == (State.FREE, [])


def test_a_snapshot_under_way_stands_still_however_many_steps_go_by() -> None:
    side = Side()
    side.step(1, due=True)
    side.set(9.0)
    for number in range(2, 6):
        side.step(number, due=True)
    assert (side.mailbox.mine.tolist(), side.mailbox.snapshot_step, side.published) == ([0.0, 0.0], 1, [True])


def test_a_move_is_added_once_at_the_next_step_and_says_how_old_it_is() -> None:
    side = Side()
    side.step(10, due=True)
    side.set(1.0)
    side.deliver(0.5)
    assert side.parameters() == [1.0, 1.0]
    assert side.step(13) == Settled("x", 3)
    assert side.parameters() == [1.5, 1.5]
    assert side.step(14) is None
    assert (side.parameters(), side.mailbox.state) == ([1.5, 1.5], State.FREE)


def test_a_due_step_that_adds_a_move_takes_the_next_snapshot_with_it() -> None:
    side = Side()
    side.step(1, due=True)
    side.deliver(2.0)
    assert side.step(2, due=True) == Settled("x", 1)
    assert (side.mailbox.mine.tolist(), side.mailbox.snapshot_step) == ([2.0, 2.0], 2)
    assert side.published == [True, True]


def test_during_an_evaluation_snapshots_are_taken_and_parameters_stand_still() -> None:
    side = Side()
    side.step(1, due=True)
    side.deliver(2.0)
    assert side.step(1, settle=False) is None
    assert (side.parameters(), side.mailbox.state) == ([0.0, 0.0], State.DELIVERED)
    side.step(2)
    side.mailbox.request()
    side.step(2, settle=False)
    assert (side.parameters(), side.mailbox.state) == ([2.0, 2.0], State.READY)


def test_nobody_else_is_served_while_an_exchange_is_under_way() -> None:
    side = Side()
    assert side.mailbox.request()
    assert not side.mailbox.request()
    side.step(1)
    assert not side.mailbox.request()
    side.deliver(1.0)
    assert not side.mailbox.request()
    side.step(2)
    assert side.mailbox.request()


def test_an_exchange_given_up_leaves_everything_as_it_was() -> None:
    side = Side()
    side.mailbox.request()
    side.mailbox.release()
    side.step(1)
    side.step(2, due=True)
    side.mailbox.release()
    side.step(3)
    assert (side.parameters(), side.published, side.mailbox.state) == ([0.0, 0.0], [True], State.FREE)


def test_a_move_that_was_delivered_cannot_be_given_up() -> None:
    side = Side()
    side.step(1, due=True)
    side.deliver(1.0)
    side.mailbox.release()
    side.step(2)
    assert side.parameters() == [1.0, 1.0]


def test_a_move_without_a_snapshot_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError, match="a move delivered while free"):
        Side().mailbox.deliver(Move("x", torch.zeros(2), 1.0))


ACTIONS = st.sampled_from(["request", "release", "deliver", "step", "due", "evaluate"])


@given(actions=st.lists(ACTIONS, max_size=40))
@checked
def test_in_whatever_order_both_threads_act_each_delivered_move_is_added_once(actions: list[str]) -> None:
    side, number, delivered = Side(), 0, 0
    for action in actions:
        if action == "request":
            side.mailbox.request()
        elif action == "release":
            side.mailbox.release()
        elif action == "deliver":
            if side.mailbox.state is State.READY:
                side.deliver(1.0)
                delivered += 1
        else:
            number += 1
            side.step(number, due=action == "due", settle=action != "evaluate")
    side.step(number + 1)
    assert side.parameters() == [float(delivered)] * 2


def test_between_two_threads_no_move_is_lost_and_no_snapshot_is_torn() -> None:
    model = nn.Linear(100, 99, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    mailbox = Mailbox(ParameterVector(model))
    exchanges, patience = 60, 30.0
    published, finished = threading.Event(), threading.Event()
    torn: list[float] = []

    def network() -> None:
        for _ in range(exchanges):
            while not mailbox.request():
                freed.wait(patience)
                freed.clear()
            assert published.wait(patience)
            published.clear()
            mailbox.arrive()
            if mailbox.mine.min() != mailbox.mine.max():
                torn.append(float(mailbox.mine.max()))
            mailbox.deliver(Move("x", torch.full((100 * 99,), 1000.0), 1.0))

    def guarded() -> None:
        try:
            network()
        finally:
            finished.set()

    freed = threading.Event()
    thread = threading.Thread(target=guarded)
    thread.start()
    steps, settled = 0, 0
    while not (finished.is_set() and mailbox.state is not State.DELIVERED):
        with torch.no_grad():
            model.weight.add_(1.0)
        steps += 1
        if mailbox.between_steps(steps, due=False, settle=True, published=lambda due: published.set()) is not None:
            settled += 1
            freed.set()
    thread.join(patience)
    assert not thread.is_alive()
    assert (settled, torn) == (exchanges, [])
    assert bool((model.weight == steps + 1000.0 * exchanges).all())


# ---------------------------------------------------------------- journal


def entry(number: int, outcome: Outcome = Outcome.COMPLETED, reason: str | None = None) -> Entry:
    return Entry(
        id=f"x{number}",
        partner="alice",
        initiated=True,
        outcome=outcome,
        reason=reason,
        step=number,
        seconds=0.5,
        bytes_sent=10,
        bytes_received=20,
        distance=1.5,
        ended_at=float(number),
    )


def test_failures_with_members_that_never_answered_say_nothing_of_this_peer() -> None:
    journal = Journal()
    for number in range(50):
        journal.enter(entry(number, Outcome.UNREACHABLE)._replace(partner=f"nobody {number}"))
    journal.enter(entry(50, Outcome.DECLINED, "busy"))
    journal.enter(entry(51, Outcome.TIMEOUT))
    assert [(one.partner, one.outcome) for one in journal.recent(60.0)] == [
        ("alice", Outcome.TIMEOUT),
        ("alice", Outcome.DECLINED),
    ]


# ---------------------------------------------------------------- slow partners

times = st.floats(0.0, 1e4)


def test_usual_is_the_median_and_never_less_than_what_nobody_minds() -> None:
    assert usual_time([]) == usual_time([0.001, 0.01, 1.0]) == USUAL_SECONDS_MIN
    assert usual_time([2.0, 3.0, 100.0]) == 3.0
    assert usual_time([2.0, 100.0]) == 2.0  # of two, one is slow, not the other quick
    assert usual_time([2.0], interval=60.0) == 60.0 / FAR  # over when our next one is due


def test_who_takes_far_longer_than_usual_is_chosen_in_proportion_less_often_but_never_not_at_all() -> None:
    assert chance_by_time(0.0, 1.0) == chance_by_time(FAR, 1.0) == 1.0
    assert chance_by_time(10.0, 1.0) == pytest.approx(0.1)
    assert chance_by_time(1e9, 1.0) == SLOW_CHANCE_MIN


@given(st.lists(times, min_size=1, max_size=30), st.floats(0.0, 1e3))
@checked
def test_at_least_half_of_all_partners_are_not_slow(seconds: list[float], interval: float) -> None:
    usual = usual_time(seconds, interval)
    chances = [chance_by_time(one, usual) for one in seconds]
    assert sum(chance == 1.0 for chance in chances) >= len(seconds) / 2
    assert all(SLOW_CHANCE_MIN <= chance <= 1.0 for chance in chances)
    ranked = [chance for _, chance in sorted(zip(seconds, chances, strict=True), key=lambda pair: pair[0])]
    assert ranked == sorted(chances, reverse=True)  # the slower, the less often


@pytest.mark.parametrize("receives", [True, False])
def test_slow_partners_are_chosen_as_often_as_their_chance_says(receives: bool) -> None:
    members, rng = observe({}, [record(p) for p in "abs"], now=0.0), random.Random(1)
    found = Counter(
        chosen.peer
        for _ in range(5000)
        if (chosen := choose(members, rng, by_time={"a": 1.0, "s": 0.1}, receives=receives)) is not None
    )
    assert found["s"] / found.total() == pytest.approx(0.1 / 2.1, rel=0.2)
    assert found["a"] == pytest.approx(found["b"], rel=0.1)


def test_where_others_were_asked_in_vain_it_seldom_comes_to_the_slow_ones() -> None:
    members, rng = observe({}, [record(p) for p in "as"], now=0.0), random.Random(1)
    found = [choose(members, rng, excluding={"a"}, by_time={"s": 0.1}) for _ in range(2000)]
    assert sum(one is not None for one in found) == pytest.approx(200, rel=0.2)


def test_who_is_alone_there_is_chosen_however_slow() -> None:
    assert choose(observe({}, [record("s")], now=0.0), random.Random(0), by_time={"s": 0.001}) is not None


def test_times_that_are_usual_leave_the_choice_as_it_was() -> None:
    members = observe({}, [record(p) for p in "abcd"], now=0.0)
    for excluding in (set[str](), {"a"}):
        plain, timed = random.Random(7), random.Random(7)
        for _ in range(50):
            others = choose(members, timed, excluding=excluding, by_time=dict.fromkeys("abcd", 1.0))
            assert choose(members, plain, excluding=excluding) == others


def test_a_link_that_got_better_is_soon_known_to_be() -> None:
    seen = Times()
    seen.saw("a", 60.0, whole=True)
    assert seen.seconds == {"a": 60.0}
    for _ in range(6):
        seen.saw("a", 0.1, whole=True)
    assert seen.seconds["a"] < 1.5


def test_an_exchange_that_was_cut_short_only_shows_how_long_it_takes_at_least() -> None:
    seen = Times()
    seen.saw("a", 4.0, whole=True)
    seen.saw("a", 0.1, whole=False)
    assert seen.seconds["a"] == 4.0
    seen.saw("a", 60.0, whole=False)
    assert seen.seconds["a"] == 32.0


def test_times_are_kept_of_the_latest_thousand_partners() -> None:
    seen = Times()
    for number in range(PARTNERS_MAX + 5):
        seen.saw(str(number), 1.0, whole=True)
    assert (len(seen.seconds), "4" in seen.seconds, "5" in seen.seconds) == (PARTNERS_MAX, False, True)


def test_exchanges_are_counted_by_outcome_and_declines_by_reason() -> None:
    journal = Journal()
    journal.enter(entry(1))
    journal.enter(entry(2, Outcome.DECLINED, "busy"))
    journal.enter(entry(3, Outcome.DECLINED, "busy"))
    journal.enter(entry(4, Outcome.DECLINED))
    journal.enter(entry(5, Outcome.HALF, "silence"))
    totals = journal.totals(now=10.0)
    assert totals.by_outcome == {Outcome.COMPLETED: 1, Outcome.DECLINED: 3, Outcome.HALF: 1}
    assert totals.declined_by_partner == {"busy": 2, "unknown": 1}
    assert (totals.bytes_sent, totals.bytes_received) == (50, 100)


def test_completed_exchanges_are_counted_by_how_long_they_took() -> None:
    journal = Journal()
    for number, seconds in enumerate((0.01, 0.011, 20.0, 1000.0)):
        journal.enter(entry(number)._replace(seconds=seconds))
    journal.enter(entry(4, Outcome.TIMEOUT)._replace(seconds=2.0))
    took = journal.totals(now=10.0).durations
    assert took is not None
    assert dict(zip(took.bounds, took.counts, strict=True)) == {
        **{0.01: 1, 0.025: 2, 0.05: 2, 0.1: 2, 0.25: 2, 0.5: 2, 1.0: 2, 2.5: 2, 5.0: 2, 10.0: 2},
        **{30.0: 3, 60.0: 3, 300.0: 3},
    }
    assert (took.count, took.seconds) == (4, pytest.approx(1020.021))


def test_the_newest_exchange_comes_first_with_its_age_and_the_staleness_of_its_move() -> None:
    journal = Journal()
    journal.enter(entry(1))
    journal.enter(entry(2))
    journal.settled("x1", 4)
    newest, older = journal.last(now=10.0)
    assert (newest.id, newest.age_seconds, newest.staleness) == ("x2", 8.0, None)
    assert (older.id, older.age_seconds, older.staleness) == ("x1", 9.0, 4)
    assert (older.distance, older.seconds, older.step) == (1.5, 0.5, 1)


def test_a_move_may_be_added_before_its_exchange_is_written_down() -> None:
    journal = Journal()
    journal.settled("x1", 2)
    journal.enter(entry(1))
    assert journal.last(now=1.0)[0].staleness == 2


def test_however_long_a_run_lasts_only_the_last_exchanges_are_kept_and_all_are_counted() -> None:
    journal = Journal(kept=5)
    for number in range(2000):
        journal.enter(entry(number))
        journal.settled(f"x{number}", number)
    last = journal.last(now=2000.0)
    assert [one.id for one in last] == ["x1999", "x1998", "x1997", "x1996", "x1995"]
    assert [one.staleness for one in last] == [1999, 1998, 1997, 1996, 1995]
    assert journal.totals(now=10.0).by_outcome == {Outcome.COMPLETED: 2000}


def test_failures_of_the_last_minutes_are_counted_apart() -> None:
    journal = Journal()
    for number, outcome in enumerate((Outcome.TIMEOUT, Outcome.COMPLETED, Outcome.DECLINED, Outcome.HALF)):
        journal.enter(entry(number, outcome))
    journal.enter(entry(4, Outcome.BROKEN)._replace(partner="bob"))
    counts = [
        journal.totals(now).failed_lately for now in (5.0, FAILED_LATELY_SECONDS + 0.5, FAILED_LATELY_SECONDS + 5.0)
    ]
    assert counts == [3, 2, 0]
    assert {p.peer: p.failed_lately for p in journal.partners(5.0, {})} == {"alice": 2, "bob": 1}
    assert {p.peer: p.failed_lately for p in journal.partners(FAILED_LATELY_SECONDS + 3.5, {})} == {
        "alice": 0,
        "bob": 1,
    }
    assert journal.totals(FAILED_LATELY_SECONDS + 5.0).by_outcome[Outcome.HALF] == 1


def test_however_many_fail_only_so_many_are_remembered() -> None:
    journal = Journal()
    for _ in range(FAILURES_KEPT + 5):
        journal.enter(entry(1, Outcome.BROKEN))
    assert journal.totals(now=2.0).failed_lately == FAILURES_KEPT


def test_totals_once_taken_do_not_change() -> None:
    journal = Journal()
    journal.declined_by_us["busy"] += 1
    journal.skipped["no partner"] += 1
    totals = journal.totals(now=10.0)
    journal.declined_by_us["busy"] += 1
    journal.enter(entry(1))
    assert (totals.declined_by_us, totals.skipped, totals.by_outcome) == ({"busy": 1}, {"no partner": 1}, {})


def met(number: int, partner: str, outcome: Outcome = Outcome.COMPLETED, **changes: Any) -> Entry:
    return entry(number, outcome)._replace(partner=partner, **changes)


def test_each_partner_has_its_counts_its_last_exchange_and_what_went_wrong_last() -> None:
    journal = Journal()
    journal.enter(met(1, "a"), weight=0.5)
    journal.enter(met(2, "b", Outcome.TIMEOUT, reason="silence", distance=None))
    journal.enter(met(3, "a", Outcome.BROKEN, reason="cut", distance=None))
    journal.enter(met(4, "a", Outcome.DECLINED, reason="busy", distance=None))
    verdict = Verdict(0.25, 1.0, ("worse",), 0.7, 1.5)
    latest, older = journal.partners(now=10.0, verdicts={"a": verdict, "never met": verdict})
    assert (latest.peer, latest.weight, latest.distance) == ("a", 0.5, 1.5)
    assert latest.exchanges == {Outcome.COMPLETED: 1, Outcome.BROKEN: 1, Outcome.DECLINED: 1}
    assert latest.last is not None
    assert (latest.last.id, latest.last.age_seconds) == ("x4", 6.0)
    assert latest.last_error == "broken: cut"  # a decline is an answer
    assert (latest.trust, latest.reasons, latest.score, latest.excess) == (0.25, ("worse",), 0.7, 1.5)
    assert (older.peer, older.weight, older.trust, older.last_error) == ("b", None, 1.0, "timeout: silence")
    assert journal.latest(3) == ("a",)  # with b nothing completed


def test_of_many_partners_the_latest_are_remembered() -> None:
    journal = Journal()
    for number in range(3000):
        journal.enter(met(number, f"p{number % 1500}"))
    partners = journal.partners(now=0.0, verdicts={})
    assert [p.peer for p in partners] == [f"p{n}" for n in range(1499, 1499 - PARTNERS_KEPT, -1)]
    assert journal.latest(2) == ("p1499", "p1498")


def test_who_reads_the_partners_while_exchanges_end_sees_them_as_they_were() -> None:
    journal = Journal()
    journal.enter(met(1, "a"))
    seen = journal.met
    journal.enter(met(2, "a", Outcome.HALF))
    assert seen["a"].outcomes == {Outcome.COMPLETED: 1}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_json_does_not_have_are_null_there(number: float) -> None:
    journal = Journal()
    journal.enter(met(1, "a", distance=number))
    verdict = Verdict(1.0, 1.0, (), number, number)
    partner = journal.partners(now=2.0, verdicts={"a": verdict})[0]
    read = json.loads(partner.model_dump_json(), parse_constant=lambda name: pytest.fail(name))
    assert (read["score"], read["excess"], read["distance"], read["last"]["distance"]) == (None,) * 4
    assert PartnerStatus.model_validate(read).trust == 1.0


# ---------------------------------------------------------------- members that are announced and not there


@pytest.mark.parametrize("share", [UNHEARD_SHARE, 0.0])
@pytest.mark.parametrize("receives", [True, False])
def test_all_that_never_answered_are_chosen_in_a_small_share_of_the_cases(share: float, receives: bool) -> None:
    members = observe({}, map(record, ["real", "true", *(f"ghost{i}" for i in range(50))]), now=0.0)
    rng, real = random.Random(1), {"real", "true"}
    options = {"answered": real.__contains__, "unheard": share, "receives": receives}
    chosen = Counter(found.peer in real for _ in range(4000) if (found := choose(members, rng, **options)))
    assert chosen[False] / 4000 == pytest.approx(share, abs=0.015)


def test_few_that_never_answered_are_chosen_no_more_often_than_others_and_all_alike_if_nobody_did() -> None:
    members = observe({}, map(record, map(str, range(100))), now=0.0)
    rng = random.Random(1)
    few = Counter(c.peer for _ in range(3000) if (c := choose(members, rng, answered=lambda peer: peer not in "01")))
    assert few["0"] + few["1"] == pytest.approx(60, rel=0.4)
    alike = Counter(c.peer for _ in range(1500) if (c := choose(members, rng, answered=lambda _: False, unheard=0.0)))
    assert len(alike) == 100


def test_while_those_that_answer_are_busy_nobody_is_asked_rather_than_one_that_never_did() -> None:
    members = observe({}, map(record, ["real", *(f"ghost{i}" for i in range(50))]), now=0.0)
    rng = random.Random(1)
    options = {"answered": "real".__eq__, "excluding": {"real"}}
    assert all(choose(members, rng, **options, unheard=0.0) is None for _ in range(200))
    asked = sum(choose(members, rng, **options) is not None for _ in range(2000))
    assert asked / 2000 == pytest.approx(UNHEARD_SHARE, abs=0.02)
