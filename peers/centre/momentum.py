"""The outer optimizer of a centre variable."""

from __future__ import annotations

import torch

from p2p_elastic.rules.outer import Outer, OuterState


class CentreMomentum:
    """The outer optimizer of a centre: its slow parameters are what it was before it moved. An heir has no momentum.

    Args:
        outer: of the run; None: it has none.
        trainable: the first elements of the value that are parameters; the others make no outer steps.
    """

    def __init__(self, outer: Outer | None = None, trainable: int = 0) -> None:
        self._outer, self._trainable = outer, trainable
        self._buffer: torch.Tensor | None = None

    def begin(self) -> None:
        """A peer is the centre from now on."""
        self._buffer = None

    def step_(self, value: torch.Tensor, before: torch.Tensor, place: slice) -> None:
        """Make an outer step in place.

        Args:
            value: the centre after its move [D].
            before: the centre before it [D].
            place: the part that moved.
        """
        if self._outer is None:
            return
        if self._buffer is None:
            self._buffer = torch.zeros_like(value[: self._trainable])
        place = slice(place.start, min(len(value) if place.stop is None else place.stop, self._trainable))
        self._outer.step_(value[place], OuterState(before[place].clone(), self._buffer[place]))
