"""A budget of bytes and time: however exchanges come, the mean stays within it."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.errors import ConfigError
from p2p_elastic.rate_limit import BURST_SECONDS, DEBT_EXCHANGES, MEAN_SECONDS, Budget, parse_bandwidth, used
from p2p_elastic.status.schema import PaceStatus

checked = settings(max_examples=200)
exchanges = st.lists(st.tuples(st.floats(0.0, 300.0), st.integers(0, 10**9), st.floats(0.0, 60.0)), max_size=50)
"""Of each: how long after the one before it is wanted (seconds), its bytes, and how long it takes (seconds)."""


# ---------------------------------------------------------------- what the option says


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [
        ("500kB/s", 500e3),
        ("2MB/s", 2e6),
        ("4Mbit/s", 500e3),
        ("1Gbit/s", 125e6),
        ("1.5 MB/s", 1.5e6),
        ("800bit/s", 100.0),
        ("250000", 250e3),
        ("250000.0", 250e3),  # a number in a TOML file
        ("1", 1.0),
        ("unlimited", None),
    ],
)
def test_a_bandwidth_is_read_as_people_write_it(text: str, bytes_per_second: float | None) -> None:
    assert parse_bandwidth(text) == bytes_per_second


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.5", "-1", "fast", "500kB", "500k", "500kb/s", "500KB/s", "4Mbps", "1e6", "inf", "nan", "9" * 20, "٣"],
)
def test_any_other_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bandwidth(text)
    assert (caught.value.key, caught.value.got) == ("max-bandwidth", text)
    assert "500kB/s" in caught.value.allowed


# ---------------------------------------------------------------- the bound


def begun(budget: Budget, wanted: list[tuple[float, int, float]]) -> list[tuple[float, int, float]]:
    """When each exchange began, its bytes and seconds: each as soon as it is wanted and the budget is open."""
    now, found = 1e5, []
    for pause, nbytes, seconds in wanted:
        now += pause
        now += budget.wait(now)
        assert budget.wait(now) < 1e-6 * now
        found.append((now, nbytes, seconds))
        now += seconds
        budget.spend(nbytes, seconds, now)
    return found


@given(exchanges, st.floats(1.0, 1e8), st.floats(0.001, 0.999))
@checked
def test_between_any_two_beginnings_no_more_is_spent_than_that_time_and_a_burst_allow(
    wanted: list[tuple[float, int, float]], rate: float, share: float
) -> None:
    found = begun(Budget(rate, share), wanted)
    for first, last in itertools.combinations(range(len(found)), 2):
        allowed = found[last][0] - found[first][0] + BURST_SECONDS
        nbytes, seconds = (sum(one[i] for one in found[first:last]) for i in (1, 2))
        assert nbytes <= rate * allowed * (1 + 1e-6) + 1e-3 * rate
        assert seconds <= share * allowed * (1 + 1e-6) + 1e-3


@given(exchanges, st.floats(1.0, 1e8))
@checked
def test_the_bytes_alone_bound_what_is_always_wanted_to_the_budget_itself(
    wanted: list[tuple[float, int, float]], rate: float
) -> None:
    found = begun(Budget(rate), [(0.0, nbytes, seconds) for _, nbytes, seconds in wanted])
    if len(found) > 1:
        due = sum(nbytes for _, nbytes, _ in found[:-1]) / rate
        passed = found[-1][0] - found[0][0]
        assert due - BURST_SECONDS - 1e-3 <= passed  # not too soon,
        assert passed <= due + sum(seconds for _, _, seconds in found) + 1e-3  # and not later than needed


def test_the_next_exchange_begins_when_both_budgets_have_paid_for_the_last() -> None:
    budget = Budget(1000.0, 0.1)
    assert budget.wait(100.0) == 0.0
    budget.spend(60_000, 2.0, 102.0)  # 60 s of traffic; 20 s of time: both since it began, at 100, less the burst
    assert budget.wait(102.0) == pytest.approx(100.0 + 60.0 - BURST_SECONDS - 102.0)
    budget.spend(0, 30.0, 200.0)
    assert budget.wait(200.0) == pytest.approx(170.0 + 300.0 - BURST_SECONDS - 200.0)


def test_silence_saves_up_no_more_than_the_burst() -> None:
    budget, hoarded = Budget(1000.0), Budget(1000.0)
    for one, silence in ((budget, 20.0), (hoarded, 1e6)):
        one.spend(5000, 0.0, 0.0)
        one.spend(30_000, 0.0, silence)
        assert one.wait(silence) == pytest.approx(20.0)


def test_what_cannot_wait_goes_into_debt_but_not_without_end() -> None:
    budget, now, count = Budget(1000.0), 100.0, 0
    while budget.bears(now, 20_000):
        budget.spend(20_000, 0.0, now)
        count += 1
    assert count <= DEBT_EXCHANGES + 2
    assert budget.wait(now) <= (DEBT_EXCHANGES + 1) * 20.0
    later = now + budget.wait(now)
    assert budget.wait(later) == 0.0
    assert budget.bears(later, 20_000)


def test_without_limits_nothing_ever_waits_and_nothing_is_shown() -> None:
    for budget in (Budget(), Budget.of(None, None), Budget.of("unlimited", 1.0)):
        budget.spend(10**15, 1e6, 5.0)
        budget.learn(10**15, 1e6)
        assert (budget.limited, budget.wait(5.0), budget.exchange_seconds) == (False, 0.0, 0.0)
        assert budget.bears(5.0, 10**15)
        assert budget.status(5.0, 32.0, 10.0) is None


# ---------------------------------------------------------------- what is shown


def shown(budget: Budget, now: float, period: float = 32.0, speed: float | None = 10.0) -> PaceStatus:
    status = budget.status(now, period, speed)
    assert status is not None
    return status


def test_the_mean_that_is_shown_is_that_of_the_last_minutes() -> None:
    budget = Budget(1000.0, 0.5)
    assert (shown(budget, 3.0).bytes_per_second, shown(budget, 3.0).share) == (0.0, 0.0)
    for second in range(1, 2000):
        budget.spend(700, 0.2, float(second))
    assert shown(budget, 1999.0).bytes_per_second == pytest.approx(700.0, rel=0.01)
    assert shown(budget, 1999.0).share == pytest.approx(0.2, rel=0.01)
    assert (shown(budget, 1999.0 + 3 * MEAN_SECONDS).bytes_per_second or 0.0) < 40.0


def test_a_young_peers_mean_is_that_of_its_life() -> None:
    budget = Budget(1000.0)
    for second in range(1, 61):
        budget.spend(700, 0.0, float(second))
    assert shown(budget, 60.0).bytes_per_second == pytest.approx(700.0, rel=0.05)


def test_the_effective_period_is_the_runs_or_what_the_budget_allows() -> None:
    budget = Budget(1000.0)
    assert shown(budget, 0.0).effective_period == 32.0
    for _ in range(50):
        budget.learn(8000, 0.1)
    assert budget.exchange_seconds == pytest.approx(8.0)
    assert shown(budget, 0.0).effective_period == pytest.approx(80.0)  # 8 s of 10 steps each
    assert shown(budget, 0.0, period=100.0).effective_period == 100.0
    assert shown(budget, 0.0, speed=None).effective_period is None
    never = shown(budget, 0.0, period=math.inf)
    assert (never.period, never.effective_period) == (None, None)


def test_people_read_what_is_used_in_their_own_units() -> None:
    status = PaceStatus(max_bytes_per_second=2e6, bytes_per_second=480_000.0, max_share=0.1, share=0.031)
    assert used(status) == "480.0 kB/s of 2.0 MB/s, 3.1% of 10.0% of the time"
