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


def _stateless(_vector: Tensor) -> State:
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


def believed_pull(moving_rate: float, mine: Facts, theirs: Facts) -> float:
    """`pull` by the weights in the two headers, less where our own measurements do not bear out theirs.

    Both ends compute the same from the headers; distrust only ever shortens our own move, so that whatever an end
    measures or claims, the two moves together stay within `pull`'s.
    """
    if theirs.trust <= 0.0:
        return 0.0
    agreed = pull(moving_rate, mine.weight, theirs.weight)
    return min(agreed, pull(moving_rate, mine.weight, min(theirs.weight, theirs.trust)))


def elastic(moving_rate: float = 0.5) -> ExchangeRule:
    """Elastic Gossip, and EASGD's exchange with the centre: both ends pull each other by alpha times the difference.

        x^i <- x^i + alpha (x^k - x^i)        x^k <- x^k - alpha (x^k - x^i)

    Conserves the sum of the two vectors: the moves are negatives of each other bit for bit. alpha = 0.5 is exact
    averaging of the pair, alpha = 0 no communication. Above 0.5 the two moves together exceed the distance
    (over-relaxation); the difference still contracts, by |1 - 2 alpha|.

    Where an end makes d exchanges with the same snapshot, its moves add up to alpha times the sum of the differences.
    Then alpha is capped at 1/d, with the larger d of the two ends: the Laplacian's eigenvalues stay at 2 or below, so
    peers never drive each other apart (a hub with alpha = 0.5 would, from four partners on).

    Source: Pramod, Elastic Gossip, arXiv 1812.02407 (the thesis finds the optimum at alpha in 0.25..0.5); Zhang et al.,
    EASGD, arXiv 1412.6651, Algorithm 1 a), b).

    Raises:
        ConfigError: where moving_rate is not in [0, 1).
    """
    check_rate("moving-rate", moving_rate)

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        partners = max(mine.partners, theirs.partners)
        rate = min(moving_rate, 1.0 / partners) if partners > 1 else moving_rate
        return believed_pull(rate, mine, theirs), state

    return ExchangeRule(init=_stateless, update=update)


def follow(moving_rate: float = 0.5) -> ExchangeRule:
    """Who asked moves by `moving_rate` times the difference; the partner stays.

        x^i <- x^i + lambda (x^k - x^i)

    With 1/2 this is Gossiping SGD's pull (Jin et al., arXiv 1611.04581); with x^k the leader it is Leader SGD's pull,
    applied after the gradient step, without the learning rate in it (Teng et al., arXiv 1905.10395, Algorithm 1).
    Not symmetric: the sum of the two vectors changes.

    Raises:
        ConfigError: where moving_rate is not in [0, 1].
    """
    return _one_sided(moving_rate, asker_moves=True)


def receive(moving_rate: float = 0.5) -> ExchangeRule:
    """Who was asked moves by `moving_rate` times the difference to what it received; the sender stays.

    With 1/2 this is Gossiping SGD's push (Jin et al., arXiv 1611.04581). Not symmetric.

    Raises:
        ConfigError: where moving_rate is not in [0, 1].
    """
    return _one_sided(moving_rate, asker_moves=False)


def _one_sided(moving_rate: float, *, asker_moves: bool) -> ExchangeRule:
    check_rate("moving-rate", moving_rate, copies=True)

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        moves = mine.asked is asker_moves
        return (believed_pull(moving_rate, mine, theirs) if moves else 0.0), state

    return ExchangeRule(init=_stateless, update=update)


def sum_weight() -> ExchangeRule:
    """GoSGD: push gossip with sum weights, which makes the weighted mean of all peers what is conserved.

        sender     a_s <- a_s / 2, sends (x_s, a_s);   who leaves sends all of it, and a_s <- 0
        receiver   x_r <- (a_r x_r + a_s x_s) / (a_r + a_s);   a_r <- a_r + a_s

    The state is a (a float), which begins at 1: only ratios count, so nobody needs to know how many peers there are.
    The sum of a over all peers is conserved.

    Source: Blot et al., GoSGD, arXiv 1611.09726.
    """

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        if mine.asked:
            return 0.0, state - mine.share
        if min(theirs.weight, theirs.trust) == 0.0 < mine.weight:  # nothing to follow; but no share must be lost
            return 0.0, state + theirs.share
        total = state + theirs.share
        if total == 0.0:  # halved away to nothing at both ends
            return 0.0, state
        merged = theirs.share / total if mine.weight > 0.0 or theirs.weight == 0.0 else 1.0
        believed = min(theirs.weight, theirs.trust) if mine.weight > 0.0 else theirs.trust
        return merged * believed, total

    return ExchangeRule(
        init=lambda _vector: 1.0, update=update, share=lambda state: float(state) / 2, share_of_leaver=float
    )


def stay() -> ExchangeRule:
    """No communication: nobody moves."""

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        return 0.0, state

    return ExchangeRule(init=_stateless, update=update)


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

    return ExchangeRule(init=_stateless, update=update)


def chain(*rules: ExchangeRule) -> ExchangeRule:
    """Apply rules one after the other: each takes its share of what the one before it left (after optax).

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
