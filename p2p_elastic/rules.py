"""Exchange rules: from the difference between two peers to the move of one of them.

A rule is a pair of pure functions, after optax's GradientTransformation. Both ends of an exchange apply the same
rule to the same two vectors and the same two `Facts`, so they agree without a third message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from p2p_elastic.errors import ConfigError

State = Any


class Facts(NamedTuple):
    """What one end of an exchange says of itself in its header."""

    step: int
    loss: float | None
    weight: float


class UpdateFn(Protocol):
    """(delta, state, *, mine, theirs) -> (move, state).

    `delta` is [D]: their parameters minus mine, both as they went over the wire. It belongs to the rule, which may
    overwrite it and return it as the move.
    """

    def __call__(self, delta: Tensor, state: State, *, mine: Facts, theirs: Facts) -> tuple[Tensor, State]: ...


class ExchangeRule(NamedTuple):
    """How far a peer moves towards its partner: `init(vector) -> state` and `update`."""

    init: Callable[[Tensor], State]
    update: UpdateFn


def pull(moving_rate: float, mine: float, theirs: float) -> float:
    """The share of the distance that the end with weight `mine` moves towards the end with weight `theirs`.

    Equal weights give the symmetric rule's alpha at both ends; other weights share out the same total, 2 alpha.
    A weight of 0 is a newcomer's: it copies a partner that counts, and does not disturb it.

    >>> pull(0.5, 1.0, 1.0), pull(0.5, 0.0, 1.0), pull(0.5, 1.0, 0.0)
    (0.5, 1.0, 0.0)
    """
    if mine == theirs:
        return moving_rate
    if mine == 0.0 or theirs == 0.0:
        return 1.0 if mine == 0.0 else 0.0
    return min(1.0, 2.0 * moving_rate * theirs / (mine + theirs))


def elastic(moving_rate: float = 0.5) -> ExchangeRule:
    """Elastic Gossip: two partners pull each other by alpha times their difference.

        x^i <- x^i + alpha (x^k - x^i)        x^k <- x^k - alpha (x^k - x^i)

    Conserves the sum of the two vectors: the moves are negatives of each other bit for bit. alpha = 0.5 is exact
    averaging of the pair, alpha = 0 no communication. Above 0.5 the two moves together exceed the distance
    (over-relaxation); the difference still contracts, by |1 - 2 alpha|.

    Source: Pramod, Elastic Gossip, arXiv 1812.02407; the thesis finds the optimum at alpha in 0.25..0.5.

    Raises:
        ConfigError: where moving_rate is not in [0, 1).
    """
    if not 0.0 <= moving_rate < 1.0:
        raise ConfigError("moving-rate", moving_rate, "a number from 0 (no pull) to below 1; 0.5 averages the pair")

    def update(delta: Tensor, state: State, *, mine: Facts, theirs: Facts) -> tuple[Tensor, State]:
        return delta.mul_(pull(moving_rate, mine.weight, theirs.weight)), state

    return ExchangeRule(init=_stateless, update=update)


def _stateless(_vector: Tensor) -> State:
    return None


RULES: Mapping[str, Callable[[float], ExchangeRule]] = {"elastic-gossip": elastic}
"""Every rule that a run can name, with its moving rate as the parameter."""


def find_rule(name: str, moving_rate: float) -> ExchangeRule:
    """The rule of that name, ready to use. Raises ConfigError where there is none."""
    if name not in RULES:
        raise ConfigError("rule", name, f"allowed: {', '.join(sorted(RULES))}")
    return RULES[name](moving_rate)
