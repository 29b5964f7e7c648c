"""How good the models were that the peers copied to disk, and when: afterwards, so that it costs no training time."""

from __future__ import annotations

import bisect
import hashlib
import os
import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from system import Record
from torch import Tensor

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.tasks import Data, Split, Task, evaluate, initial_model

STRIDE = 8  # every so many moments are looked at first, then those around the one in question
PEEK_SHARE = 10  # one example in so many, while the peers train, each time others
PEEK_SECONDS = 3.0
PEEKS = 6  # whose mean counts: of 6,000 of MNIST's 10,000 examples
PEEK_MARGIN = 0.002


class Judge:
    """Evaluates parameters on the test split of a task, several at once; the same ones only once.

    A score is the accuracy, or, `by_loss`, the loss in nats times -1: the larger, the better.
    """

    def __init__(self, task: Task, data: Data, *, by_loss: bool = False) -> None:
        self._task, self._by_loss = task, by_loss
        self._split: Any = data.test  # tensors in memory
        self._own = threading.local()  # a model for each thread
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._known: dict[bytes, float] = {}

    def glance(self, values: Tensor, turn: int) -> float:
        """The score of parameters [D] on a few examples, others in each turn."""
        some = slice(turn % PEEK_SHARE, None, PEEK_SHARE)  # from all over the split: the halves of MNIST's differ
        return self._evaluate(values, Split(self._split.inputs[some], self._split.labels[some]))

    def scores(self, several: Iterable[Tensor]) -> list[float]:
        """Of each of several parameters [D], on the whole test split; torch should have one thread here."""
        return list(self._pool.map(self._score, several))

    def _score(self, values: Tensor) -> float:
        digest = hashlib.blake2b(values.numpy().data).digest()
        if digest not in self._known:
            self._known[digest] = self._evaluate(values, self._split)
        return self._known[digest]

    def _evaluate(self, values: Tensor, split: Split) -> float:
        if not hasattr(self._own, "model"):
            self._own.model = initial_model(self._task, 0)
        ParameterVector(self._own.model).load_(values)
        result = evaluate(self._own.model, self._task, split, "cpu")
        assert result is not None
        if self._by_loss:
            return -result.loss
        assert result.accuracy is not None, "a task without accuracy: give --target-loss"
        return result.accuracy


class Peek:
    """Whether a run may end: one peer after the other is looked at, on few examples. It decides nothing else."""

    def __init__(self, judge: Judge, target: float, clock: Callable[[], float]) -> None:
        self._judge, self._wanted, self._clock = judge, min(1.0, target + PEEK_MARGIN), clock
        self._due, self._turn = clock() + PEEK_SECONDS, 0
        self._last: deque[float] = deque(maxlen=PEEKS)

    @property
    def mean(self) -> float:
        """Of the last glances."""
        return statistics.fmean(self._last) if self._last else float("nan")

    def __call__(self, record: Record) -> bool:
        if self._clock() < self._due:
            return False
        self._due = self._clock() + PEEK_SECONDS
        rank = 1 + self._turn % record.peers
        copies = record.copies(rank)
        if copies:
            self._last.append(self._judge.glance(_values(record, rank, copies[-1]), self._turn))
            self._turn += 1
        return len(self._last) == PEEKS and self.mean >= self._wanted


def _values(record: Record, rank: int, copy: dict[str, Any]) -> Tensor:
    path: Path = record.folder / f"peer-{rank}" / copy["file"]
    return torch.from_numpy(np.fromfile(path, dtype=np.float32))


class Verdict:
    """The scores of one run at a sequence of moments: at each of them every peer has its latest copy."""

    def __init__(self, record: Record, judge: Judge, target: float, batch_size: int) -> None:
        self._record, self._judge, self._target, self._batch_size = record, judge, target, batch_size
        self._copies = {rank: record.copies(rank) for rank in record.ranks}
        self.zero = max(record.began())
        everyone = sorted(copy["at"] for copies in self._copies.values() for copy in copies)
        first = max(copies[0]["at"] for copies in self._copies.values())
        self.moments = [at for at in everyone[:: record.peers] if at >= first]
        self._medians: dict[int, float] = {}
        self._averages: dict[int, float] = {}

    def _latest(self, i: int) -> dict[int, dict[str, Any]]:
        """Rank -> the latest copy at moment `i`."""
        at = self.moments[i]
        return {
            rank: copies[bisect.bisect_right([c["at"] for c in copies], at) - 1]
            for rank, copies in self._copies.items()
        }

    def each(self, i: int) -> list[float]:
        return self._judge.scores(_values(self._record, *found) for found in self._latest(i).items())

    def median(self, i: int) -> float:
        if i not in self._medians:
            self._medians[i] = statistics.median(self.each(i))
        return self._medians[i]

    def average(self, i: int) -> float:
        """The score of the average of all peers' parameters."""
        if i not in self._averages:
            vectors = [_values(self._record, *found) for found in self._latest(i).items()]
            (self._averages[i],) = self._judge.scores([torch.stack(vectors).mean(dim=0)])
        return self._averages[i]

    def at(self, i: int) -> dict[str, float]:
        """What it had taken to come to moment `i`."""
        steps = statistics.fmean(copy["step"] for copy in self._latest(i).values())
        seconds = self.moments[i] - self.zero
        return {
            "seconds": seconds,
            "seconds_with_start": self.moments[i] - self._record.started,
            "steps": steps,
            "samples_per_peer": steps * self._batch_size,
            "bytes_per_peer": self._sent(self.moments[i]) - self._sent(self.zero),
            "bytes_per_peer_with_start": self._sent(self.moments[i]) - self._sent(self._record.started),
        }

    def _sent(self, at: float) -> float:
        times, counts = self._times_and_counts
        return float(np.interp(at, times, counts)) / self._record.peers

    @cached_property
    def _times_and_counts(self) -> tuple[list[float], list[int]]:
        return [at for at, _ in self._record.sent], [count for _, count in self._record.sent]

    def report(self) -> dict[str, Any]:
        """All that is known of the run."""
        coarse = [*range(0, len(self.moments), STRIDE), len(self.moments) - 1]
        for i in coarse:
            self.average(i)
        reached = first_reached(self.median, coarse, self._target)
        by_average = first_reached(self.average, coarse, self._target)
        last, began = len(self.moments) - 1, self._record.began()
        curve = sorted(self._medians)
        return {
            "reached": None if reached is None else self.at(reached),
            "reached_by_the_average": None if by_average is None else self.at(by_average),
            "end": {**self.at(last), "median": self.median(last), "average": self.average(last)},
            "seconds_to_begin": self.zero - self._record.started,
            "began_apart_seconds": self.zero - min(began),
            "steps_per_second": self.at(last)["steps"] / (self.moments[last] - self.zero),
            "resolution_seconds": None if not reached else self.moments[reached] - self.moments[reached - 1],
            "counted_by_peers": [self._copies[rank][-1].get("exchanges") for rank in self._record.ranks],
            "averaged": dict(self._record.averaged),
            "curve": [
                {**self.at(i), "median": self.median(i), "each": self.each(i), "average": self._averages.get(i)}
                for i in curve
            ],
        }


def first_reached(score: Callable[[int], float], coarse: Sequence[int], target: float) -> int | None:
    """The first moment that is looked at where the target is reached, and at the next one too.

    Looked at are the `coarse` ones, and all from the one before to the one after each that reaches it.
    """
    looked = sorted(set(coarse))
    for at, here in enumerate(looked):
        if score(here) >= target:
            fine = range(looked[max(0, at - 1)], looked[min(at + 1, len(looked) - 1)] + 1)
            for i, j in pairwise(fine):
                if score(i) >= target and score(j) >= target:
                    return i
    return None
