"""Injected failures: as often as asked for, and with the effect that they are named after."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from p2p_elastic.simulator.config import Failures
from p2p_elastic.simulator.failures import FaultInjector
from p2p_elastic.simulator.workers import Optimization, StackedWorkers

WORKERS, STEPS = 4, 5000


def injector(workers: int = WORKERS, seed: int = 1, **settings: float) -> FaultInjector:
    return FaultInjector(Failures(**settings), torch.zeros(workers, 3), seed)


def some_workers(workers: int = WORKERS) -> StackedWorkers:
    torch.manual_seed(0)
    return StackedWorkers(nn.Linear(3, 2), functional.cross_entropy, workers, Optimization(momentum=0.9))


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
