"""Whole simulations on the digits: identities between rules, the same bits for the same seed, and what is reported."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.trainings import needs_muon
from torch import Tensor, nn

from p2p_elastic.rules.methods import RULES
from p2p_elastic.simulator.config import Failures, Loop, Point, SimulationConfig, SimulationResult
from p2p_elastic.simulator.failures import FaultInjector
from p2p_elastic.simulator.leader import Leader
from p2p_elastic.simulator.report import read_result, write_result
from p2p_elastic.simulator.run import simulate
from p2p_elastic.simulator.workers import StackedWorkers, Workers
from p2p_elastic.tasks import Data, find_task
from p2p_elastic.tasks.batch import Batch

STEPS = 24
every_rule = pytest.mark.parametrize("rule", sorted(RULES))


@cache
def digits() -> Data:
    return find_task("digits").load(None)


def run(*, loop: Loop = "auto", **settings: Any) -> SimulationResult:
    settings = {"steps": STEPS, "workers": 3, "period": 4, "evaluate_steps": 12, "batch_size": 16, **settings}
    if settings["period"] is None:
        del settings["period"]
    return simulate(SimulationConfig(**settings), digits(), "cpu", clock=lambda: 0.0, loop=loop)


def learnt(result: SimulationResult) -> list[tuple[object, ...]]:
    """What happened to the parameters, without what it cost."""
    return [(p.step, p.training_loss, p.accuracies, p.average_accuracy, p.consensus_distance) for p in result.points]


@every_rule
def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(rule: str) -> None:
    a, b, other = (run(rule=rule, seed=seed) for seed in (1, 1, 2))
    assert a == b
    assert learnt(a) != learnt(other)


@every_rule
def test_looped_workers_learn_the_same(rule: str) -> None:
    a, b = (run(rule=rule, loop=loop) for loop in ("stacked", "looped"))
    for p, q in zip(a.points, b.points, strict=True):
        assert p.training_loss == pytest.approx(q.training_loss, rel=1e-4)
        assert p.consensus_distance == pytest.approx(q.consensus_distance, rel=1e-3, abs=1e-5)
        assert (p.exchanges, p.bytes_per_worker) == (q.exchanges, q.bytes_per_worker)


@every_rule
@pytest.mark.parametrize("optimizer", ["sgd", "adahessian", pytest.param("muon", marks=needs_muon)])
def test_one_worker_alone_trains(rule: str, optimizer: str) -> None:
    result = run(rule=rule, workers=1, steps=6, evaluate_steps=None, optimizer=optimizer)
    (point,) = result.points
    assert point.step == 6
    assert len(point.accuracies) == 1
    assert point.consensus_distance == 0.0


@pytest.mark.parametrize("rule", ["elastic-gossip", "gossip-pull", "gossip-push", "eamsgd", "lsgd"])
def test_a_moving_rate_of_zero_is_training_alone_bit_for_bit(rule: str) -> None:
    assert learnt(run(rule=rule, moving_rate=0.0)) == learnt(run(rule="none"))


def test_easgd_is_eamsgd_without_momentum() -> None:
    assert run(rule="easgd").points == run(rule="eamsgd", momentum=0.0).points


@pytest.mark.parametrize("rule", ["easgd", "eamsgd", "easgd-sync"])
@pytest.mark.parametrize(("workers", "rate"), [(1, 0.9), (4, 0.225), (8, 0.1125), (16, 0.05625)])
def test_who_pulls_a_centre_has_the_papers_share_of_beta_unless_told_otherwise(
    rule: str, workers: int, rate: float
) -> None:
    assert SimulationConfig(rule=rule, workers=workers).rate == rate
    assert SimulationConfig(rule=rule, workers=workers, moving_rate=0.3).rate == 0.3


def test_many_workers_at_once_do_not_throw_the_centre_away() -> None:
    last = run(rule="easgd-sync", workers=16, steps=100).points[-1]
    assert last.training_loss is not None
    assert last.accuracy > 0.8


def test_all_reduce_keeps_the_workers_the_same() -> None:
    points = run(rule="all-reduce").points
    assert all(point.consensus_distance < 1e-4 for point in points)
    elements = 85_002
    assert points[-1].bytes_per_worker == pytest.approx(STEPS * 2 * elements * 4 * 2 / 3)


def test_exchanging_brings_workers_together() -> None:
    alone = run(rule="none").points[-1].consensus_distance
    for rule in ("elastic-gossip", "gossip-pull", "gossip-push", "gosgd", "eamsgd", "lsgd"):
        assert run(rule=rule, period=2).points[-1].consensus_distance < 0.9 * alone, rule


def test_points_are_where_they_were_asked_for_and_at_the_end() -> None:
    result = run(rule="none", steps=20, evaluate_steps=8)
    assert [p.step for p in result.points] == [8, 16, 20]
    assert result.steps == 20
    batches = 1257 // 3 // 16
    assert result.points[-1].epoch == pytest.approx(20 / batches)


def test_without_steps_it_goes_on_for_the_epochs_and_reports_each() -> None:
    result = run(rule="none", steps=None, epochs=2, evaluate_steps=None)
    assert [p.epoch for p in result.points] == [1.0, 2.0]
    assert result.steps == 2 * (1257 // 3 // 16)


def test_progress_is_told_and_a_stop_ends_it_cleanly() -> None:
    seen: list[tuple[int, int, Point | None]] = []
    config = SimulationConfig(steps=50, evaluate_steps=4, workers=2)
    result = simulate(
        config,
        digits(),
        "cpu",
        clock=lambda: float(len(seen)),
        progress=lambda *told: seen.append(told),
        should_stop=lambda: len(seen) >= 10,
    )
    assert [step for step, _, _ in seen] == list(range(1, 11))
    assert {steps for _, steps, _ in seen} == {50}
    assert [p for _, _, p in seen if p is not None] == list(result.points)
    assert (result.steps, result.seconds) == (10, 10.0)


def test_the_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    run(rule="none", steps=2)
    assert torch.equal(torch.rand(1), expected)


def test_failures_are_counted() -> None:
    failures = Failures(
        drop=0.3, burst=0.3, burst_steps=3, crash=0.1, snapshot_steps=5, slow=1, slow_factor=2.0, corrupt=0.1, noise=0.1
    )
    for rule in sorted(RULES):
        result = run(rule=rule, failures=failures, period=2)
        kinds = {"bursts", "skipped", "crashes", "corruptions"} | (set() if rule == "none" else {"dropped", "cut-off"})
        assert set(result.faults) == kinds, rule
        assert result.faults["skipped"] == STEPS // 2


def test_dropping_everything_is_training_alone_bit_for_bit() -> None:
    lost = run(rule="elastic-gossip", failures=Failures(drop=1.0))
    assert learnt(lost) == learnt(run(rule="none"))
    assert lost.faults == {"dropped": 3 * STEPS // 4}
    assert lost.points[-1].exchanges == 0


def test_an_elastic_gossip_exchange_costs_two_vectors() -> None:
    point = run(rule="elastic-gossip", period=1, workers=2).points[-1]
    assert point.exchanges == STEPS  # two workers choose each other
    assert point.bytes_per_worker == STEPS * 85_002 * 4


@pytest.mark.parametrize("split", ["shards", "whole", "overlap", "dirichlet"])
def test_every_division_of_the_data_trains(split: str) -> None:
    assert run(split=split, dirichlet=0.01, workers=8, steps=4).steps == 4


def test_batches_may_be_larger_than_a_part() -> None:
    assert run(workers=16, batch_size=100, steps=3).steps == 3


def test_the_learning_rate_decays_at_the_milestones_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from p2p_elastic.simulator import run as module

    task = find_task("digits")
    stopping = replace(task, recipe=replace(task.recipe, milestones=(1,), decay=0.0, momentum=0.0))
    monkeypatch.setattr(module, "find_task", lambda _name: stopping)
    first, *rest = run(rule="none", workers=4, evaluate_steps=1257 // 4 // 16, steps=30).points
    assert all(point.accuracies == first.accuracies for point in rest)


def test_milestones_of_a_configuration_replace_those_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from p2p_elastic.simulator import run as module

    task = find_task("digits")
    stopping = replace(task, recipe=replace(task.recipe, milestones=(1,), decay=0.0, momentum=0.0))
    monkeypatch.setattr(module, "find_task", lambda _name: stopping)
    epoch = 1257 // 3 // 16
    later = run(rule="none", milestones=(0.5,), evaluate_steps=1, steps=epoch).points
    assert [p.step for p, q in itertools.pairwise(later) if learnt_at(p) == learnt_at(q)] == list(range(13, epoch))
    never = run(rule="none", milestones=(), evaluate_steps=1, steps=epoch + 5).points
    assert not any(learnt_at(p) == learnt_at(q) for p, q in itertools.pairwise(never))


def learnt_at(point: Point) -> float:
    return point.consensus_distance


def test_the_learning_rate_decays_with_the_square_root_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(StackedWorkers, "step", lambda _self, rate: rates.append(rate))
    run(rule="none", learning_rate=0.1, lr_decay=0.5, steps=5)
    assert rates == pytest.approx([0.1 / (1 + 0.5 * t) ** 0.5 for t in range(5)])


def test_an_epoch_of_uneven_parts_is_that_of_an_even_one() -> None:
    assert run(rule="none", split="dirichlet", dirichlet=0.01, workers=4, epochs=1, steps=None).steps == 1257 // 4 // 16


@every_rule
@pytest.mark.parametrize("loop", ["stacked", "looped"])
def test_a_simulation_that_diverges_goes_on_and_its_result_reads_back(rule: str, loop: Loop, tmp_path: Path) -> None:
    result = run(rule=rule, learning_rate=1e3, loop=loop, period=2)
    assert result.steps == STEPS
    last = result.points[-1]
    assert last.training_loss is None
    assert not math.isfinite(last.consensus_distance) or rule == "all-reduce"
    write_result(result, tmp_path)
    again = read_result(tmp_path)
    assert repr(again).replace("inf", "nan") == repr(result).replace("inf", "nan")


@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_a_broken_worker_exchanges_with_nobody_and_the_others_go_on(
    weighting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As live: numbers that are not finite are neither offered nor taken."""
    real = FaultInjector.damage

    def damage(self: FaultInjector, workers: Workers, step: int) -> list[int]:
        workers.flat[0, 0] = math.nan if step == 1 else workers.flat[0, 0]
        return real(self, workers, step)

    monkeypatch.setattr(FaultInjector, "damage", damage)
    together = run(rule="elastic-gossip", workers=4, period=1, steps=12, weighting=weighting)
    accuracies = together.points[-1].accuracies
    assert accuracies[0] < 0.3 < min(accuracies[1:])
    assert math.isnan(together.points[-1].consensus_distance)
    alone = run(rule="elastic-gossip", workers=2, period=1, steps=12, weighting=weighting)
    assert alone.points[-1].exchanges == 1  # of the two the first breaks at once


def test_a_loss_that_is_infinite_never_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    real = StackedWorkers.gradients

    def gradients(self: StackedWorkers, batches: Sequence[Batch]) -> Tensor:
        losses = real(self, batches)
        losses[0] = torch.inf
        return losses

    monkeypatch.setattr(StackedWorkers, "gradients", gradients)
    result = run(rule="lsgd", workers=1, period=1, steps=4)
    assert result.leaders == {}
    seen: list[float] = []
    settle = Leader.settle_
    monkeypatch.setattr(Leader, "settle_", lambda self, *given: (seen.append(given[-1][0]), settle(self, *given)))
    run(rule="lsgd", workers=2, period=1, steps=4)
    assert seen == [math.inf] * 4


def test_downpour_with_batchnorm_keeps_its_statistics_sane(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from p2p_elastic.simulator import run as module

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    monkeypatch.setattr(module, "find_task", lambda _name: replace(find_task("digits"), model=model))
    point = run(rule="downpour", workers=4, steps=160, period=16, learning_rate=0.01).points[-1]
    assert min(point.accuracies) > 0.8
    elements = 64 * 16 + 16 + 2 * 16 + 16 * 10 + 10
    assert point.bytes_per_worker == pytest.approx(160 // 16 * elements * 4)


def test_a_crash_in_downpour_does_not_take_back_what_the_centre_knows() -> None:
    crashing = {"failures": Failures(crash=0.02, snapshot_steps=1000), "momentum": 0.0, "workers": 4}
    point = run(rule="downpour", steps=200, **crashing).points[-1]
    assert point.centre_accuracy is not None
    assert point.centre_accuracy > 0.8


def test_all_reduce_of_adahessian_sends_curvatures_too() -> None:
    points = [run(rule="all-reduce", optimizer=name, steps=4).points[-1] for name in ("sgd", "adahessian")]
    assert points[1].bytes_per_worker == 2 * points[0].bytes_per_worker


def test_leaders_are_counted_and_groups_have_their_own() -> None:
    result = run(rule="lsgd", workers=4, groups=2, period=2, global_period=4)
    assert sum(result.leaders.values()) == 2 * STEPS // 2 + STEPS // 4


def test_what_is_learnt_is_learnt() -> None:
    result = run(rule="elastic-gossip", period=None, probability=0.25, steps=150, evaluate_steps=150, workers=4)
    assert result.points[-1].average_accuracy > 0.93
    assert min(result.points[-1].accuracies) > 0.9
