"""Injected failures: as often as asked for, and with the effect that they are named after."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules.methods import RULES
from p2p_elastic.simulator.config import Failures, SimulationConfig, SimulationResult
from p2p_elastic.simulator.failures import FaultInjector
from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.run import simulate
from p2p_elastic.simulator.workers import Optimization, StackedWorkers, Workers
from p2p_elastic.tasks import Data, cross_entropy, find_task

WORKERS, STEPS = 4, 5000
BOTH = (StackedWorkers, LoopedWorkers)
both_kinds = pytest.mark.parametrize("kind", BOTH)
every_optimizer = pytest.mark.parametrize(
    "settings",
    [Optimization(momentum=0.9, weight_decay=1e-3), Optimization("adahessian", weight_decay=1e-3, seed=5)],
    ids=["sgd", "adahessian"],
)


def injector(workers: int = WORKERS, seed: int = 1, **settings: float) -> FaultInjector:
    return FaultInjector(Failures(**settings), torch.zeros(workers, 3), seed)


def some_workers(workers: int = WORKERS) -> StackedWorkers:
    torch.manual_seed(0)
    return StackedWorkers(nn.Linear(3, 2), cross_entropy, workers, Optimization(momentum=0.9))


def test_without_failures_nothing_happens() -> None:
    faults, workers = injector(), some_workers()
    before = workers.flat.clone()
    for step in range(1, 300):
        assert faults.begin() == WORKERS
        assert faults.connected == list(range(WORKERS))
        assert faults.exchanging([2, 0]) == [2, 0]
        assert faults.damage(workers, step) == []
    assert torch.equal(workers.flat, before)
    assert not +faults.counts


def test_exchanges_are_dropped_as_often_as_asked_for() -> None:
    faults = injector(drop=0.3)
    kept = sum(len(faults.exchanging(range(WORKERS))) for _ in range(STEPS))
    assert faults.counts["dropped"] == STEPS * WORKERS - kept
    assert kept / (STEPS * WORKERS) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(("share", "steps"), [(0.3, 20), (0.6, 5), (0.9, 3)])
def test_bursts_take_their_share_of_the_time_and_last_as_long_as_asked_for(share: float, steps: int) -> None:
    faults = injector(burst=share, burst_steps=steps)
    away = 0
    for _ in range(STEPS):
        faults.begin()
        away += WORKERS - len(faults.connected)
    assert away / (STEPS * WORKERS) == pytest.approx(share, abs=0.05)
    if share < steps / (steps + 1):
        assert away / faults.counts["bursts"] == pytest.approx(steps, rel=0.2)


def test_one_who_is_always_away_never_exchanges() -> None:
    faults = injector(burst=1.0)
    for _ in range(10):
        faults.begin()
        assert faults.connected == []
        assert faults.exchanging([0, 1]) == []
    assert faults.counts["cut-off"] == 20


@pytest.mark.parametrize(("factor", "steps"), [(1.0, 100), (4.0, 25), (2.5, 40)])
def test_slow_workers_take_fewer_steps(factor: float, steps: int) -> None:
    faults = injector(slow=1, slow_factor=factor)
    active = [faults.begin() for _ in range(100)]
    assert set(active) <= {WORKERS - 1, WORKERS}
    assert active.count(WORKERS) == steps
    assert faults.counts["skipped"] == 100 - steps


def test_a_crash_goes_back_to_the_last_snapshot_and_forgets_momentum() -> None:
    workers = some_workers()
    faults = FaultInjector(Failures(crash=1.0, snapshot_steps=2), workers.flat, 0)
    start = workers.flat.clone()
    workers.flat.add_(1.0)
    assert faults.damage(workers, 1) == list(range(WORKERS))
    assert torch.equal(workers.flat, start)
    assert faults.counts["crashes"] == WORKERS
    calm = FaultInjector(Failures(crash=1e-9, snapshot_steps=2), workers.flat, 0)
    workers.flat.add_(1.0)
    calm.damage(workers, 1)
    assert torch.equal(workers.flat, start + 1.0)


def test_snapshots_are_taken_at_their_steps_and_a_crash_uses_the_newest() -> None:
    workers = some_workers()
    faults = FaultInjector(Failures(crash=0.3, snapshot_steps=10), workers.flat, 0)
    start = workers.flat.clone()
    crashed = False
    for step in range(1, 50):
        workers.flat.add_(1.0)
        before = workers.flat.clone()
        faults.damage(workers, step)
        for row in (workers.flat != before).any(dim=1).nonzero().flatten().tolist():
            crashed |= step > 10
            age = (step - 1) // 10 * 10
            # What a worker had at the snapshot depends on its own crashes; it was never ahead of the clock.
            assert float((workers.flat[row] - start[row]).max()) <= age + 1e-3
    assert crashed


def test_corruption_is_as_strong_as_asked_for() -> None:
    workers = some_workers()
    workers.flat.fill_(2.0)
    big = torch.full((WORKERS, 4000), 2.0)
    workers.flat = big
    faults = FaultInjector(Failures(corrupt=1.0, noise=0.5), big, 0)
    faults.damage(workers, 1)
    assert float((workers.flat - 2.0).std()) == pytest.approx(1.0, rel=0.05)
    assert faults.counts["corruptions"] == WORKERS


def test_the_same_seed_fails_in_the_same_way_and_kinds_do_not_disturb_each_other() -> None:
    a, b, other = (injector(seed=seed, drop=0.5) for seed in (1, 1, 2))
    both = injector(seed=1, drop=0.5, burst=1e-12, corrupt=0.0)
    kept = [[f.exchanging(range(WORKERS)) for _ in range(50)] for f in (a, b, both, other)]
    assert kept[0] == kept[1] == kept[2] != kept[3]


# ---------------------------------------------------------------- workers that do harm


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def batches(steps: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(WORKERS, 8, 3, generator=generator)
        yield list(zip(inputs, torch.randint(2, (WORKERS, 8), generator=generator), strict=True))


def trained(kind: type, settings: Optimization, learning_rate: float, steps: int = 20, **failures: float) -> Workers:
    workers: Workers = kind(model(), cross_entropy, WORKERS, settings)
    faults = FaultInjector(Failures(**failures), workers.flat, 0)
    for drawn in batches(steps):
        workers.gradients(drawn)
        faults.step(workers, learning_rate, WORKERS)
    return workers


@both_kinds
@every_optimizer
def test_a_diverging_worker_has_so_many_times_the_learning_rate(kind: type, settings: Optimization) -> None:
    found = trained(kind, settings, 0.001, diverge=1, diverge_factor=30.0).flat
    calm, fast = (trained(kind, settings, rate).flat for rate in (0.001, 0.03))
    assert torch.equal(found[1:], calm[1:])
    torch.testing.assert_close(found[0], fast[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0], calm[0], atol=1e-2)


@every_optimizer
def test_both_loops_agree_on_who_diverges(settings: Optimization) -> None:
    stacked, looped = (trained(kind, settings, 0.001, diverge=2, diverge_factor=30.0).flat for kind in BOTH)
    torch.testing.assert_close(stacked, looped, atol=1e-4, rtol=1e-4)


@both_kinds
def test_statistics_of_who_diverges_are_those_of_its_batches(kind: type) -> None:
    calm, found = (trained(kind, Optimization(), 0.01, steps=1, diverge=n) for n in (0, 1))
    assert torch.equal(calm.flat[:, calm.trainable :], found.flat[:, calm.trainable :])
    assert not torch.equal(calm.flat[0], found.flat[0])


def test_a_diverging_worker_that_is_slow_diverges_in_its_own_steps_alone() -> None:
    result = run(diverge=2, slow=3, slow_factor=2.0, steps=10)
    assert result.faults == {"diverging": 10 + 5, "skipped": 3 * 5}


def test_flipped_labels_are_counted_from_the_other_end() -> None:
    faults = injector(diverge=1, flipped=2)
    labels = torch.tensor([[0, 9, 4]] * WORKERS)
    assert faults.flip_(labels, 10).tolist() == [[0, 9, 4], [9, 0, 5], [9, 0, 5], [0, 9, 4]]
    assert faults.flip_(labels[:2], 10).tolist() == [[0, 9, 4], [0, 9, 4]]  # flipped back: this is in place
    assert faults.counts == {"bursts": 0, "flipped": 3}


def test_parameters_turn_to_nan_at_their_step_and_only_then() -> None:
    workers = some_workers()
    faults = injector(diverge=1, nan=2, nan_step=3)
    assert [faults.damage(workers, step) for step in (1, 2, 3)] == [[], [], [1, 2]]
    assert workers.flat.isnan().all(dim=1).tolist() == [False, True, True, False]
    workers.flat.fill_(1.0)
    assert faults.damage(workers, 4) == []
    assert bool(workers.flat.isfinite().all())
    assert faults.counts["nan"] == 2


@cache
def digits() -> Data:
    return find_task("digits").load(None)


def run(**options: object) -> SimulationResult:
    given = {"rule": "none", "workers": WORKERS, "steps": 60, "evaluate_steps": 60, **options}
    return simulate(build(given), digits(), "cpu", clock=lambda: 0.0)


def test_alone_the_faulty_learn_nothing_right_and_the_healthy_as_ever() -> None:
    calm, found = run(), run(diverge=1, flipped=1, nan=1, nan_step=60)
    healthy = found.points[-1].accuracies[3]
    assert healthy == calm.points[-1].accuracies[3] > 0.8
    diverging, flipped, broken = found.points[-1].accuracies[:3]
    assert max(diverging, broken) < 0.3
    assert flipped < 0.1  # below chance: it has learnt the wrong classes
    assert found.faults == {"diverging": 60, "flipped": 60, "nan": 1}
    assert list(found.config.failures.faulty) == [0, 1, 2]


def test_a_diverging_worker_spoils_those_that_it_exchanges_with() -> None:
    assert max(run(rule="elastic-gossip", period=1, diverge=1).points[-1].accuracies) < 0.3
    assert min(run(rule="elastic-gossip", period=1).points[-1].accuracies) > 0.7


@pytest.mark.parametrize("rule", sorted(RULES))
def test_with_faulty_workers_every_rule_goes_on_to_the_end_in_the_same_way(rule: str) -> None:
    period = {} if rule == "all-reduce" else {"period": 2}
    options = {"rule": rule, "steps": 6, "evaluate_steps": 6, "diverge": 1, "flipped": 1, "nan": 1, "nan_step": 3}
    first, again = (run(**options, **period) for _ in range(2))
    assert first.steps == 6
    assert repr(first) == repr(again)  # NaN is not itself


def test_at_least_one_worker_is_healthy() -> None:
    assert not Failures(slow=3, crash=0.1).faulty
    SimulationConfig(workers=4, failures=Failures(diverge=1, flipped=1, nan=1))
    with pytest.raises(ConfigError, match=r"diverge/flipped/nan: got \(1, 2, 1\); together fewer than .* \(4\)"):
        SimulationConfig(workers=4, failures=Failures(diverge=1, flipped=2, nan=1))
