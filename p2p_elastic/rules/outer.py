"""Outer optimizers: what a peer makes of the steps between two exchanges, by slow parameters of its own.

A peer keeps slow parameters phi and a momentum buffer delta. Whenever an exchange moved its parameters theta, or was
due and there was no partner, it takes what was gained since the last time as one pseudo-gradient,

    g = theta - phi;   delta <- a delta + g;   theta <- phi + b (g + a delta);   phi <- theta        ("nesterov")
    g = theta - phi;   delta <- a delta + b g;   theta <- phi + delta;           phi <- theta        ("noloco")

with the outer momentum a and the outer learning rate b. Nothing of it travels. theta is taken when the move is added,
so the steps that were made while the exchange was under way are in g, once (the delayed outer step of Streaming
DiLoCo). Only what trains makes outer steps: running statistics of normalisation layers are no sums of gradients.

With a = 0 and b = 1 theta stays what the exchange made of it. Otherwise the sum of all peers is not conserved, since
they go further than they went; but the step is linear, so if all peers make it at once, their mean takes the step of
one peer alone, whichever pairs met.

Source: DiLoCo (Douillard et al., arXiv 2311.08105: all peers meet); NoLoCo (Kolehmainen et al., 2506.10911: pairs; its
b = g lets the two means of a pair add up to b (mean of theta - phi)); SNOO (2510.15830: one peer alone).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError

OuterName = Literal["none", "nesterov", "noloco"]
"""Names of outer optimizers; "none": exchanges alone change what the inner optimizer makes."""

RATE_MAX = 10.0
CHUNK = 2**18  # elements that a step in place handles at once: what it needs beside them stays in a CPU's caches


class OuterState(NamedTuple):
    """What a peer keeps for its outer steps.

    Attributes:
        slow: phi, its parameters after the last outer step, [n].
        buffer: delta, the momentum, [n].
    """

    slow: Tensor
    buffer: Tensor

    def part(self, start: int, stop: int) -> OuterState:
        """Take the state of some elements.

        Args:
            start, stop: the elements; none if `stop` is not above `start`.

        Returns:
            Views, so that a step in place changes this state.
        """
        return OuterState(self.slow[start:stop], self.buffer[start:stop])


class Outer(NamedTuple):
    """An outer optimizer.

    Attributes:
        learning_rate: b, above 0; 1 goes where the exchange went.
        momentum: a, 0 up to, not including, 1.
        nesterov: whether the step looks ahead by the momentum ("nesterov"), or is the buffer ("noloco").
    """

    learning_rate: float
    momentum: float
    nesterov: bool = True

    def init(self, theta: Tensor) -> OuterState:
        """Begin, or begin anew after parameters that were loaded or copied.

        Args:
            theta: the parameters [n]; they are copied.

        Returns:
            The state: no momentum, and nothing gained so far.
        """
        return OuterState(theta.clone(), torch.zeros_like(theta))

    def update(self, theta: Tensor, state: OuterState) -> tuple[Tensor, OuterState]:
        """Make one outer step.

        Args:
            theta: the parameters [n] with the move of the exchange in them.
            state: of the same elements.

        Returns:
            The parameters after the step, and the next state, whose `slow` is the same tensor.

        Example:
            >>> outer = Outer(learning_rate=0.5, momentum=0.5)
            >>> theta, state = outer.update(torch.tensor([3.0]), outer.init(torch.tensor([1.0])))
            >>> theta, state.buffer
            (tensor([2.5000]), tensor([2.]))
        """
        rate, momentum = self.learning_rate, self.momentum
        gained = theta - state.slow
        # Differences to what the exchange made, so that a rate of 1 without momentum changes no bit.
        if self.nesterov:
            buffer = momentum * state.buffer + gained
            after = theta + ((rate - 1.0) * gained + rate * momentum * buffer)
        else:
            buffer = momentum * state.buffer + rate * gained
            after = theta + (buffer - gained)
        return after, OuterState(after, buffer)

    def step_(self, theta: Tensor, state: OuterState) -> None:
        """Make one outer step in place.

        Args:
            theta: the parameters [n]; they are overwritten.
            state: of the same elements; it is overwritten.
        """
        for values, slow, buffer in zip(*(torch.split(t, CHUNK) for t in (theta, *state)), strict=True):
            after, (_, momentum) = self.update(values, OuterState(slow, buffer))
            values.copy_(after)
            slow.copy_(after)
            buffer.copy_(momentum)

    def restart_(self, theta: Tensor, state: OuterState) -> None:
        """Begin anew in place: the parameters were loaded, or copied from a partner, and nothing was gained.

        Args:
            theta: the parameters [n].
            state: of the same elements; it is overwritten.
        """
        state.slow.copy_(theta)
        state.buffer.zero_()


OUTER: Mapping[str, Outer | None] = {
    "none": None,
    "nesterov": Outer(learning_rate=0.7, momentum=0.7),
    "noloco": Outer(learning_rate=0.7, momentum=0.5, nesterov=False),
}
"""Outer optimizers by name, with their defaults."""


def find_outer(
    name: str | None, learning_rate: float | None = None, momentum: float | None = None, *, default: Outer | None = None
) -> Outer | None:
    """Find the outer optimizer of a name, with its numbers.

    Args:
        name: a key of `OUTER`; None: the default.
        learning_rate: b; None: that of the optimizer.
        momentum: a; None: that of the optimizer.
        default: what there is without a name.

    Returns:
        The optimizer; None if there is none.

    Raises:
        ConfigError: there is none of that name, a number is out of range, or there is nothing that it is of.

    Example:
        >>> find_outer("nesterov", momentum=0.5)
        Outer(learning_rate=0.7, momentum=0.5, nesterov=True)
    """
    if name is not None and name not in OUTER:
        raise ConfigError("outer", name, f"allowed: {', '.join(OUTER)}")
    if learning_rate is not None and not 0.0 < learning_rate <= RATE_MAX:
        raise ConfigError("outer-lr", learning_rate, f"a number above 0, {RATE_MAX:g} at most")
    if momentum is not None and not 0.0 <= momentum < 1.0:
        raise ConfigError("outer-momentum", momentum, "a number from 0 to below 1")
    outer = default if name is None else OUTER[name]
    if outer is not None:
        rate = outer.learning_rate if learning_rate is None else learning_rate
        return outer._replace(learning_rate=rate, momentum=outer.momentum if momentum is None else momentum)
    for key, given in (("outer-lr", learning_rate), ("outer-momentum", momentum)):
        if given is not None:
            raise ConfigError(key, given, "there is no outer optimizer: give outer as well")
    return None
