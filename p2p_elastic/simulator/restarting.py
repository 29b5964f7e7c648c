"""Rounds after which workers go on from one vector: what a centre made of all that they learnt, or the mean of all."""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor

from p2p_elastic.simulator.rounds import Nobody, reached


class Accumulated(Nobody):
    """DOWNPOUR (Algorithm 3), before the next gradient: centre += x - anchor; x = centre; anchor = x.

    Due workers come one after another in random order. Both ends send a vector. What travels are the first `trainable`
    elements: adding up what several workers do to BatchNorm's statistics, rather than averaging it, would diverge.

    With `average_rate` a (MVADOWNPOUR) `centre` is the moving average z <- (1 - a) z + a centre, of the centre before
    each of its updates.

    Args:
        flat: rows [W, D] with which workers begin, all the same.
        trainable: the elements that travel, the first ones; None: all.
        average_rate: a, of MVADOWNPOUR; None: DOWNPOUR.
        seed: of the order.

    Attributes:
        anchors: [W, n], what each worker had when it met the centre last.
        centre: [D].
    """

    def __init__(
        self, flat: Tensor, *, trainable: int | None = None, average_rate: float | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self._rng, self._average_rate = random.Random(seed), average_rate
        self._trainable = slice(flat.shape[1] if trainable is None else trainable)
        self._origin = flat[0, self._trainable].clone()  # workers restart from it
        self.anchors = flat[:, self._trainable].clone()
        self.centre: Tensor = flat[0].clone()

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        """Let due workers push to the centre what they learnt, and restart from it.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.
            losses: [W], recent means, for choosing leaders.
        """
        order = reached(due, connected)
        self._rng.shuffle(order)
        shown = self.centre[self._trainable]
        for row in order:
            mine = flat[row, self._trainable]
            if self._average_rate is not None:
                shown.lerp_(self._origin, self._average_rate)
            self._origin.add_(mine - self.anchors[row])
            mine.copy_(self._origin)
            self.anchors[row].copy_(self._origin)
            self._count(self._trainable, workers=1, centre=1)
        if self._average_rate is None:
            shown.copy_(self._origin)

    def forget(self, row: int, flat: Tensor) -> None:
        """Drop what the worker learnt since it last met the centre: the fault itself must not go to the centre.

        Args:
            row: of the worker.
            flat: all rows [W, D], after the fault.
        """
        self.anchors[row].copy_(flat[row, self._trainable])


class Everybody(Nobody):
    """Local SGD: due workers take their mean; in a ring each of n sends 2 (n - 1) / n of its parameters.

    With an outer step after it this is DiLoCo: all begin at the same slow parameters, so the mean of what they gained
    is the mean of them less these, and every worker makes the same step.

    Source: Douillard et al., DiLoCo, arXiv 2311.08105, Algorithm 1.
    """

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        """Let the due workers that can be reached take their mean.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.
            losses: [W], recent means, for choosing leaders.
        """
        rows = reached(due, connected)
        if len(rows) < 2:
            return
        mean = flat[rows].mean(dim=0)
        for row in rows:
            flat[row].copy_(mean)
        self.traffic.exchanges += 1
        self.traffic.worker_bytes += 2 * (len(rows) - 1) * mean.numel() * mean.element_size()
