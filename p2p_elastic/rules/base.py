"""Exchange rules: how far one of two peers moves towards the other.

A rule is a pair of pure functions, after optax's GradientTransformation. Every move is a share of the difference, so a
rule sees the distance and never the vectors, and a live peer adds its move in one pass. Both ends of an exchange apply
the same rule to the same distance and the same two `Facts`, so they agree without a third message. A live peer and the
simulator use the very same objects; with whom and which way says the `Method` (`methods.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError

State = Any


class Stake(NamedTuple):
    """What stands behind one end's parameters since it lost others: its own steps, and the peers on its side.

    `merge`: the partner is one of those that it lost, and they did not exchange since.
    """

    steps: int
    peers: int = 1
    merge: bool = True

    @property
    def behind(self) -> int:
        """Peers times steps."""
        return self.steps * self.peers


class Facts(NamedTuple):
    """What one end of an exchange says of itself in its header.

    `asked` is true at the end that asked for the exchange, `partners` counts the exchanges that this end makes with the
    same snapshot at the same time, `share` is what it gives away of its sum weight (GoSGD), `centre` says that its
    vector is the centre variable. `trust` does not travel: it is what the other end's own measurements make of this end
    (`trust.py`), which limits what the claimed `weight` can do there. `apart` is there for a while after a partition
    (`merging.py`).
    """

    step: int
    loss: float | None
    weight: float
    asked: bool = False
    partners: int = 1
    share: float = 0.0
    centre: bool = False
    trust: float = 1.0
    apart: Stake | None = None


class UpdateFn(Protocol):
    """(distance, state, *, mine, theirs) -> (share, state).

    The move is `share` times the difference: their parameters minus mine, both as they went over the wire. `distance`
    is its L2 norm; 0 where nothing came over the wire to this end.
    """

    def __call__(self, distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]: ...


def stateless(_vector: Tensor) -> State:
    """The state of a rule that needs none."""
    return None


def _no_share(_state: State) -> float:
    return 0.0


class ExchangeRule(NamedTuple):
    """How far a peer moves towards its partner: `init(vector) -> state`, `update`, and what goes into the header."""

    init: Callable[[Tensor], State]
    update: UpdateFn
    share: Callable[[State], float] = _no_share
    share_of_leaver: Callable[[State], float] = _no_share  # all that it has
    per_partner: bool = False  # one state for each partner, not one for all
    merges: bool = False  # after a partition two ends meet at the mean weighted by their steps (`merging.py`)

    def move(self, delta: Tensor, state: State, *, mine: Facts, theirs: Facts) -> tuple[Tensor, State]:
        """The move [D] itself, where both vectors are at hand; `delta` [D], theirs minus mine, becomes it."""
        distance = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
        share, state = self.update(distance, state, mine=mine, theirs=theirs)
        return delta.mul_(share), state


def clip_by_norm(largest: float) -> ExchangeRule:
    """Shorten a difference or move whose L2 norm exceeds `largest` to that length; for `chain`.

    Both ends see the same distance, so a symmetric rule after it stays symmetric.

    Raises:
        ConfigError: where `largest` is not above 0.
    """
    if not largest > 0.0:
        raise ConfigError("clip-by-norm", largest, "a number above 0")

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        return (largest / distance if distance > largest else 1.0), state

    return ExchangeRule(init=stateless, update=update)


def chain(*rules: ExchangeRule) -> ExchangeRule:
    """Apply rules one after the other: each takes its share of what the one before it left (after optax).

    >>> from p2p_elastic.rules.pairwise import elastic
    >>> rule, equal = chain(clip_by_norm(1.0), elastic(0.5)), Facts(step=1, loss=None, weight=1.0)
    >>> rule.move(torch.tensor([3.0, 4.0]), rule.init(torch.zeros(2)), mine=equal, theirs=equal)[0]
    tensor([0.3000, 0.4000])
    """

    def init(vector: Tensor) -> State:
        return tuple(rule.init(vector) for rule in rules)

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:
        total, after = 1.0, []
        for rule, before in zip(rules, state, strict=True):
            one, changed = rule.update(abs(total) * distance, before, mine=mine, theirs=theirs)
            total *= one
            after.append(changed)
        return total, tuple(after)

    def share(state: State) -> float:
        return sum(rule.share(one) for rule, one in zip(rules, state, strict=True))

    def share_of_leaver(state: State) -> float:
        return sum(rule.share_of_leaver(one) for rule, one in zip(rules, state, strict=True))

    per_partner = any(rule.per_partner for rule in rules)
    return ExchangeRule(init, update, share, share_of_leaver, per_partner)


def check_rate(key: str, rate: float, *, copies: bool = False) -> None:
    """Check a moving rate, which may be 1 where that `copies` the partner. Raises ConfigError with that key."""
    if not (0.0 <= rate < 1.0 or (copies and rate == 1.0)):
        limit = "1 (copies the partner)" if copies else "below 1; 0.5 averages the pair"
        raise ConfigError(key, rate, f"a number from 0 (no pull) to {limit}")
