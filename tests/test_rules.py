"""The rules of an exchange, all of them by one table, and when an exchange is due."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules import RULES, ExchangeRule, Facts, find_rule, pull
from p2p_elastic.schedule import Schedule

checked = settings(max_examples=60, deadline=None, derandomize=True, database=None)
every_rule = pytest.mark.parametrize("name", sorted(RULES))
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

# Normal numbers only: half of the smallest subnormal number is no number.
NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda x: 0.0 if abs(x) < 2.0**-60 else x)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5)
RATES = st.floats(0.0, 0.5)
WEIGHTS = st.floats(2.0**-20, 1.0)
MEETING = given(pairs=PAIRS, rate=RATES)


def vectors(pairs: list[tuple[float, float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    a, b = torch.tensor(pairs, dtype=torch.float32).T
    return a.to(dtype), b.to(dtype)


def facts(weight: float) -> Facts:
    return Facts(step=1, loss=1.0, weight=weight)


def moves(rule: ExchangeRule, a: Tensor, b: Tensor, weights: tuple[float, float] = (1.0, 1.0)) -> tuple[Tensor, Tensor]:
    """What each end of one exchange adds to itself."""
    first, second = map(facts, weights)
    move_a, _ = rule.update(b - a, rule.init(a), mine=first, theirs=second)
    move_b, _ = rule.update(a - b, rule.init(b), mine=second, theirs=first)
    return move_a, move_b


def excess(move_a: Tensor, move_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """By how much both moves together exceed the distance, where positive."""
    return move_a.double().abs() + move_b.double().abs() - (b - a).double().abs()


# ---------------------------------------------------------------- laws of every rule


@every_dtype
@every_rule
@MEETING
@checked
def test_what_one_end_gains_the_other_loses_bit_for_bit(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float
) -> None:
    move_a, move_b = moves(find_rule(name, rate), *vectors(pairs, dtype))
    assert torch.equal(move_a, -move_b)
    assert move_a.dtype == dtype


@every_dtype
@every_rule
@MEETING
@checked
def test_two_moves_together_never_exceed_the_distance(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float
) -> None:
    a, b = vectors(pairs, dtype)
    assert bool((excess(*moves(find_rule(name, rate), a, b), a, b) <= 0).all())


@every_dtype
@every_rule
@given(pairs=PAIRS, rate=RATES, mine=WEIGHTS, theirs=WEIGHTS)
@checked
def test_unequal_weights_share_out_no_more_than_the_distance(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float, mine: float, theirs: float
) -> None:
    a, b = vectors(pairs, dtype)
    rounding = torch.finfo(dtype).eps * (b - a).double().abs()
    assert bool((excess(*moves(find_rule(name, rate), a, b, (mine, theirs)), a, b) <= rounding).all())


@every_dtype
@every_rule
@given(pairs=PAIRS, rate=RATES, mine=WEIGHTS, theirs=WEIGHTS)
@checked
def test_nobody_moves_away_from_its_partner(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float, mine: float, theirs: float
) -> None:
    a, b = vectors(pairs, dtype)
    move_a, move_b = moves(find_rule(name, rate), a, b, (mine, theirs))
    assert bool((move_a * (b - a).sign() >= 0).all())
    assert bool((move_b * (a - b).sign() >= 0).all())


@every_dtype
@every_rule
@given(pairs=PAIRS, mine=WEIGHTS, theirs=WEIGHTS)
@checked
def test_a_moving_rate_of_zero_is_no_communication(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], mine: float, theirs: float
) -> None:
    for move in moves(find_rule(name, 0.0), *vectors(pairs, dtype), (mine, theirs)):
        assert not bool(move.any())


@every_dtype
@every_rule
@given(pairs=PAIRS, rate=st.floats(0.01, 0.5), weight=WEIGHTS)
@checked
def test_a_newcomer_copies_and_does_not_disturb(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float, weight: float
) -> None:
    a, b = vectors(pairs, dtype)
    copied, undisturbed = moves(find_rule(name, rate), a, b, (0.0, weight))
    assert torch.equal(copied, b - a)
    assert not bool(undisturbed.any())


@every_rule
def test_two_newcomers_treat_each_other_as_equals(name: str) -> None:
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    rule = find_rule(name, 0.3)
    for move, as_equals in zip(moves(rule, a, b, (0.0, 0.0)), moves(rule, a, b), strict=True):
        assert torch.equal(move, as_equals)


@every_rule
@given(rate=st.floats(0.0, 0.99), gap=st.floats(-100, 100, width=32))
@checked
def test_a_pair_contracts_by_one_minus_twice_the_moving_rate(name: str, rate: float, gap: float) -> None:
    a, b = torch.tensor([1.0]), torch.tensor([1.0 + gap])
    move_a, move_b = moves(find_rule(name, rate), a, b)
    torch.testing.assert_close((b + move_b) - (a + move_a), (1 - 2 * rate) * (b - a), rtol=1e-4, atol=1e-4)


def test_half_averages_the_pair() -> None:
    a, b = torch.tensor([0.0, 4.0, -3.0]), torch.tensor([2.0, 8.0, 3.0])
    move_a, move_b = moves(find_rule("elastic-gossip", 0.5), a, b)
    assert (a + move_a).tolist() == (b + move_b).tolist() == [1.0, 6.0, 0.0]


@every_rule
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_gossip_in_random_pairs_keeps_the_mean_and_brings_peers_together(name: str, rate: float) -> None:
    """Claim E5 of the Elastic Gossip experiments."""
    rng, generator = random.Random(7), torch.Generator().manual_seed(7)
    peers = list(torch.randn(8, 50, generator=generator))
    rule, mean, spread = find_rule(name, rate), torch.stack(peers).mean(0), torch.stack(peers).std(0)
    for _ in range(400):
        i, k = rng.sample(range(len(peers)), 2)
        move_i, move_k = moves(rule, peers[i], peers[k])
        peers[i], peers[k] = peers[i] + move_i, peers[k] + move_k
    torch.testing.assert_close(torch.stack(peers).mean(0), mean, rtol=0, atol=2e-6)
    assert bool((torch.stack(peers).std(0) < spread / 100).all())


# ---------------------------------------------------------------- shares and errors


@given(rate=RATES, mine=WEIGHTS, theirs=WEIGHTS)
@checked
def test_shares_lie_between_nothing_and_all_and_the_heavier_end_moves_less(
    rate: float, mine: float, theirs: float
) -> None:
    own, other = pull(rate, mine, theirs), pull(rate, theirs, mine)
    assert 0.0 <= own <= 1.0
    assert own + other == pytest.approx(2 * rate)
    assert (own <= other) if mine >= theirs else (own >= other)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 7.0, float("nan"), float("inf")])
@every_rule
def test_a_moving_rate_out_of_range_is_refused(name: str, rate: float) -> None:
    with pytest.raises(ConfigError, match="moving-rate: got .*from 0") as caught:
        find_rule(name, rate)
    assert (caught.value.key, str(caught.value.got)) == ("moving-rate", str(rate))


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="rule: got 'easgd'; allowed: elastic-gossip"):
        find_rule("easgd", 0.5)


# ---------------------------------------------------------------- when an exchange is due


def due_steps(schedule: Schedule, steps: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [step for step in range(1, steps + 1) if schedule.due(step, rng)]


def test_a_period_is_due_at_its_multiples() -> None:
    assert due_steps(Schedule.build(4, None), 13) == [4, 8, 12]
    assert due_steps(Schedule.build(1, None), 3) == [1, 2, 3]


def test_a_probability_is_due_as_often_as_it_says_and_the_same_with_the_same_seed() -> None:
    schedule = Schedule.build(None, 1 / 8)
    assert len(due_steps(schedule, 8000)) == pytest.approx(1000, rel=0.1)
    assert due_steps(schedule, 500) == due_steps(schedule, 500)
    assert due_steps(schedule, 500) != due_steps(schedule, 500, seed=2)


def test_probabilities_of_zero_and_one_are_never_and_always() -> None:
    assert due_steps(Schedule.build(None, 0.0), 100) == []
    assert len(due_steps(Schedule.build(None, 1.0), 100)) == 100


@pytest.mark.parametrize(
    ("period", "probability", "key"),
    [
        (None, None, "period/probability"),
        (8, 0.5, "period/probability"),
        (0, None, "period"),
        (-3, None, "period"),
        (None, 1.5, "probability"),
        (None, -0.1, "probability"),
        (None, float("nan"), "probability"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(period: int | None, probability: float | None, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule.build(period, probability)
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: got ")


def test_a_schedule_says_when_it_is_due() -> None:
    assert str(Schedule.build(32, None)) == "every 32 steps"
    assert str(Schedule.build(None, 0.125)) == "with probability 0.125 per step"
    assert str(Schedule.build(None, 0.0)) == "with probability 0 per step"
