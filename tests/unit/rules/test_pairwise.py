"""The rules of an exchange, all methods by one table, and when an exchange is due."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules.base import ExchangeRule, Facts, chain, clip_by_norm
from p2p_elastic.rules.methods import RULES, Flow, Topology, find_method, find_rule
from p2p_elastic.rules.pairwise import elastic, follow, pull, receive, stay, sum_weight
from p2p_elastic.rules.schedule import Schedule

checked = settings(max_examples=25)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
# stay() moves nobody; it and gosgd have no moving rate.
STILL = {"downpour", "mvadownpour", "all-reduce", "diloco", "none"}
RATELESS = STILL | {"gosgd"}
every_rule = pytest.mark.parametrize("name", sorted(RULES))
every_symmetric_rule = pytest.mark.parametrize("name", sorted(n for n, m in RULES.items() if m.symmetric))
every_one_sided_rule = pytest.mark.parametrize("name", sorted(n for n, m in RULES.items() if not m.symmetric))
every_moving_rule = pytest.mark.parametrize("name", sorted(set(RULES) - STILL))
every_rule_with_a_rate = pytest.mark.parametrize("name", sorted(set(RULES) - RATELESS))
every_elastic_rule = pytest.mark.parametrize("name", sorted(n for n, m in RULES.items() if m.rule is elastic))

# Normal numbers only: half of the smallest subnormal number is no number.
NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda x: 0.0 if abs(x) < 2.0**-60 else x)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5)
RATES = st.floats(0.0, 0.5)
WEIGHTS = st.floats(2.0**-20, 1.0)
MEETING = given(pairs=PAIRS, rate=RATES)
CLIPS = st.floats(2.0**-20, 2.0**60)


def vectors(pairs: list[tuple[float, float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    a, b = torch.tensor(pairs, dtype=torch.float32).T
    return a.to(dtype), b.to(dtype)


def facts(weight: float = 1.0, *, asked: bool = False, partners: int = 1, share: float = 0.0) -> Facts:
    return Facts(step=1, loss=1.0, weight=weight, asked=asked, partners=partners, share=share)


def moves(
    rule: ExchangeRule,
    a: Tensor,
    b: Tensor,
    weights: tuple[float, float] = (1.0, 1.0),
    partners: tuple[int, int] = (1, 1),
) -> tuple[Tensor, Tensor]:
    """What each end of one exchange, that `a` asked for, adds to itself."""
    state_a, state_b = rule.init(a), rule.init(b)
    first = facts(weights[0], asked=True, partners=partners[0], share=rule.share(state_a))
    second = facts(weights[1], partners=partners[1])
    move_a, _ = rule.move(b - a, state_a, mine=first, theirs=second)
    move_b, _ = rule.move(a - b, state_b, mine=second, theirs=first)
    return move_a, move_b


def excess(move_a: Tensor, move_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """By how much both moves together exceed the distance, where positive."""
    return move_a.double().abs() + move_b.double().abs() - (b - a).double().abs()


# ---------------------------------------------------------------- laws of symmetric rules


@every_dtype
@every_symmetric_rule
@MEETING
@checked
def test_what_one_end_gains_the_other_loses_bit_for_bit(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float
) -> None:
    move_a, move_b = moves(find_rule(name, rate), *vectors(pairs, dtype))
    assert torch.equal(move_a, -move_b)
    assert move_a.dtype == dtype


@every_dtype
@every_symmetric_rule
@given(pairs=PAIRS, rate=RATES, largest=CLIPS, mine=st.integers(1, 9), theirs=st.integers(1, 9))
@checked
def test_conservation_survives_clipping_and_many_partners(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float, largest: float, mine: int, theirs: int
) -> None:
    rule = chain(clip_by_norm(largest), find_rule(name, rate))
    move_a, move_b = moves(rule, *vectors(pairs, dtype), partners=(mine, theirs))
    assert torch.equal(move_a, -move_b)


@every_elastic_rule
@given(rate=st.floats(0.0, 0.99), gap=st.floats(-100, 100, width=32))
@checked
def test_a_pair_contracts_by_one_minus_twice_the_moving_rate(name: str, rate: float, gap: float) -> None:
    a, b = torch.tensor([1.0]), torch.tensor([1.0 + gap])
    move_a, move_b = moves(find_rule(name, rate), a, b)
    torch.testing.assert_close((b + move_b) - (a + move_a), (1 - 2 * rate) * (b - a), rtol=1e-4, atol=1e-4)


@every_elastic_rule
def test_half_averages_the_pair(name: str) -> None:
    a, b = torch.tensor([0.0, 4.0, -3.0]), torch.tensor([2.0, 8.0, 3.0])
    move_a, move_b = moves(find_rule(name, 0.5), a, b)
    assert (a + move_a).tolist() == (b + move_b).tolist() == [1.0, 6.0, 0.0]


@every_elastic_rule
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


# ---------------------------------------------------------------- laws of one-sided rules


def movers(name: str) -> tuple[bool, bool]:
    """Whether (who asked, who was asked) moves, as the method's flow and rule say."""
    method = RULES[name]
    if name in STILL:
        return False, False
    return method.flow is not Flow.PUSH, method.flow is not Flow.PULL


@every_dtype
@every_one_sided_rule
@given(pairs=PAIRS, rate=st.floats(0.0, 1.0), mine=WEIGHTS, theirs=WEIGHTS)
@checked
def test_only_the_stated_end_moves_and_no_further_than_its_partner(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float, mine: float, theirs: float
) -> None:
    a, b = vectors(pairs, dtype)
    rule = find_rule(name, rate)
    assert movers(name) != (True, True)
    for move, delta, may in zip(moves(rule, a, b, (mine, theirs)), (b - a, a - b), movers(name), strict=True):
        assert move.dtype == dtype
        assert bool((move.double().abs() <= delta.double().abs()).all())
        assert bool((move * delta.sign() >= 0).all())
        assert may or not bool(move.any())


@pytest.mark.parametrize(
    ("name", "rate", "asker_at", "asked_at"),
    [
        ("gossip-pull", 0.5, 2.0, 4.0),
        ("gossip-pull", 1.0, 4.0, 4.0),
        ("lsgd", 0.1, 0.4, 4.0),
        ("gossip-push", 0.5, 0.0, 2.0),
        ("gossip-push", 1.0, 0.0, 0.0),
        ("gosgd", 0.0, 0.0, 4.0 * 2 / 3),  # shares 1/2 and 1
        ("downpour", 0.0, 0.0, 4.0),
        ("mvadownpour", 0.001, 0.0, 4.0),
    ],
)
def test_where_the_ends_of_a_one_sided_exchange_are_afterwards(
    name: str, rate: float, asker_at: float, asked_at: float
) -> None:
    a, b = torch.tensor([0.0]), torch.tensor([4.0])
    move_a, move_b = moves(find_rule(name, rate), a, b)
    assert ((a + move_a).item(), (b + move_b).item()) == pytest.approx((asker_at, asked_at))


def test_every_one_sided_method_is_named_as_such() -> None:
    assert {n for n, m in RULES.items() if not m.symmetric} == {
        "gossip-pull",
        "gossip-push",
        "gosgd",
        "lsgd",
        "downpour",
        "mvadownpour",
    }


# ---------------------------------------------------------------- laws of every rule


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
@every_rule_with_a_rate
@given(pairs=PAIRS, mine=WEIGHTS, theirs=WEIGHTS)
@checked
def test_a_moving_rate_of_zero_is_no_communication(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], mine: float, theirs: float
) -> None:
    for move in moves(find_rule(name, 0.0), *vectors(pairs, dtype), (mine, theirs)):
        assert not bool(move.any())


@pytest.mark.parametrize("name", sorted(RATELESS))
def test_a_rule_without_a_moving_rate_takes_none(name: str) -> None:
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    for one, other in zip(moves(find_rule(name, 0.0), a, b), moves(find_rule(name, 0.4), a, b), strict=True):
        assert torch.equal(one, other)


@every_dtype
@every_moving_rule
@given(pairs=PAIRS, rate=st.floats(0.01, 0.5), weight=WEIGHTS, newcomer_asks=st.booleans())
@checked
def test_a_newcomer_copies_and_does_not_disturb(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float, weight: float, newcomer_asks: bool
) -> None:
    """It copies wherever the method moves its end at all: who pulls, who is pushed to, or both ends."""
    a, b = vectors(pairs, dtype)
    found = moves(find_rule(name, rate), a, b, (0.0, weight) if newcomer_asks else (weight, 0.0))
    for move, delta, may, is_new in zip(
        found, (b - a, a - b), movers(name), (newcomer_asks, not newcomer_asks), strict=True
    ):
        assert torch.equal(move, delta) if may and is_new else not bool(move.any())


@every_rule
def test_two_newcomers_treat_each_other_as_equals(name: str) -> None:
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    rule = find_rule(name, 0.3)
    for move, as_equals in zip(moves(rule, a, b, (0.0, 0.0)), moves(rule, a, b), strict=True):
        assert torch.equal(move, as_equals)


@every_dtype
@every_rule
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_end_that_nothing_came_to_over_the_wire_makes_an_empty_move(
    name: str, dtype: torch.dtype, asked: bool, weight: float
) -> None:
    for rule in (find_rule(name, 0.5), chain(clip_by_norm(1.0), find_rule(name, 0.5))):
        state = rule.init(torch.zeros(3, dtype=dtype))
        mine, theirs = facts(weight, asked=asked, share=0.5), facts(1.0, asked=not asked, share=0.5)
        move, _ = rule.move(torch.empty(0, dtype=dtype), state, mine=mine, theirs=theirs)
        assert (move.shape, move.dtype) == ((0,), dtype)


# ---------------------------------------------------------------- trust


def trusting(
    rule: ExchangeRule, a: Tensor, b: Tensor, weights: tuple[float, float], trusts: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """What each end adds to itself; `trusts`: what b makes of a, and a of b."""
    state_a, state_b = rule.init(a), rule.init(b)
    first, second = facts(weights[0], asked=True, share=rule.share(state_a)), facts(weights[1])
    move_a, _ = rule.move(b - a, state_a, mine=first, theirs=second._replace(trust=trusts[1]))
    move_b, _ = rule.move(a - b, state_b, mine=second, theirs=first._replace(trust=trusts[0]))
    return move_a, move_b


SHARES = st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0.0, 1.0)
BOTH_SHARES = st.tuples(SHARES, SHARES)


@every_rule
@given(pairs=PAIRS, rate=st.floats(0.0, 0.5), weights=BOTH_SHARES, trusts=BOTH_SHARES)
@checked
def test_distrust_shortens_moves_and_turns_none_around(
    name: str, pairs: list[tuple[float, float]], rate: float, weights: tuple[float, float], trusts: tuple[float, float]
) -> None:
    a, b = vectors(pairs, torch.float32)
    rule = find_rule(name, rate)
    whole = trusting(rule, a, b, weights, (1.0, 1.0))
    for move, most, delta in zip(trusting(rule, a, b, weights, trusts), whole, (b - a, a - b), strict=True):
        assert bool((move.abs() <= most.abs()).all())
        assert bool((move * delta.sign() >= 0).all())


@every_rule
@given(pairs=PAIRS, rate=st.floats(0.0, 0.5), weights=BOTH_SHARES, trusts=BOTH_SHARES)
@checked
def test_the_less_a_partner_is_trusted_the_shorter_the_move(
    name: str, pairs: list[tuple[float, float]], rate: float, weights: tuple[float, float], trusts: tuple[float, float]
) -> None:
    a, b = vectors(pairs, torch.float32)
    rule, (less, more) = find_rule(name, rate), sorted(trusts)
    short, long = (trusting(rule, a, b, weights, (trust, trust)) for trust in (less, more))
    for one, other in zip(short, long, strict=True):
        assert bool((one.abs() <= other.abs()).all())


@every_rule
@given(pairs=PAIRS, rate=st.floats(0.0, 0.5), weights=BOTH_SHARES)
@checked
def test_a_partner_that_is_not_trusted_moves_nobody(
    name: str, pairs: list[tuple[float, float]], rate: float, weights: tuple[float, float]
) -> None:
    for move in trusting(find_rule(name, rate), *vectors(pairs, torch.float32), weights, (0.0, 0.0)):
        assert not bool(move.any())


@every_elastic_rule
@given(pairs=PAIRS, rate=st.floats(0.0, 0.99), weights=BOTH_SHARES, trusts=BOTH_SHARES)
@checked
def test_with_any_weights_and_trusts_both_ends_stay_within_what_the_headers_agreed_on(
    name: str, pairs: list[tuple[float, float]], rate: float, weights: tuple[float, float], trusts: tuple[float, float]
) -> None:
    a, b = vectors(pairs, torch.float32)
    move_a, move_b = trusting(find_rule(name, rate), a, b, weights, trusts)
    assert bool((move_a.abs() <= (b - a).mul(pull(rate, *weights)).abs()).all())
    assert bool((move_b.abs() <= (a - b).mul(pull(rate, *weights[::-1])).abs()).all())


@every_symmetric_rule
@given(pairs=PAIRS, rate=st.floats(0.0, 0.99), weight=SHARES)
@checked
def test_equal_weights_and_full_trust_are_the_symmetric_rule_bit_for_bit(
    name: str, pairs: list[tuple[float, float]], rate: float, weight: float
) -> None:
    a, b = vectors(pairs, torch.float32)
    rule = find_rule(name, rate)
    for one, other in zip(trusting(rule, a, b, (weight, weight), (1.0, 1.0)), moves(rule, a, b), strict=True):
        assert torch.equal(one, other)


@given(meetings=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), SHARES, SHARES, SHARES), max_size=40))
@checked
def test_sum_weights_lose_no_share_whatever_the_weights_and_trusts(
    meetings: list[tuple[int, int, float, float, float]],
) -> None:
    rule = sum_weight()
    peers, states = [torch.tensor([float(n)]) for n in range(4)], [1.0] * 4
    for sender, distance, of_sender, of_receiver, trust in meetings:
        receiver = (sender + distance) % 4
        gives, takes = facts(of_sender, asked=True, share=rule.share(states[sender])), facts(of_receiver)
        delta = peers[sender] - peers[receiver]
        _, states[sender] = rule.move(delta.clone(), states[sender], mine=gives, theirs=takes)
        move, states[receiver] = rule.move(
            delta.clone(), states[receiver], mine=takes, theirs=gives._replace(trust=trust)
        )
        peers[receiver] = peers[receiver] + move
        assert 0.0 <= float(peers[receiver]) <= 3.0
    assert sum(states) == pytest.approx(4.0, rel=1e-12)
    assert min(states) > 0.0


# ---------------------------------------------------------------- chains and clipping


@every_dtype
@every_rule
@given(pairs=PAIRS, rate=RATES, largest=CLIPS)
@checked
def test_a_chain_is_its_rules_one_after_the_other(
    name: str, dtype: torch.dtype, pairs: list[tuple[float, float]], rate: float, largest: float
) -> None:
    a, b = vectors(pairs, dtype)
    rules = (clip_by_norm(largest), find_rule(name, rate), clip_by_norm(largest / 4), sum_weight())
    chained = chain(*rules)
    state = chained.init(a)
    assert state == tuple(rule.init(a) for rule in rules)
    assert chained.share(state) == sum(rule.share(rule.init(a)) for rule in rules)
    for asked in (True, False):
        ends = {"mine": facts(asked=asked, share=0.25), "theirs": facts(asked=not asked, share=0.25)}
        exact = (b - a).double()
        share, after = chained.update(float(torch.linalg.vector_norm(exact)), state, **ends)
        expected, each = exact.clone(), []
        for rule in rules:
            expected, one = rule.move(expected, rule.init(a), **ends)
            each.append(one)
        assert torch.allclose(exact * share, expected, rtol=1e-12, atol=1e-290)  # a subnormal share has few digits
        assert torch.equal(chained.move(b - a, state, **ends)[0], (b - a) * share)
        assert after == tuple(each)


def test_an_empty_chain_moves_by_the_whole_difference() -> None:
    rule = chain()
    move, state = rule.move(torch.tensor([3.0]), rule.init(torch.zeros(1)), mine=facts(), theirs=facts())
    assert (move.tolist(), state, rule.share(state)) == ([3.0], (), 0)


@every_dtype
@given(pairs=PAIRS, largest=CLIPS)
@checked
def test_clipping_is_symmetric_keeps_the_direction_and_never_lengthens(
    dtype: torch.dtype, pairs: list[tuple[float, float]], largest: float
) -> None:
    a, b = vectors(pairs, dtype)
    move_a, move_b = moves(clip_by_norm(largest), a, b)
    assert torch.equal(move_a, -move_b)
    assert bool((move_a.double().abs() <= (b - a).double().abs()).all())
    assert bool((move_a * (b - a).sign() >= 0).all())
    rounding = 1 + torch.finfo(dtype).eps
    assert float(move_a.double().norm()) <= largest * rounding
    if float((b - a).double().norm()) <= largest:
        assert torch.equal(move_a, b - a)


# ---------------------------------------------------------------- sum weights


@given(
    numbers=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6),
    seed=st.integers(0, 2**20),
)
@checked
def test_sum_weights_conserve_the_shares_and_the_weighted_sum(numbers: list[float], seed: int) -> None:
    rng, rule = random.Random(seed), sum_weight()
    peers = [torch.tensor([x], dtype=torch.float64) for x in numbers]
    shares = [rule.init(x) for x in peers]
    weighted = sum(s * x.item() for s, x in zip(shares, peers, strict=True))
    for _ in range(30):
        s, r = rng.sample(range(len(peers)), 2)
        sender, receiver = facts(asked=True, share=rule.share(shares[s])), facts()
        delta = peers[s] - peers[r]
        still, shares[s] = rule.move(-delta, shares[s], mine=sender, theirs=receiver)
        move, shares[r] = rule.move(delta, shares[r], mine=receiver, theirs=sender)
        assert not bool(still.any())
        peers[r] = peers[r] + move
        assert sum(shares) == pytest.approx(len(peers), rel=1e-12)
        assert min(shares) > 0.0
    after = sum(s * x.item() for s, x in zip(shares, peers, strict=True))
    assert after == pytest.approx(weighted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("sender", "receiver"), [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_no_share_is_lost_whoever_is_new(sender: float, receiver: float) -> None:
    rule = sum_weight()
    gives = facts(sender, asked=True, share=rule.share(1.0))
    takes = facts(receiver)
    _, left = rule.move(torch.ones(1), 1.0, mine=gives, theirs=takes)
    _, got = rule.move(torch.ones(1), 1.0, mine=takes, theirs=gives)
    assert (left, got) == (0.5, 1.5)


def test_rules_without_shares_give_none_away() -> None:
    for rule in (elastic(), follow(), receive(), stay(), clip_by_norm(1.0)):
        assert rule.share(rule.init(torch.zeros(2))) == 0.0


# ---------------------------------------------------------------- many partners at once


def gossip_map(peers: int, edges: set[tuple[int, int]], rate: float, *, told: bool) -> Tensor:
    """The matrix of one step in which all pairs exchange the same snapshots; `told`: facts count partners."""
    rule, x = elastic(rate), torch.eye(peers, dtype=torch.float64)
    after = x.clone()
    for i, k in edges:
        degrees = tuple(sum(end in edge for edge in edges) if told else 1 for end in (i, k))
        move_i, move_k = moves(rule, x[i], x[k], partners=degrees)
        after[i] += move_i
        after[k] += move_k
    return after


def amplification(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def test_a_hub_that_seven_ask_at_once_amplifies_unless_it_counts_its_partners() -> None:
    """Elastic Gossip with alpha 1/2 and W = 8: the star's Laplacian has the eigenvalue 8, and |1 - 8/2| = 3."""
    star = {(leaf, 0) for leaf in range(1, 8)}
    assert amplification(gossip_map(8, star, 0.5, told=False)) == pytest.approx(3.0)
    capped = gossip_map(8, star, 0.5, told=True)
    assert amplification(capped) == pytest.approx(1.0)  # the mean stays
    differences = torch.linalg.eigvalsh(capped)[:-1]
    assert float(differences[0]) == pytest.approx(1 - 8 / 7)
    torch.testing.assert_close(capped.sum(0), torch.ones(8, dtype=torch.float64))


@given(
    edges=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda e: e[0] < e[1]), max_size=28),
    rate=st.floats(0.0, 0.99),
)
@checked
def test_whoever_meets_whom_peers_that_count_their_partners_never_drive_each_other_apart(
    edges: set[tuple[int, int]], rate: float
) -> None:
    matrix = gossip_map(8, edges, rate, told=True)
    assert amplification(matrix) <= 1 + 1e-12
    torch.testing.assert_close(matrix.sum(0), torch.ones(8, dtype=torch.float64))


def test_a_cap_that_does_not_bind_changes_nothing() -> None:
    a, b = torch.tensor([1.0]), torch.tensor([2.0])
    assert moves(elastic(0.25), a, b, partners=(4, 1)) == moves(elastic(0.25), a, b)
    assert moves(elastic(0.25), a, b, partners=(1, 5))[0].item() == pytest.approx(0.2)


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


@pytest.mark.parametrize("rate", [-0.1, 7.0, float("nan"), float("inf")])
@every_rule
def test_a_moving_rate_out_of_range_is_refused_even_where_it_is_not_used(name: str, rate: float) -> None:
    with pytest.raises(ConfigError, match="moving-rate: got .*from 0") as caught:
        find_rule(name, rate)
    assert (caught.value.key, str(caught.value.got)) == ("moving-rate", str(rate))


@every_elastic_rule
def test_a_symmetric_rule_cannot_copy(name: str) -> None:
    with pytest.raises(ConfigError, match="moving-rate: got 1.0; .* below 1; 0.5 averages the pair"):
        find_rule(name, 1.0)


@pytest.mark.parametrize("rule", [follow, receive])
def test_a_one_sided_rule_can_copy_and_no_more(rule: Callable[[float], ExchangeRule]) -> None:
    assert rule(1.0)
    with pytest.raises(ConfigError, match=r"moving-rate: got 1\.01; .*1 \(copies the partner\)"):
        rule(1.01)


@pytest.mark.parametrize("largest", [0.0, -1.0, math.nan])
def test_clipping_to_nothing_is_refused(largest: float) -> None:
    with pytest.raises(ConfigError, match="clip-by-norm: got .*; a number above 0") as caught:
        clip_by_norm(largest)
    assert caught.value.key == "clip-by-norm"


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    for find in (find_method, lambda name: find_rule(name, 0.5)):
        with pytest.raises(ConfigError, match="rule: got 'eagsd'; allowed: elastic-gossip, .*easgd.*, none") as caught:
            find("eagsd")
        assert caught.value.key == "rule"


@every_rule
def test_a_method_is_complete_and_its_default_rate_is_one_that_its_rule_takes(name: str) -> None:
    method = find_method(name)
    assert find_rule(name, method.moving_rate).init(torch.zeros(1)) in (None, 1.0, ())
    assert method.symmetric <= (method.flow is Flow.BOTH)
    if method.topology is Topology.PAIRS:
        assert method.live


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
