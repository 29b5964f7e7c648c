"""Dynamic weighting (ALGORITHMS 4.4): the score, the two pulls, and the rule made of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules import ExchangeRule, Facts, elastic
from p2p_elastic.weighting import COEFFICIENTS, Weighting, dynamic, lag, score

checked = settings(max_examples=60, deadline=None, derandomize=True, database=None)
HISTORIES = st.lists(st.floats(-20.0, 20.0), min_size=0, max_size=8)
WORKER, CENTRE = Facts(1, None, 1.0, asked=True), Facts(1, None, 1.0, centre=True)


def meet(rule: ExchangeRule, x: torch.Tensor, centre: torch.Tensor, states: list[object]) -> None:
    """One exchange in place: both ends by the same rule, from the same two vectors."""
    move, states[0] = rule.update(centre - x, states[0], mine=WORKER, theirs=CENTRE)
    of_centre, states[1] = rule.update(x - centre, states[1], mine=CENTRE, theirs=WORKER)
    x.add_(move)
    centre.add_(of_centre)


def histories(rule: ExchangeRule) -> list[object]:
    return [rule.init(torch.zeros(1)), rule.init(torch.zeros(1))]


# ---------------------------------------------------------------- the score


@given(history=HISTORIES)
@checked
def test_the_score_is_the_weighted_sum_of_the_last_differences(history: list[float]) -> None:
    expected = 0.0
    if len(history) > 4:
        u = history[::-1]
        expected = 0.4 * (u[0] - u[1]) + 0.3 * (u[1] - u[2]) + 0.2 * (u[2] - u[3]) + 0.1 * (u[3] - u[4])
    assert score(history, COEFFICIENTS) == pytest.approx(expected, abs=1e-12)


@given(history=st.lists(st.floats(1e-6, 1e6), min_size=5, max_size=5), scale=st.floats(1e-6, 1e6))
@checked
def test_the_score_does_not_change_with_the_scale_of_the_parameters(history: list[float], scale: float) -> None:
    plain = score([math.log(d) for d in history], COEFFICIENTS)
    assert score([math.log(d * scale) for d in history], COEFFICIENTS) == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize(
    ("raw", "expected"), [(-9.0, 0.0), (0.0, 0.0), (0.25, 0.0), (0.625, 0.5), (1.0, 1.0), (9.0, 1.0), (math.nan, 1.0)]
)
def test_lag_is_nothing_in_the_dead_zone_all_at_the_limit_and_linear_between(raw: float, expected: float) -> None:
    assert lag(raw, Weighting()) == pytest.approx(expected)
    assert lag(-raw, Weighting(sign=-1)) == pytest.approx(expected)


# ---------------------------------------------------------------- the pulls


@given(rate=st.floats(0.0, 0.5), lagging=st.floats(0.0, 1.0))
@checked
def test_two_pulls_are_those_of_the_paper_and_never_exceed_the_distance(rate: float, lagging: float) -> None:
    """h1 = alpha + (1 - alpha) w, h2 = alpha (1 - w), read off moves of length 1."""
    rule = dynamic(elastic(rate), Weighting(coefficients=(1.0,), dead_zone=0.0, limit=1.0))
    first, then = torch.ones(1, dtype=torch.float64), torch.tensor([math.exp(lagging)], dtype=torch.float64)
    shares = []
    for mine, theirs in ((WORKER, CENTRE), (CENTRE, WORKER)):
        _, state = rule.update(first.clone(), rule.init(first), mine=mine, theirs=theirs)
        move, _ = rule.update(then.clone(), state, mine=mine, theirs=theirs)
        shares.append(float(move / then))
    assert shares[0] == pytest.approx(rate + (1 - rate) * lagging, abs=1e-9)
    assert shares[1] == pytest.approx(rate * (1 - lagging), abs=1e-9)
    assert sum(shares) <= 1.0 + 1e-9


# ---------------------------------------------------------------- the rule


def test_without_lag_it_is_easgd_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(3)
    plain, weighted = elastic(0.1), dynamic(elastic(0.1), Weighting(dead_zone=1e6, limit=2e6))
    x, centre = torch.randn(2, 200, generator=generator)
    y, other = x.clone(), centre.clone()
    states, own = histories(plain), histories(weighted)
    for _ in range(20):
        drift = torch.randn(200, generator=generator)
        x.add_(drift)
        y.add_(drift)
        meet(plain, x, centre, states)
        meet(weighted, y, other, own)
    assert torch.equal(x, y)
    assert torch.equal(centre, other)


def test_who_comes_back_from_far_copies_the_centre_and_is_ignored() -> None:
    rule = dynamic(elastic(0.1))
    x, centre = torch.ones(50), torch.zeros(50)
    states = histories(rule)
    for _ in range(6):
        x.copy_(centre + 1.0)  # as far as the last time: healthy
        meet(rule, x, centre, states)
    before = centre.clone()
    x.copy_(centre + 100.0)
    meet(rule, x, centre, states)
    assert torch.equal(centre, before)
    torch.testing.assert_close(x, before, rtol=0, atol=1e-4)


def test_both_ends_keep_the_same_history_as_long_as_it_is_needed() -> None:
    rule = dynamic(elastic(0.1))
    x, centre = torch.ones(5), torch.zeros(5)
    states = histories(rule)
    for _ in range(9):
        meet(rule, x, centre, states)
    assert states[0] == states[1]
    assert len(states[0][0]) == len(COEFFICIENTS) + 1  # type: ignore[index]


def test_no_distance_at_all_is_no_lag() -> None:
    rule = dynamic(elastic(0.3))
    x, centre = torch.ones(5), torch.ones(5)
    states = histories(rule)
    for _ in range(7):
        meet(rule, x, centre, states)
    assert torch.equal(x, torch.ones(5))
    assert torch.equal(centre, torch.ones(5))


@pytest.mark.parametrize(
    ("weighting", "key"),
    [
        (Weighting(coefficients=(0.5, 0.4)), "coefficients"),
        (Weighting(coefficients=()), "coefficients"),
        (Weighting(coefficients=(1.5, -0.5)), "coefficients"),
        (Weighting(dead_zone=1.0), "dead-zone/limit"),
        (Weighting(dead_zone=-0.1), "dead-zone/limit"),
        (Weighting(sign=0), "sign"),
    ],
)
def test_a_weighting_that_cannot_be_is_refused(weighting: Weighting, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dynamic(elastic(0.1), weighting)
    assert caught.value.key == key
