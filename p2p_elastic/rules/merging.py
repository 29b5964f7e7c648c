"""After a partition: how far two ends move that trained without each other, and what they do if the middle is bad.

Gossip that conserves the sum already weighs each half by its number of peers. So a pair weighs by steps only: when two
peers meet again, each counts with the steps s that it did since it lost the other,

    x^i <- x^i + s_j / (s_i + s_j) (x^j - x^i)        x^j <- x^j + s_i / (s_i + s_j) (x^i - x^j)

They meet at the mean weighted by steps, and s_i x_i + s_j x_j stays what it was: over the swarm each half counts by its
peers times its steps. A peer that hardly trained meanwhile moves to the others, as a newcomer would.

Two models that trained apart may lie in two valleys with a barrier between them. Then meeting in the middle would cost
what both learnt: the end with less behind it (steps times peers) copies the other, and the other one stays.
"""

from __future__ import annotations

from p2p_elastic.rules.base import ExchangeRule, Facts, State
from p2p_elastic.rules.trial import ERRORS, FLOOR, Trial, is_above

RISE = 0.1  # a share of the worse end's loss: a rise up to this at the point of meeting is no barrier
TRUST_MIN = 0.5  # below it a partner is not copied: its parameters do badly here


def merges(mine: Facts, theirs: Facts) -> bool:
    """Whether both ends lost each other in a partition, so that they meet again by `merge_share`.

    Args:
        mine: what this end says of itself.
        theirs: what the other end says of itself.

    Returns:
        True if each says that it lost the other and did not exchange with it since.
    """
    return mine.apart is not None and theirs.apart is not None and mine.apart.merge and theirs.apart.merge


def merge_share(mine: Facts, theirs: Facts) -> float:
    """The share of the distance that `mine` moves when two ends merge.

    Weights count as well as steps: a weight of 0 copies, and is not copied. Distrust only ever shortens the move.

    Args:
        mine: what this end says of itself; `apart` must be there.
        theirs: what the other end says of itself; `apart` must be there.

    Returns:
        0 to 1; both ends' shares together are 1 if they trust each other.

    Example:
        >>> from p2p_elastic.rules.base import Stake
        >>> long, short = (Facts(9, None, 1.0, apart=Stake(steps, 3)) for steps in (300, 100))
        >>> merge_share(long, short), merge_share(short, long)
        (0.25, 0.75)
    """
    if theirs.trust <= 0.0:
        return 0.0
    return min(_share(mine, theirs, theirs.weight), _share(mine, theirs, min(theirs.weight, theirs.trust)))


def _share(mine: Facts, theirs: Facts, counts: float) -> float:
    """The share of the distance if the other end counts with the weight `counts`."""
    assert mine.apart is not None
    assert theirs.apart is not None
    if mine.weight == 0.0 or counts == 0.0:
        equal = mine.weight == counts
        return 0.5 if equal else 1.0 if mine.weight == 0.0 else 0.0
    ours, others = mine.weight * mine.apart.steps, counts * theirs.apart.steps
    if ours == others == 0.0:  # neither end learnt anything
        ours, others = mine.weight, counts
    return others / (ours + others)


def inherited_share(own: int, others: int) -> float:
    """The share of the distance that a centre variable moves to another one that is given up for it.

    Each counts with the exchanges behind it since they were one.

    Args:
        own: the exchanges behind the variable that stays.
        others: the exchanges behind the variable that is given up; a negative number counts as 0.

    Returns:
        0 to 1; 0 if nothing is behind the other.

    Example:
        >>> inherited_share(300, 100), inherited_share(0, 0)
        (0.25, 0.0)
    """
    return max(0, others) / (own + others) if others > 0 else 0.0


def merging(rule: ExchangeRule) -> ExchangeRule:
    """Any rule between pairs; two ends that were apart meet at the mean weighted by steps instead.

    Args:
        rule: the rule that holds between ends that did not lose each other.

    Returns:
        The same rule, with `merges` set.
    """

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:
        if not merges(mine, theirs):
            return rule.update(distance, state, mine=mine, theirs=theirs)
        return merge_share(mine, theirs), state

    return rule._replace(update=update, merges=True)


def is_barrier(landing: Trial, first_loss: float | None) -> bool:
    """Whether the point of meeting does clearly worse than both ends.

    Args:
        landing: has the point of meeting as `theirs`, and the worse of the two ends as `mine`.
        first_loss: the loss in nats at which training began; None if it is not known.

    Returns:
        True if the loss rises there by more than RISE, a small floor and chance explain, or is not finite.
    """
    rise = 1.0 + RISE if landing.mine > 0.0 else 1.0 - RISE
    allowed = rise * landing.mine + FLOOR * abs(first_loss or 0.0)
    return is_above(landing.theirs, landing.error, allowed, ERRORS)


def crossing(mine: Facts, theirs: Facts, *, yields: bool) -> float:
    """The share of the distance that `mine` moves if a barrier is between the two: all of it, or nothing.

    Args:
        mine: what this end says of itself.
        theirs: what the other end says of itself, with `trust` as this end measured it.
        yields: whether this end copies if the same stands behind both.

    Returns:
        1 or 0. If it is not known of both what stands behind them, neither moves.
    """
    if theirs.trust < TRUST_MIN or theirs.weight == 0.0:
        return 0.0
    if mine.weight == 0.0:
        return 1.0
    if mine.apart is None or theirs.apart is None:
        return 0.0
    ours, others = mine.apart.behind, theirs.apart.behind
    return 1.0 if ours < others or (ours == others and yields) else 0.0
