"""How two ends meet that trained without each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.rules.base import ExchangeRule, Facts, Stake
from p2p_elastic.rules.merging import crossing, is_barrier, merge_share, merging
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.pairwise import elastic, follow, receive
from p2p_elastic.rules.policy import rule_of
from p2p_elastic.rules.trial import Trial

checked = settings(max_examples=200)
steps = st.integers(0, 10**9)
weights = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0.0, 1.0)
numbers = st.floats(-100.0, 100.0, width=32)


def end(done: int, weight: float = 1.0, *, peers: int = 3, trust: float = 1.0, merge: bool = True) -> Facts:
    return Facts(1000, 1.0, weight, trust=trust, apart=Stake(done, peers, merge))


def move(rule: ExchangeRule, mine: Facts, theirs: Facts, delta: float = 1.0) -> float:
    return float(rule.move(torch.tensor([delta]), rule.init(torch.zeros(1)), mine=mine, theirs=theirs)[0])


@checked
@given(steps, steps, weights, weights, weights, weights)
def test_two_ends_that_merge_never_exceed_the_distance(
    a: int, b: int, weight_a: float, weight_b: float, trust_a: float, trust_b: float
) -> None:
    first = merge_share(end(a, weight_a), end(b, weight_b, trust=trust_b))
    second = merge_share(end(b, weight_b), end(a, weight_a, trust=trust_a))
    assert 0.0 <= first <= 1.0
    assert 0.0 <= second <= 1.0
    assert first + second <= 1.0 + 1e-12


@checked
@given(steps, steps, numbers, numbers)
def test_the_sum_weighted_by_steps_stays_and_both_meet(a: int, b: int, x: float, y: float) -> None:
    rule, delta = merging(elastic(0.3)), y - x
    after_x = x + delta * merge_share(end(a), end(b))
    after_y = y - delta * merge_share(end(b), end(a))
    assert after_x == pytest.approx(after_y, abs=1e-9)
    assert a * after_x + b * after_y == pytest.approx(a * x + b * y, abs=1e-9 * max(1, a + b))
    assert move(rule, end(a), end(b), delta) == pytest.approx(after_x - x, abs=1e-4)


@checked
@given(steps, numbers.filter(lambda delta: delta == 0.0 or abs(delta) > 1e-37))  # so that its half is a float32
def test_at_equal_steps_what_one_end_gains_the_other_loses_bit_for_bit(done: int, delta: float) -> None:
    rule = merging(elastic(0.3))
    assert move(rule, end(done), end(done), delta) == -move(rule, end(done), end(done), -delta) == delta / 2


@pytest.mark.parametrize(("mine", "theirs", "share"), [(0, 100, 1.0), (100, 0, 0.0), (0, 0, 0.5), (300, 100, 0.25)])
def test_who_did_nothing_meanwhile_moves_to_who_did(mine: int, theirs: int, share: float) -> None:
    assert merge_share(end(mine), end(theirs)) == share


def test_who_counts_for_nothing_copies_and_is_not_copied_whatever_it_did() -> None:
    assert merge_share(end(9, 0.0), end(1)) == 1.0
    assert merge_share(end(1), end(9, 0.0)) == 0.0
    assert merge_share(end(5), end(9, trust=0.0)) == 0.0


def test_distrust_only_shortens_the_move() -> None:
    shares = [merge_share(end(5), end(5, trust=trust)) for trust in (1.0, 0.5, 0.1, 0.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 0.5


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (end(1)._replace(apart=None), end(9)),
        (end(1), end(9)._replace(apart=None)),
        (end(1, merge=False), end(9)),
        (end(1), end(9, merge=False)),
    ],
)
def test_where_only_one_end_lost_the_other_the_ordinary_rule_holds(mine: Facts, theirs: Facts) -> None:
    assert move(merging(elastic(0.125)), mine, theirs) == 0.125


@pytest.mark.parametrize(("rule", "asked"), [(follow(0.5), True), (receive(0.5), False)], ids=["pull", "push"])
def test_by_rules_that_move_one_end_that_end_moves_by_steps(rule: ExchangeRule, asked: bool) -> None:
    assert move(merging(rule), end(100)._replace(asked=asked), end(300)._replace(asked=not asked)) == 0.75


@pytest.mark.parametrize(
    ("name", "merges"),
    [("elastic-gossip", True), ("gossip-pull", True), ("gossip-push", True), ("gosgd", False), ("easgd", False)],
)
def test_rules_with_shares_or_a_centre_of_their_own_are_left_alone(name: str, merges: bool) -> None:
    assert rule_of(find_method(name), 0.5, "dynamic").merges is merges


@pytest.mark.parametrize(
    ("middle", "worse", "error", "barrier"),
    [
        (1.0, 1.0, 0.0, False),
        (0.5, 1.0, 0.0, False),
        (1.12, 1.0, 0.0, False),  # within what is allowed
        (1.3, 1.0, 0.2, False),  # chance
        (1.3, 1.0, 0.01, True),
        (float("nan"), 1.0, 0.0, True),
        (float("inf"), 1.0, 0.0, True),
        (0.05, 0.001, 0.0, False),  # of what there was to learn, it is nothing
    ],
)
def test_only_what_is_clearly_worse_than_both_ends_is_a_barrier(
    middle: float, worse: float, error: float, barrier: bool
) -> None:
    assert is_barrier(Trial(middle, worse, error), first_loss=1.0) is barrier


@checked
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 50))
def test_at_a_barrier_exactly_one_end_copies_and_it_is_the_one_with_less_behind_it(
    a: int, b: int, peers_a: int, peers_b: int
) -> None:
    first, second = end(a, peers=peers_a), end(b, peers=peers_b)
    shares = crossing(first, second, yields=True), crossing(second, first, yields=False)
    assert sorted(shares) == [0.0, 1.0]
    assert shares[0] == (1.0 if a * peers_a <= b * peers_b else 0.0)


def test_nobody_crosses_to_what_does_badly_or_where_it_is_unknown_what_stands_behind() -> None:
    assert crossing(end(1), end(9, trust=0.4), yields=True) == 0.0
    assert crossing(end(1), end(9)._replace(apart=None), yields=True) == 0.0
    assert crossing(end(1)._replace(apart=None), end(9), yields=True) == 0.0
    assert crossing(end(9, 0.0), end(1), yields=False) == 1.0
    assert crossing(end(1), end(9, 0.0), yields=True) == 0.0
