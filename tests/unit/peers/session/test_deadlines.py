"""How long to wait for a partner: estimates as TCP makes them, between a floor and a ceiling."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.health.trust import PARTNERS_MAX
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.session.deadlines import (
    FIRST_SECONDS_MIN,
    FIRST_TIMES,
    FLOOR_SECONDS,
    MISSES_MAX,
    PATIENCE_MAX_SECONDS,
    PATIENCE_MIN_SECONDS,
    UNKNOWN,
    Deadlines,
    StepTime,
    Wait,
    patience,
)

checked = settings(max_examples=100)
LIMITS = Limits()
seconds = st.floats(0.0, 1e6)
WAITS: tuple[Wait, ...] = ("opening", "answer", "word", "gap", "byte")
events = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(WAITS), st.none() | seconds), max_size=60)


def deadlines() -> Deadlines:
    return Deadlines(LIMITS.bounds)


def told(history: list[tuple[str, Wait, float | None]]) -> Deadlines:
    """After these waits, in order; None: missed."""
    made = deadlines()
    for partner, wait, took in history:
        if took is None:
            made.missed(partner, wait)
        else:
            made.saw(partner, wait, took)
    return made


def shown(took: float, times: int = 20, partner: str = "a") -> Deadlines:
    return told([(partner, wait, took) for wait in WAITS[:-1]] * times)


# ---------------------------------------------------------------- estimates


def test_the_first_value_counts_wholly_and_half_of_it_as_deviation() -> None:
    assert UNKNOWN.expected is None
    assert UNKNOWN.seen(2.0).expected == 2.0 + 4 * 1.0


def test_the_second_value_is_smoothed_as_rfc_6298_says() -> None:
    estimate = UNKNOWN.seen(1.0).seen(2.0)
    assert estimate.smoothed == pytest.approx(7 / 8 * 1.0 + 1 / 8 * 2.0)
    assert estimate.deviation == pytest.approx(3 / 4 * 0.5 + 1 / 4 * 1.0)


@given(st.lists(seconds, min_size=1, max_size=60))
@checked
def test_an_estimate_is_finite_and_stays_within_what_was_seen(values: list[float]) -> None:
    estimate = UNKNOWN
    for value in values:
        estimate = estimate.seen(value)
    assert estimate.smoothed is not None
    assert min(values) - 1e-6 <= estimate.smoothed <= max(values) + 1e-6
    assert 0.0 <= estimate.deviation <= max(values) + 1e-6
    assert estimate.expected is not None
    assert math.isfinite(estimate.expected)


@given(st.lists(seconds, min_size=1, max_size=30), st.floats(0.0, 1e3))
@checked
def test_who_was_slower_by_as_much_each_time_is_given_as_much_more(values: list[float], more: float) -> None:
    quick, slow = UNKNOWN, UNKNOWN
    for value in values:
        quick, slow = quick.seen(value), slow.seen(value + more)
    assert slow.expected is not None
    assert quick.expected is not None
    assert slow.expected >= quick.expected + more - 1e-3


def test_misses_are_counted_up_to_a_bound_and_forgotten_with_the_next_success() -> None:
    estimate = UNKNOWN.seen(1.0)
    for _ in range(100):
        estimate = estimate.missed()
    assert estimate.misses == MISSES_MAX
    assert estimate.seen(1.0).misses == 0


# ---------------------------------------------------------------- deadlines


def test_while_nothing_is_known_the_limits_are_the_deadlines() -> None:
    waits = deadlines().of("a", LIMITS.snapshot_seconds)
    assert {waits.opening(), waits.answer(), waits.word(), waits.gap()} == {LIMITS.idle_seconds}
    assert waits.whole(40_000) == LIMITS.idle_seconds + LIMITS.exchange_seconds + 2.0


@given(events, st.floats(0.0, 1e10), st.integers(0, 10**9))
@checked
def test_no_deadline_leaves_its_bounds_whatever_partners_do(
    history: list[tuple[str, Wait, float | None]], patient: float, nbytes: int
) -> None:
    waits = told(history).of("a", min(patient, PATIENCE_MAX_SECONDS))
    idle = LIMITS.idle_seconds
    for deadline in (waits.opening(), waits.word(), waits.word(nbytes), waits.gap()):
        assert FLOOR_SECONDS <= deadline <= idle
    assert FLOOR_SECONDS <= waits.answer() <= idle + PATIENCE_MAX_SECONDS
    most = LIMITS.exchange_seconds + nbytes / LIMITS.bytes_per_second_min
    for exclusive in (False, True):
        assert min(idle, most) <= waits.whole(nbytes, exclusive=exclusive) <= waits.answer() + most


def test_a_quick_partner_has_two_seconds() -> None:
    waits = shown(0.01).of("a", patience(100.0, 5.0))
    assert [waits.opening(), waits.answer(), waits.word(), waits.gap()] == [FLOOR_SECONDS] * 4


def test_the_asker_waits_longer_than_a_partner_with_long_steps_may() -> None:
    waits = shown(0.01).of("a", patience(1 / 8, 5.0))
    assert waits.answer() == patience(1 / 8, 5.0) + 1.0 == 25.0


def test_who_never_showed_anything_has_twice_what_all_have_and_a_little_more_to_be_dialled() -> None:
    waits = shown(0.01).of("new", patience(100.0, 5.0))
    assert waits.word() == 2.0 * FLOOR_SECONDS
    assert waits.opening() == FIRST_SECONDS_MIN
    assert waits.gap() == LIMITS.idle_seconds
    assert shown(1.0).of("new", 5.0).opening() == pytest.approx(FIRST_TIMES, rel=0.3)


def test_a_missed_deadline_doubles_the_next_until_one_is_kept() -> None:
    made, found = shown(0.01), []
    for _ in range(4):
        found.append(made.of("a", 1.0).gap())
        made.missed("a", "gap")
    assert found == [2.0, 4.0, 8.0, 10.0]
    made.saw("a", "gap", 0.01)
    assert made.of("a", 1.0).gap() == FLOOR_SECONDS
    assert shown(0.01, partner="b").of("b", 1.0).gap() == FLOOR_SECONDS


def test_the_deadlines_of_a_conversation_are_those_from_before_it() -> None:
    made = deadlines()
    waits = made.of("a", 1.0)
    waits.saw("gap", 0.001)
    assert waits.gap() == LIMITS.idle_seconds
    assert made.of("a", 1.0).gap() == FLOOR_SECONDS


def test_an_exchange_may_take_eight_times_what_its_bytes_took_and_at_least_ten_seconds() -> None:
    made = told([("a", "byte", 1e-6)] * 20)
    waits = made.of("a", 1.0)
    assert waits.whole(100_000_000) - waits.answer() == pytest.approx(800.0)
    assert waits.whole(1000) == waits.answer() + LIMITS.idle_seconds


def test_who_showed_nothing_may_not_keep_others_waiting_for_hours() -> None:
    nbytes = 800_000_000  # of which the slowest rate makes eleven hours
    made = told([("a", "byte", 2e-9)] * 20)
    for waits in (made.of("new", 1.0), made.of_stranger("new", 1.0)):
        assert waits.whole(nbytes, exclusive=True) - waits.answer() == pytest.approx(64 * 1.6)
        assert waits.whole(1000, exclusive=True) == waits.answer() + LIMITS.exchange_seconds
        assert waits.whole(nbytes) > 11 * 3600.0  # nobody waits for a copy that it takes
        waits.missed("byte")
    assert made.of("new", 1.0).whole(nbytes, exclusive=True) - made.of("new", 1.0).answer() == pytest.approx(128 * 1.6)
    assert made.of_stranger("other", 1.0).whole(nbytes, exclusive=True) == made.of("b", 1.0).whole(
        nbytes, exclusive=True
    )


def test_what_a_stranger_shows_is_not_kept() -> None:
    made = deadlines()
    made.of_stranger("new", 1.0).saw("gap", 0.001)
    assert made.of_all == {}
    assert made.known("new") == {}


def test_a_last_word_waits_for_a_vector_that_is_still_on_its_way() -> None:
    waits = told([("a", "byte", 1e-5), ("a", "word", 0.01)] * 60).of("a", 1.0)
    assert waits.word() == FLOOR_SECONDS
    assert waits.word(500_000) == pytest.approx(5.0, rel=0.01)
    unknown = told([("a", "word", 0.01)] * 20).of("a", 1.0)
    assert unknown.word(500_000) == LIMITS.idle_seconds


def test_bytes_have_the_time_that_they_take_on_a_thin_link() -> None:
    unknown = deadlines().of("a", 1.0)
    assert unknown.moving(0) == 0.0
    assert unknown.moving(200_000) == pytest.approx(10.0)  # at the slowest rate
    thin, fast = (told([("a", "byte", seconds)]).of("a", 1.0) for seconds in (1e-3, 1e-8))
    assert thin.moving(200_000) == pytest.approx(10.0)
    assert fast.moving(200_000) < 0.1


def test_the_first_round_trip_is_known_at_once_and_a_later_one_in_the_next_conversation() -> None:
    made = deadlines()
    waits = made.of("a", 1.0)
    assert waits.rtt_seconds is None
    waits.saw("rtt", 0.3)
    assert waits.rtt_seconds == 0.3
    later = made.of("a", 1.0)
    later.saw("rtt", 0.1)
    assert later.rtt_seconds == 0.3
    assert made.of("a", 1.0).rtt_seconds == 0.1


def test_memory_is_bounded_and_the_latest_stay() -> None:
    made = deadlines()
    for i in range(PARTNERS_MAX + 50):
        made.saw(f"p{i}", "gap", 0.1)
    assert sum(bool(made.known(f"p{i}")) for i in range(PARTNERS_MAX + 50)) == PARTNERS_MAX
    assert made.known(f"p{PARTNERS_MAX + 49}")
    assert not made.known("p0")


# ---------------------------------------------------------------- our own steps


@pytest.mark.parametrize(
    ("speed", "waited"),
    [(None, 5.0), (0.0, 5.0), (1000.0, PATIENCE_MIN_SECONDS), (0.5, 6.0), (1 / 8, 24.0), (0.01, PATIENCE_MAX_SECONDS)],
)
def test_a_peer_waits_three_of_its_steps(speed: float | None, waited: float) -> None:
    assert patience(speed, 5.0) == waited


@given(st.lists(st.floats(0.001, 100.0), max_size=20), st.none() | st.floats(0.0, 1e4))
@checked
def test_who_is_asked_never_waits_longer_than_its_record_lets_askers_expect(
    steps: list[float], speed: float | None
) -> None:
    own, now = StepTime(), 0.0
    for step in steps:
        now += step
        own.ended(now)
    assert own.patience(speed, 5.0) <= patience(speed, 5.0)


def test_short_steps_are_timed_together_and_a_long_one_alone() -> None:
    own, now = StepTime(), 0.0
    own.ended(now)
    for _ in range(100):
        now += 0.004
        own.ended(now)
    assert own.seconds == pytest.approx(0.004)
    own.ended(now + 8.0)
    assert own.seconds == pytest.approx(0.004 * 7 / 8 + 8.0 / 8)


def test_who_stopped_training_does_not_wait_longer_and_longer() -> None:
    own = StepTime()
    for step in range(50):
        own.ended(0.1 * step)
    assert own.patience(0.02, 5.0) == PATIENCE_MIN_SECONDS  # its mean speed fell, its steps were short
