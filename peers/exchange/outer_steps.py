"""The outer optimizer of a live peer: slow parameters and momentum beside its model (`rules/outer.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from p2p_elastic.parameters.vector import WIRE_DTYPE, ParameterVector, Part
from p2p_elastic.rules.outer import CHUNK, Outer, OuterState


class OuterSteps:
    """The outer state of one model, and its steps, which change the model. Belongs to the training thread.

    The state takes two vectors on the model's device, from `begin` on. Without an outer optimizer there is none, and
    nothing happens here. Only what trains makes steps.

    Args:
        vector: the model.
    """

    def __init__(self, vector: ParameterVector) -> None:
        self._vector = vector
        self._chosen: Outer | None = None  # of the run; the network thread changes it when this peer adopts another
        self._outer: Outer | None = None  # that the state belongs to
        self._state: OuterState | None = None

    @property
    def on(self) -> bool:
        """Whether this peer makes outer steps."""
        return self._state is not None

    def use(self, outer: Outer | None) -> None:
        """Choose an outer optimizer, from the next `begin` on. For any thread.

        Args:
            outer: of the run; None: it has none.
        """
        self._chosen = outer

    def begin(self) -> None:
        """Take up the outer optimizer that was chosen, with the parameters as they are for the slow ones."""
        chosen = self._chosen
        if chosen is self._outer:
            return
        self._outer, self._state = chosen, None
        if chosen is not None:
            size, device = self._vector.trainable, self._vector.device
            self._state = OuterState(*(torch.zeros(size, dtype=WIRE_DTYPE, device=device) for _ in range(2)))
            self.restart(None)

    def step(self, part: Part | None) -> None:
        """Make an outer step.

        Args:
            part: of the vector, that makes it; None: all of it.
        """
        for outer, place, state in self._chunks(part):
            theta = self._vector.snapshot(torch.empty_like(state.slow), place)
            outer.step_(theta, state)
            self._vector.load_(theta, place)

    def restart(self, part: Part | None) -> None:
        """Take the parameters for the slow ones, without momentum: they were loaded, or copied from a partner.

        Args:
            part: of the vector; None: all of it.
        """
        for outer, place, state in self._chunks(part):
            outer.restart_(self._vector.snapshot(torch.empty_like(state.slow), place), state)

    def _chunks(self, part: Part | None) -> Iterator[tuple[Outer, Part, OuterState]]:
        """What trains of a part, and its state, in pieces: beside the two vectors it takes no third."""
        if self._outer is None or self._state is None:
            return
        self._state = OuterState(*(tensor.to(self._vector.device) for tensor in self._state))
        first, last = part or (0, self._vector.trainable)
        last = min(last, self._vector.trainable)
        for start in range(first, last, CHUNK):
            stop = min(start + CHUNK, last)
            yield self._outer, (start, stop), self._state.part(start, stop)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the state for a checkpoint.

        Returns:
            The two vectors, not copies; nothing before `begin`, or without an outer optimizer.
        """
        return {} if self._state is None else dict(self._state._asdict())

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Args:
            state_dict: as `state_dict` gave it; if it is empty, `begin` makes a state.

        Raises:
            ValueError: if it is of another model.
        """
        self._outer = self._state = None
        if self._chosen is None or not state_dict:
            return
        state = OuterState(**state_dict)
        if any(tensor.shape != (self._vector.trainable,) for tensor in state):
            raise ValueError(f"outer steps of {len(state.slow)} parameters for a model of {self._vector.trainable}")
        self._outer = self._chosen
        self._state = OuterState(*(tensor.to(self._vector.device, copy=True) for tensor in state))
