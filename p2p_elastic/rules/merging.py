"""After a partition: how far two ends move that trained without each other, and what they do where the middle is bad.

Gossip that conserves the sum already weighs each half by its number of peers. So a pair weighs by steps only: when two
peers meet again, each counts with the steps s that it did since it lost the other,

    x^i <- x^i + s_j / (s_i + s_j) (x^j - x^i)        x^j <- x^j + s_i / (s_i + s_j) (x^i - x^j)

They meet at the mean weighted by steps, and s_i x_i + s_j x_j stays what it was: over the swarm each half counts by its
peers times its steps. Who hardly trained meanwhile moves to the others, as a newcomer would.

Two models that trained apart may lie in two valleys with a barrier between them. Then meeting in the middle would cost
what both learnt: the one behind which less stands (steps times peers) copies the other, and the other one stays.
"""

from __future__ import annotations

from p2p_elastic.health.trust import ERRORS, FLOOR, Trial, is_above
from p2p_elastic.rules.base import ExchangeRule, Facts, State

RISE = 0.1  # of the worse end's loss: up to so much more at the point of meeting is no barrier
TRUST_MIN = 0.5  # below it a partner is not copied: its parameters do badly here


def merges(mine: Facts, theirs: Facts) -> bool:
    """Whether both ends lost each other, and this is how they meet again."""
    return mine.apart is not None and theirs.apart is not None and mine.apart.merge and theirs.apart.merge


def merge_share(mine: Facts, theirs: Facts) -> float:
    """The share of the distance that `mine` moves where two ends merge: 0 to 1, both shares together 1.

    Weights count as well as steps: a weight of 0 copies, and is not copied. Distrust only ever shortens the move.

    >>> from p2p_elastic.rules.base import Stake
    >>> long, short = (Facts(9, None, 1.0, apart=Stake(steps, 3)) for steps in (300, 100))
    >>> merge_share(long, short), merge_share(short, long)
    (0.25, 0.75)
    """
    if theirs.trust <= 0.0:
        return 0.0
    return min(_share(mine, theirs, theirs.weight), _share(mine, theirs, min(theirs.weight, theirs.trust)))


def _share(mine: Facts, theirs: Facts, counts: float) -> float:
    """The share where the other end counts so much."""
    assert mine.apart is not None
    assert theirs.apart is not None
    if mine.weight == 0.0 or counts == 0.0:
        equal = mine.weight == counts
        return 0.5 if equal else 1.0 if mine.weight == 0.0 else 0.0
    ours, others = mine.weight * mine.apart.steps, counts * theirs.apart.steps
    if ours == others == 0.0:  # nobody learnt anything
        ours, others = mine.weight, counts
    return others / (ours + others)


def inherited_share(own: int, others: int) -> float:
    """The share of the distance that a centre variable moves to another one that is given up for it.

    Each counts with the exchanges behind it since they were one.

    >>> inherited_share(300, 100), inherited_share(0, 0)
    (0.25, 0.0)
    """
    return max(0, others) / (own + others) if others > 0 else 0.0


def merging(rule: ExchangeRule) -> ExchangeRule:
    """Any rule between pairs; where both ends were apart, they meet at the mean weighted by steps instead."""

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:
        if not merges(mine, theirs):
            return rule.update(distance, state, mine=mine, theirs=theirs)
        return merge_share(mine, theirs), state

    return rule._replace(update=update, merges=True)


def is_barrier(landing: Trial, first_loss: float | None) -> bool:
    """Whether the point of meeting does clearly worse than both ends.

    `landing` has it as `theirs`, and the worse of the two ends as `mine`; `first_loss`, in nats, is where training
    began.
    """
    allowed = (1.0 + RISE) * landing.mine + FLOOR * (first_loss or 0.0)
    return is_above(landing.theirs, landing.error, allowed, ERRORS)


def crossing(mine: Facts, theirs: Facts, *, yields: bool) -> float:
    """The share of the distance that `mine` moves where a barrier is between the two: all of it, or nothing.

    `yields` says who copies where behind both stands the same. Where that is not known of both, nobody moves.
    """
    if theirs.trust < TRUST_MIN or theirs.weight == 0.0:
        return 0.0
    if mine.weight == 0.0:
        return 1.0
    if mine.apart is None or theirs.apart is None:
        return 0.0
    ours, others = mine.apart.behind, theirs.apart.behind
    return 1.0 if ours < others or (ours == others and yields) else 0.0
