"""One round of communication: who meets whom, what it costs, and what the rules make of it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from p2p_elastic.rules.methods import RULES, Flow
from p2p_elastic.rules.pairwise import elastic, follow, receive, stay, sum_weight
from p2p_elastic.simulator.assembly import build_round
from p2p_elastic.simulator.centre import Centre, CentreTogether
from p2p_elastic.simulator.config import SimulationConfig
from p2p_elastic.simulator.leader import Leader
from p2p_elastic.simulator.restarting import Accumulated
from p2p_elastic.simulator.rounds import Pairs, Traffic

WORKERS, ELEMENTS = 5, 7
BYTES = ELEMENTS * 4
ALL = range(WORKERS)
every_rule = pytest.mark.parametrize("rule", sorted(RULES))


def rows(seed: int = 0, workers: int = WORKERS) -> Tensor:
    return torch.randn(workers, ELEMENTS, generator=torch.Generator().manual_seed(seed))


def apply(flat: Tensor, moves: dict[int, Tensor]) -> Tensor:
    after = flat.clone()
    for row, move in moves.items():
        after[row] += move
    return after


# ---------------------------------------------------------------- every rule


@every_rule
def test_moves_leave_the_parameters_as_they_are(rule: str) -> None:
    flat = rows()
    round_ = build_round(SimulationConfig(rule=rule, workers=WORKERS), flat)
    before = flat.clone()
    round_.moves(flat, ALL, ALL, 16)
    assert torch.equal(flat, before)


@every_rule
@pytest.mark.parametrize("workers", [1, 2])
def test_few_workers_are_enough(rule: str, workers: int) -> None:
    flat = rows(workers=workers)
    round_ = build_round(SimulationConfig(rule=rule, workers=workers), flat)
    for step in (16, 32):
        apply(flat, round_.moves(flat, range(workers), range(workers), step))
        round_.settle_(flat, range(workers), range(workers), step, [0.5] * workers)
    assert bool(flat.isfinite().all())


@every_rule
def test_who_is_cut_off_neither_moves_nor_sends(rule: str) -> None:
    flat = rows()
    round_ = build_round(SimulationConfig(rule=rule, workers=WORKERS), flat)
    before = flat.clone()
    reached = [0, 1, 3]
    for step in range(16, 16 * 20, 16):
        moves = round_.moves(flat, ALL, reached, step)
        assert set(moves) <= set(reached)
        flat.copy_(apply(flat, moves))
        round_.settle_(flat, ALL, reached, step, [0.5, 0.4, 0.1, 0.3, 0.2])
    assert torch.equal(flat[[2, 4]], before[[2, 4]])
    assert not {2, 4} & set(round_.leaders)


@every_rule
def test_nobody_due_is_nothing_sent(rule: str) -> None:
    flat = rows()
    round_ = build_round(SimulationConfig(rule=rule, workers=WORKERS), flat)
    before = flat.clone()
    assert round_.moves(flat, [], ALL, 16) == {}
    round_.settle_(flat, [], ALL, 16, [])
    assert torch.equal(flat, before)
    assert (round_.traffic.exchanges, round_.traffic.worker_bytes, round_.traffic.centre_bytes) == (0, 0, 0)


# ---------------------------------------------------------------- pairs


def test_a_mutual_choice_is_one_exchange() -> None:
    flat = rows()
    once, twice = (Pairs(elastic(0.5), flat) for _ in range(2))
    a, b = once.exchange(flat, [(0, 1)]), twice.exchange(flat, [(0, 1), (1, 0)])
    assert all(torch.equal(a[row], b[row]) for row in (0, 1))
    assert once.traffic == twice.traffic
    assert (once.traffic.exchanges, once.traffic.worker_bytes) == (1, 2 * BYTES)


def test_exchanges_at_the_same_time_use_the_old_parameters_and_add_up() -> None:
    flat = rows()
    after = apply(flat, Pairs(elastic(0.25), flat).exchange(flat, [(0, 1), (2, 1)]))
    assert torch.allclose(after[1], flat[1] + 0.25 * (flat[0] + flat[2] - 2 * flat[1]), atol=1e-6)
    assert torch.allclose(after[0], flat[0] + 0.25 * (flat[1] - flat[0]), atol=1e-6)
    assert torch.allclose(after.sum(0), flat.sum(0), atol=1e-5)


def test_a_hub_is_not_thrown_across_its_partners() -> None:
    flat = torch.zeros(WORKERS, ELEMENTS)
    flat[0] = 1.0
    after = apply(flat, Pairs(elastic(0.5), flat).exchange(flat, [(k, 0) for k in (1, 2, 3, 4)]))
    assert torch.allclose(after[0], torch.zeros(ELEMENTS), atol=1e-6)
    assert torch.allclose(after.sum(0), flat.sum(0), atol=1e-6)


def test_who_pulls_moves_and_who_is_asked_sends() -> None:
    flat = rows()
    round_ = Pairs(follow(0.5), flat, flow=Flow.PULL)
    moves = round_.exchange(flat, [(0, 1), (1, 0), (2, 0)])
    assert set(moves) == {0, 1, 2}
    assert torch.allclose(apply(flat, moves)[0], (flat[0] + flat[1]) / 2)
    assert (round_.traffic.exchanges, round_.traffic.worker_bytes) == (3, 3 * BYTES)


def test_pulls_from_several_add_up() -> None:
    flat = rows()
    moves = Pairs(follow(0.25), flat, flow=Flow.PULL).exchange(flat, [(0, 1), (0, 2), (4, 0)])
    assert torch.allclose(apply(flat, moves)[0], flat[0] / 2 + (flat[1] + flat[2]) / 4, atol=1e-6)


def test_who_is_pushed_to_moves() -> None:
    flat = rows()
    round_ = Pairs(receive(0.5), flat, flow=Flow.PUSH)
    moves = round_.exchange(flat, [(0, 1)])
    assert set(moves) == {1}
    assert torch.allclose(apply(flat, moves)[1], (flat[0] + flat[1]) / 2)
    assert (round_.traffic.exchanges, round_.traffic.worker_bytes) == (1, BYTES)


def test_pushed_messages_are_merged_one_after_the_other() -> None:
    flat = rows()
    after = apply(flat, Pairs(receive(0.5), flat, flow=Flow.PUSH).exchange(flat, [(0, 2), (1, 2)]))
    assert torch.allclose(after[2], ((flat[2] + flat[0]) / 2 + flat[1]) / 2, atol=1e-6)


def test_gosgd_keeps_the_weighted_sum_and_the_weights() -> None:
    flat = rows()
    round_ = Pairs(sum_weight(), flat, flow=Flow.PUSH, partners=2, seed=3)
    conserved = flat.sum(0)
    for step in range(30):
        flat = apply(flat, round_.moves(flat, ALL, ALL, step))
        assert sum(round_.states) == pytest.approx(WORKERS)
        weighted = torch.tensor(round_.states) @ flat
        assert torch.allclose(weighted, conserved, atol=1e-4)


def test_partners_are_different_others_and_all_equally_likely() -> None:
    round_ = Pairs(elastic(0.5), rows(), partners=2, seed=1)
    counts: Counter[int] = Counter()
    for _ in range(1000):
        asks = round_.draw([2], ALL)
        assert len({k for _, k in asks}) == 2
        counts.update(k for _, k in asks)
    assert set(counts) == {0, 1, 3, 4}
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_the_same_seed_draws_the_same_partners() -> None:
    a, b, other = (Pairs(elastic(0.5), rows(), seed=seed) for seed in (4, 4, 5))
    drawn = [[round_.draw(ALL, ALL) for _ in range(10)] for round_ in (a, b, other)]
    assert drawn[0] == drawn[1] != drawn[2]


# ---------------------------------------------------------------- centre


def test_each_worker_meets_the_centre_as_the_one_before_left_it() -> None:
    flat = rows()
    round_ = Centre(elastic(0.25), flat, seed=2)
    centre = round_.centre.clone()
    moves = round_.moves(flat, ALL, ALL, 1)
    orders = {tuple(moves)}
    for row, move in moves.items():
        difference = flat[row] - centre
        assert torch.allclose(move, -0.25 * difference, atol=1e-6)
        centre += 0.25 * difference
    assert torch.allclose(round_.centre, centre, atol=1e-6)
    orders |= {tuple(round_.moves(flat, ALL, ALL, step)) for step in range(2, 12)}
    assert len(orders) > 5
    assert (round_.traffic.exchanges, round_.traffic.worker_bytes) == (55, 55 * BYTES)
    assert round_.traffic.centre_bytes == 55 * BYTES


def test_together_all_meet_the_same_centre() -> None:
    flat = rows()
    round_ = CentreTogether(elastic(0.1), flat)
    old = round_.centre.clone()
    after = apply(flat, round_.moves(flat, ALL, ALL, 1))
    beta = WORKERS * 0.1
    assert torch.allclose(round_.centre, (1 - beta) * old + beta * flat.mean(0), atol=1e-6)
    assert torch.allclose(after, flat - 0.1 * (flat - old), atol=1e-6)


def test_the_centre_begins_where_the_workers_do() -> None:
    flat = rows(workers=1).repeat(WORKERS, 1)
    round_ = Centre(elastic(0.3), flat)
    assert all(not bool(move.any()) for move in round_.moves(flat, ALL, ALL, 1).values())


def test_downpour_gives_the_centre_what_was_learnt_since_the_last_time() -> None:
    flat = rows(workers=1).repeat(3, 1)
    start, learnt = flat[0].clone(), rows(1, 3)
    round_ = Accumulated(flat)
    flat.add_(learnt)
    round_.settle_(flat, [0], range(3), 1, [])
    assert torch.allclose(flat[0], start + learnt[0], atol=1e-6)
    round_.settle_(flat, [2], range(3), 2, [])
    assert torch.allclose(flat[2], start + learnt[0] + learnt[2], atol=1e-6)
    assert torch.allclose(flat[1], start + learnt[1], atol=1e-6)
    round_.settle_(flat, [0], range(3), 3, [])
    assert torch.equal(flat[0], round_.centre)
    assert torch.allclose(round_.centre, start + learnt[0] + learnt[2], atol=1e-6)
    assert round_.traffic == Traffic(exchanges=3, worker_bytes=3 * BYTES, centre_bytes=3 * BYTES)


def test_downpour_leaves_statistics_alone_and_sends_parameters_only() -> None:
    """Statistics relax towards the same value; adding up four workers' changes would grow without bound."""
    flat = rows(workers=1).repeat(4, 1)
    flat[:, 5:] = 1.0
    round_ = Accumulated(flat, trainable=5)
    for step in range(1, 200):
        flat[:, 5:] += 0.9 * (0.2 - flat[:, 5:])
        round_.settle_(flat, range(4), range(4), step, [])
    assert torch.allclose(flat[:, 5:], torch.full((4, 2), 0.2))
    assert round_.traffic.worker_bytes == round_.traffic.exchanges * 5 * 4


def test_downpour_does_not_send_a_fault_to_the_centre() -> None:
    flat = rows(workers=1).repeat(2, 1)
    start = flat[0].clone()
    round_ = Accumulated(flat)
    flat[0] += 100.0
    round_.forget(0, flat)
    flat[0] += 1.0
    round_.settle_(flat, [0], range(2), 1, [])
    assert torch.allclose(round_.centre, start + 1.0, atol=1e-4)
    assert torch.equal(flat[0], round_.centre)


# ---------------------------------------------------------------- leader


def test_everybody_follows_the_smallest_loss_and_the_leader_stays() -> None:
    flat = rows()
    before = flat.clone()
    round_ = Leader(follow(0.2), flat)
    round_.settle_(flat, ALL, ALL, 1, [3.0, 2.0, float("nan"), 1.0, float("inf")])
    assert torch.allclose(flat, before + 0.2 * (before[3] - before), atol=1e-6)
    assert torch.equal(flat[3], before[3])
    assert round_.leaders == {3: 1}
    assert (round_.traffic.exchanges, round_.traffic.worker_bytes) == (4, 4 * BYTES)


def test_without_a_finite_loss_nobody_leads() -> None:
    flat = rows()
    before = flat.clone()
    round_ = Leader(follow(0.2), flat)
    round_.settle_(flat, ALL, ALL, 1, [float("nan")] * WORKERS)
    assert torch.equal(flat, before)
    assert not round_.leaders


def test_the_best_of_all_groups_is_followed_as_its_own_group_left_it() -> None:
    flat = rows(workers=4)
    losses = [2.0, 1.0, 4.0, 3.0]
    round_ = Leader(follow(0.5), flat, groups=2, global_rule=follow(0.25), global_period=2)
    local = flat.clone()
    local[0] += 0.5 * (flat[1] - flat[0])
    local[2] += 0.5 * (flat[3] - flat[2])
    round_.settle_(flat, range(4), range(4), 1, losses)
    assert torch.allclose(flat, local, atol=1e-6)
    expected = local.clone()
    expected[0] += 0.5 * (local[1] - local[0])
    expected[2] += 0.5 * (local[3] - local[2])
    expected = expected + 0.25 * (expected[1] - expected)
    round_.settle_(flat, range(4), range(4), 2, losses)
    assert torch.allclose(flat, expected, atol=1e-6)
    assert round_.leaders == {1: 3, 3: 2}


def test_with_one_group_there_is_one_pull() -> None:
    flat = rows(workers=4)
    before = flat.clone()
    config = SimulationConfig(rule="lsgd", workers=4, moving_rate=0.1, period=2)
    build_round(config, flat).settle_(flat, range(4), range(4), 4, [1.0, 2.0, 3.0, 4.0])
    assert torch.allclose(flat, before + 0.1 * (before[0] - before), atol=1e-6)


def test_a_rule_that_stays_moves_nobody() -> None:
    flat = rows()
    moves = Pairs(stay(), flat).moves(flat, ALL, ALL, 1)
    assert all(not bool(move.any()) for move in moves.values())
