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
    """What stands behind one end's parameters since a partition cut it off from others.

    Attributes:
        steps: its own steps since then.
        peers: the peers on its side of the partition, itself included.
        merge: whether the partner is one of those that it lost, and the two did not exchange since.
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

    Attributes:
        step: the optimizer step at which its snapshot was taken.
        loss: its smoothed training loss in nats; None before it has one.
        weight: how much its parameters count, 0 (a newcomer: it copies and is not copied) to 1.
        asked: whether this end asked for the exchange.
        partners: the exchanges that this end makes with the same snapshot at the same time.
        share: what it gives away of its sum weight (GoSGD).
        centre: whether its vector is the centre variable.
        trust: what the other end's own measurements make of this end (`health/trust.py`), which limits what the claimed
            `weight` can do there. It does not travel.
        clip: the share of its move towards this end that the other end makes, since this end is further away than
            usual. It does not travel.
        apart: what stands behind its parameters, for a while after a partition (`merging.py`); None otherwise.
    """

    step: int
    loss: float | None
    weight: float
    asked: bool = False
    partners: int = 1
    share: float = 0.0
    centre: bool = False
    trust: float = 1.0
    clip: float = 1.0
    apart: Stake | None = None


class UpdateFn(Protocol):
    """A pure function (distance, state, *, mine, theirs) -> (share, state).

    The move is `share` times the difference: their parameters minus mine, both as they went over the wire. `distance`
    is its L2 norm; 0 if nothing came over the wire to this end.
    """

    def __call__(self, distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]: ...


def stateless(_vector: Tensor) -> State:
    """Return the state of a rule that needs none.

    Returns:
        None, for any vector.
    """
    return None


def _no_share(_state: State) -> float:
    return 0.0


class ExchangeRule(NamedTuple):
    """How far a peer moves towards its partner, and what the rule adds to the header.

    Attributes:
        init: from the vector [D] to the rule's first state.
        update: from distance, state and both ends' facts to a share of the distance and the next state.
        share: from the state to the sum weight that one message gives away (GoSGD).
        share_of_leaver: the same for a peer that leaves: all that it has.
        per_partner: whether there is one state for each partner, not one for all.
        merges: whether two ends meet at the mean weighted by their steps after a partition (`merging.py`).
    """

    init: Callable[[Tensor], State]
    update: UpdateFn
    share: Callable[[State], float] = _no_share
    share_of_leaver: Callable[[State], float] = _no_share
    per_partner: bool = False
    merges: bool = False

    def move(self, delta: Tensor, state: State, *, mine: Facts, theirs: Facts) -> tuple[Tensor, State]:
        """The move itself, for a caller that has both vectors (the simulator and tests).

        Args:
            delta: theirs minus mine, [D]; it is overwritten with the move.
            state: the rule's state at this end before the exchange.
            mine: what this end says of itself.
            theirs: what the other end says of itself, with `trust` as this end measured it.

        Returns:
            The move [D], which is `delta` itself, and the next state.
        """
        distance = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
        share, state = self.update(distance, state, mine=mine, theirs=theirs)
        return delta.mul_(share), state


def clip_by_norm(largest: float) -> ExchangeRule:
    """Shorten a difference or move whose L2 norm exceeds `largest` to that length; for `chain`.

    Both ends see the same distance, so a symmetric rule after it stays symmetric.

    Args:
        largest: the L2 norm that is let through, above 0.

    Returns:
        A rule whose share is 1 for shorter moves; alone it would copy the partner.

    Raises:
        ConfigError: if `largest` is not above 0.
    """
    if not largest > 0.0:
        raise ConfigError("clip-by-norm", largest, "a number above 0")

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        return (largest / distance if distance > largest else 1.0), state

    return ExchangeRule(init=stateless, update=update)


def chain(*rules: ExchangeRule) -> ExchangeRule:
    """Apply rules one after the other: each takes its share of what the one before it left (after optax).

    Args:
        *rules: the rules in their order; each keeps a state of its own.

    Returns:
        One rule; its state is the tuple of their states.

    Example:
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
    """Check a moving rate: 0 up to, not including, 1.

    Args:
        key: the option's name, for the error.
        rate: the moving rate.
        copies: whether 1 is allowed as well, for rules that may copy the partner.

    Raises:
        ConfigError: if the rate is out of range.
    """
    if not (0.0 <= rate < 1.0 or (copies and rate == 1.0)):
        limit = "1 (copies the partner)" if copies else "below 1; 0.5 averages the pair"
        raise ConfigError(key, rate, f"a number from 0 (no pull) to {limit}")
