"""Dynamic weighting (ALGORITHMS 4.4): the score, the two pulls, and the rule made of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules.base import ExchangeRule, Facts
from p2p_elastic.rules.dynamic import COEFFICIENTS, Weighting, dynamic, lag, score
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.ramp import COPIES_BELOW, COUNTS_FROM, STEP, settled

checked = settings(max_examples=60)
HISTORIES = st.lists(st.floats(-20.0, 20.0), min_size=0, max_size=8)
WORKER, CENTRE = Facts(1, None, 1.0, asked=True), Facts(1, None, 1.0, centre=True)


def meet(rule: ExchangeRule, x: torch.Tensor, centre: torch.Tensor, states: list[object]) -> None:
    """One exchange in place: both ends by the same rule, from the same two vectors."""
    move, states[0] = rule.move(centre - x, states[0], mine=WORKER, theirs=CENTRE)
    of_centre, states[1] = rule.move(x - centre, states[1], mine=CENTRE, theirs=WORKER)
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
        _, state = rule.move(first.clone(), rule.init(first), mine=mine, theirs=theirs)
        move, _ = rule.move(then.clone(), state, mine=mine, theirs=theirs)
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


@pytest.mark.parametrize("odd", [0.0, math.inf, math.nan])
def test_a_contact_that_shows_nothing_is_not_held_against_the_next(odd: float) -> None:
    rule = dynamic(elastic(0.1))
    state = rule.init(torch.zeros(1))
    for distance in (5.0, 5.1, 5.0, 5.2, 5.1):
        _, state = rule.update(distance, state, mine=WORKER, theirs=CENTRE)
    _, after = rule.update(odd, state, mine=WORKER, theirs=CENTRE)
    assert after == state
    assert rule.update(5.1, after, mine=WORKER, theirs=CENTRE)[0] == 0.1


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


# ---------------------------------------------------------------- the weight that a peer gives itself


def settle(before: float, healths: list[float]) -> list[float]:
    weights = []
    for health in healths:
        before = settled(before, health)
        weights.append(before)
    return weights


def changes(flags: list[bool]) -> int:
    return sum(one != other for one, other in itertools.pairwise(flags))


@given(before=st.floats(0.0, 1.0), health=st.floats(0.0, 1.0))
@checked
def test_a_settled_weight_is_a_share_near_the_health_or_nothing(before: float, health: float) -> None:
    weight = settled(before, health)
    assert weight in (0.0, before, health)
    assert weight == 0.0 or abs(weight - health) < STEP
    assert settled(before, 1.0) == 1.0
    assert settled(before, 0.0) == 0.0


@pytest.mark.parametrize("threshold", [COPIES_BELOW, COUNTS_FROM])
@pytest.mark.parametrize("before", [0.0, 0.2, 1.0])
@given(noise=st.lists(st.floats(-0.09, 0.09), min_size=2, max_size=40))
@checked
def test_a_health_that_wanders_around_a_threshold_crosses_it_once_at_most(
    threshold: float, before: float, noise: list[float]
) -> None:
    weights = settle(before, [threshold + one for one in noise])
    assert changes([weight > 0.0 for weight in [before, *weights]]) <= 1


@given(middle=st.floats(0.2, 0.9), noise=st.lists(st.floats(-0.024, 0.024), min_size=2, max_size=40))
@checked
def test_noise_that_is_smaller_than_a_step_changes_nothing(middle: float, noise: list[float]) -> None:
    assert len(set(settle(1.0, [middle + one for one in noise]))) == 1


def test_a_peer_that_recovers_counts_again_and_one_that_fails_does_not() -> None:
    down = [1.0, 0.7, 0.5, 0.3, 0.15, 0.12, 0.09, 0.05]
    assert settle(1.0, down) == [1.0, 0.7, 0.5, 0.3, 0.15, 0.15, 0.0, 0.0]
    assert settle(0.0, down[::-1]) == [0.0, 0.0, 0.0, 0.0, 0.3, 0.5, 0.7, 1.0]


# ---------------------------------------------------------------- every rule towards a centre or leader


@given(
    rate=st.floats(0.0, 0.5),
    weights=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    trusts=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    jump=st.floats(0.0, 3.0),
)
@checked
def test_both_ends_agree_on_the_lag_and_never_move_further_than_the_distance(
    rate: float, weights: tuple[float, float], trusts: tuple[float, float], jump: float
) -> None:
    rule = dynamic(elastic(rate))
    worker = WORKER._replace(weight=weights[0], trust=trusts[0])
    centre = CENTRE._replace(weight=weights[1], trust=trusts[1])
    states = histories(rule)
    for distance in (*[1.0] * 5, math.exp(jump)):
        delta = torch.tensor([distance], dtype=torch.float64)
        move, states[0] = rule.move(delta.clone(), states[0], mine=worker, theirs=centre)
        back, states[1] = rule.move(-delta, states[1], mine=centre, theirs=worker)
        assert states[0] == states[1]
        assert float(move) >= 0.0
        assert float(back) <= 0.0
        assert float(move) - float(back) <= distance * (1 + 1e-12)
