"""Notices an optimizer that undoes every move: one that keeps copies of the parameters, and writes those back.

Optimizers with fp32 masters of 16-bit parameters step on the masters and copy them into the model. A move that was
added to the model is gone after the next step, while every exchange seems to have completed. A few elements show it:
they step back by the move, whatever the gradient is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from p2p_elastic.parameters.vector import ParameterVector, Part

ELEMENTS = 256
MOVES = 5  # that are looked at, at least
KEPT = 0.95  # of what was seen at each further move: the last twenty or so count
BACK, ERRORS = 0.5, 4.0  # of a move: more than that, by so many standard errors, is taken back only by a copy


class Sums(NamedTuple):
    """Of elements of moves m, and of the steps s that followed them.

    Attributes:
        moves: how many.
        elements: how many, as far as they still count.
        mm: of m squared.
        ms: of their products.
        ss: of s squared.
    """

    moves: int = 0
    elements: float = 0.0
    mm: float = 0.0
    ms: float = 0.0
    ss: float = 0.0


class UndoneMoves:
    """Looks at a few elements before and after a move, and after the step that follows. Of the training thread.

    Args:
        vector: of the model.
    """

    def __init__(self, vector: ParameterVector) -> None:
        self._vector, self._part = vector, _middle_of_the_largest(vector)
        self._move: Tensor | None = None  # of those elements, at the last step
        self._moved_to: Tensor | None = None
        self._sums = Sums()

    def look(self) -> Tensor:
        """Copy the elements.

        Returns:
            float32 [ELEMENTS or fewer], on the CPU.
        """
        return self._vector.snapshot(torch.empty(self._part[1] - self._part[0]), self._part)

    def stepped(self) -> None:
        """See, after an optimizer step, what became of the last move. Looks only if there was one."""
        if self._move is None or self._moved_to is None:
            return
        move, step = self._move, self.look() - self._moved_to
        self._move = self._moved_to = None
        if not move.any():  # of another part of the model
            return
        moves, *before = self._sums
        found = len(move), float(move @ move), float(move @ step), float(step @ step)
        self._sums = Sums(moves + 1, *(KEPT * a + b for a, b in zip(before, found, strict=True)))

    def moved(self, before: Tensor) -> None:
        """Remember a move.

        Args:
            before: what `look` gave before it.
        """
        self._moved_to = self.look()
        self._move = self._moved_to - before

    @property
    def undone(self) -> bool:
        """Whether the moves of late were taken back: the slope of a regression of steps on moves is near -1."""
        moves, elements, mm, ms, ss = self._sums
        if moves < MOVES or mm == 0.0:
            return False
        slope = ms / mm
        error = (max(0.0, ss - slope * ms) / elements / mm) ** 0.5
        return bool(-slope - ERRORS * error > BACK)


def _middle_of_the_largest(vector: ParameterVector) -> Part:
    slot = max(vector.slots, key=lambda slot: slot.stop - slot.start)
    middle = (slot.start + slot.stop) // 2
    start = max(slot.start, middle - ELEMENTS // 2)
    return start, min(slot.stop, start + ELEMENTS)
