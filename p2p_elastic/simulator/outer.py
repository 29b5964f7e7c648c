"""The outer optimizers of all workers of a simulation (`rules/outer.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from p2p_elastic.rules.outer import Outer
from p2p_elastic.simulator.sending import Moves


class OuterSteps:
    """An outer state for each worker, and the steps that they make after a round.

    A worker that moved makes a step with the parts that moved. One that was due and did not move makes it with all of
    them: it had no partner, or it is the leader. One that counts nothing has copied others, and restarts.

    Args:
        outer: of every worker.
        flat: rows [W, D] with which workers begin.
        trainable: the first elements of D that are parameters; the others make no outer steps.

    Attributes:
        states: by row.
    """

    def __init__(self, outer: Outer, flat: Tensor, trainable: int) -> None:
        self._outer, self._trainable = outer, trainable
        self.states = [outer.init(row[:trainable]) for row in flat]

    def step_(self, flat: Tensor, moves: Moves, due: Iterable[int], weights: Sequence[float] | None = None) -> None:
        """Make the outer steps of one round, after its moves were added.

        Args:
            flat: all rows [W, D]; changed in place.
            moves: of the round.
            due: the workers that asked, whether they had a partner or not.
            weights: how much each worker counts; None: all count.
        """
        parts = dict(moves.parts)
        for row in due:
            if row not in parts:
                parts[row] = [slice(0, flat.shape[1])]
        for row, moved in parts.items():
            for start, stop in sorted({(part.start, min(part.stop, self._trainable)) for part in moved}):
                theta, state = flat[row, start:stop], self.states[row].part(start, stop)
                counts = weights is None or weights[row] > 0.0
                (self._outer.step_ if counts else self._outer.restart_)(theta, state)

    def restart(self, row: int, flat: Tensor) -> None:
        """Begin anew: what a worker is now was not learnt.

        Args:
            row: of the worker.
            flat: all rows [W, D].
        """
        self._outer.restart_(flat[row, : self._trainable], self.states[row])
