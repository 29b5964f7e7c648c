"""Injects faults into workers, drawn from seeds: the failure models of `Failures`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from p2p_elastic.simulator.config import Failures
from p2p_elastic.simulator.workers import Workers


class FaultInjector:
    """The faults of all workers. Every kind and worker has its own random numbers: one does not shift another.

    A round is `begin()`, then `flip_(labels, classes)` and `exchanging(due)`, `step(workers, learning_rate, active)` in
    place of the workers' own, and at its end `damage(workers, step)`.

    Args:
        failures: what is injected, and how often.
        flat: [W, D], with which workers begin; the first snapshots are copies of it.
        seed: of all random numbers.

    Attributes:
        counts: by kind: "dropped" (due exchanges lost at random), "cut-off" (due exchanges lost to a burst), "bursts"
            (begun), "skipped" (steps that a slow worker did not take), "crashes", "corruptions", "diverging" (steps at
            too high a rate), "flipped" (batches with flipped labels) and "nan" (workers that turned to NaN).
        restarted: workers that crashed in the last step, and know it.
    """

    def __init__(self, failures: Failures, flat: Tensor, seed: int) -> None:
        workers = len(flat)
        self._failures, self._workers = failures, workers
        self._slow_from = workers - failures.slow
        self._flipped = slice(failures.diverge, failures.diverge + failures.flipped)
        self._nan = slice(self._flipped.stop, self._flipped.stop + failures.nan)
        self._credit = 0.0
        self.counts: Counter[str] = Counter()
        self.restarted: list[int] = []
        kinds = ("drop", "burst", "crash", "corrupt")
        self._rng = {kind: [random.Random(f"{seed} {kind} {i}") for i in range(workers)] for kind in kinds}
        self._noise = torch.Generator().manual_seed(seed)
        self._enter, self._leave = _rates(failures.burst, failures.burst_steps)
        self._away = [failures.burst > 0.0 and rng.random() < failures.burst for rng in self._rng["burst"]]
        self.counts["bursts"] += sum(self._away)
        self._snapshots = flat.clone() if failures.crash > 0.0 else None

    def begin(self) -> int:
        """Begin a round.

        Returns:
            How many workers, the first ones, take a step in it.
        """
        if self._failures.burst > 0.0:
            self._move_bursts()
        self._credit += 1.0
        if self._credit >= self._failures.slow_factor:
            self._credit -= self._failures.slow_factor
            return self._workers
        self.counts["skipped"] += self._failures.slow
        return self._slow_from

    def _move_bursts(self) -> None:
        for worker, rng in enumerate(self._rng["burst"]):
            was = self._away[worker]
            if rng.random() < (self._leave if was else self._enter):
                self._away[worker] = not was
                self.counts["bursts"] += not was

    @property
    def connected(self) -> list[int]:
        """The workers that can be reached in this round."""
        return [worker for worker, away in enumerate(self._away) if not away]

    def exchanging(self, due: Sequence[int]) -> list[int]:
        """Choose the due workers whose exchange takes place.

        Args:
            due: the workers that ask.

        Returns:
            Those of them that are neither cut off nor dropped, in their order.
        """
        kept = []
        for worker in due:
            if self._away[worker]:
                self.counts["cut-off"] += 1
            elif self._hits("drop", self._failures.drop, worker):
                self.counts["dropped"] += 1
            else:
                kept.append(worker)
        return kept

    def flip_(self, labels: Tensor, classes: int) -> Tensor:
        """Change the labels of the workers that train on flipped ones, in place.

        Args:
            labels: [n, B] of the first n workers, 0..classes - 1.
            classes: of the task.

        Returns:
            `labels`.
        """
        mine = labels[self._flipped]
        mine.copy_(classes - 1 - mine)
        self.counts["flipped"] += len(mine)
        return labels

    def step(self, workers: Workers, learning_rate: float, active: int) -> None:
        """Make one optimizer step, at a higher rate for the workers that diverge.

        Args:
            workers: all of them, with gradients of the first ones.
            learning_rate: of those that do not diverge.
            active: the number of workers that step, the first ones.
        """
        # A step is proportional to the rate, and nothing that an optimizer keeps depends on it (SGD, AdaHessian): to go
        # that many times as far is the higher rate, up to rounding.
        mine = workers.flat[: min(self._failures.diverge, active)]
        before = mine.clone()
        workers.step(learning_rate)
        mine.copy_(before.lerp_(mine, self._failures.diverge_factor))
        self.counts["diverging"] += len(mine)

    def damage(self, workers: Workers, step: int) -> list[int]:
        """Crash and corrupt workers after their step, or turn them to NaN, and take snapshots when due.

        Args:
            workers: all of them; rows are changed in place.
            step: of the simulation, from 1.

        Returns:
            The workers that were damaged.
        """
        damaged: list[int] = []
        self.restarted = []
        if step == self._failures.nan_step:
            workers.flat[self._nan, : workers.trainable] = torch.nan
            damaged += range(self._workers)[self._nan]
            self.counts["nan"] += len(damaged)
        for worker in range(self._workers):
            if self._hits("crash", self._failures.crash, worker):
                assert self._snapshots is not None
                workers.flat[worker].copy_(self._snapshots[worker])
                workers.reset(worker)
                self.counts["crashes"] += 1
                self.restarted += [] if self._failures.silent else [worker]
                damaged.append(worker)
            if self._hits("corrupt", self._failures.corrupt, worker):
                workers.add_({worker: self._noise_for(workers.flat[worker])})
                self.counts["corruptions"] += 1
                damaged.append(worker)
        if self._snapshots is not None and step % self._failures.snapshot_steps == 0:
            self._snapshots.copy_(workers.flat)
        return damaged

    def _noise_for(self, row: Tensor) -> Tensor:
        # Drawn on the CPU: a seed means the same on every device.
        noise = torch.randn(row.shape, generator=self._noise).to(row.device)
        return noise.mul_(row.square().mean().sqrt() * self._failures.noise)

    def _hits(self, kind: str, probability: float, worker: int) -> bool:
        return probability > 0.0 and self._rng[kind][worker].random() < probability


def _rates(share: float, steps: int) -> tuple[float, float]:
    """The probabilities per step that a burst begins and ends, so that it lasts `steps` in the mean, and the stationary
    share of a two-state Markov chain is `share`.

    If both are not possible (a large share of short bursts), bursts follow each other at once and last longer.
    """
    if share in (0.0, 1.0):
        return share, 1.0 - share
    enter = min(1.0, share / ((1.0 - share) * steps))
    return enter, enter * (1.0 - share) / share
