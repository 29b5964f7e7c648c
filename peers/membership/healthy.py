"""The members that are worth copying."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.trial import as_good_as

WEIGHT_MIN = 0.2  # a member that counts less is not copied
STEPS_SHARE = 0.5  # of the most advanced candidate's


def healthy(members: Iterable[PeerRecord]) -> list[PeerRecord]:
    """Choose the members worth copying: they count, and their loss is not clearly worse than usual.

    Usual is the median among the most advanced. A member that came late has few steps of its own and is as good as the
    others: steps alone leave nobody out, unless no losses are known.

    Args:
        members: their records; those that are not available and those that left are never worth it.

    Returns:
        Those worth copying, in the same order; maybe none.
    """
    counting = [r for r in members if r.available and not r.left and r.weight >= WEIGHT_MIN]
    furthest = max((r.step for r in counting), default=0)
    near = [r for r in counting if r.step >= STEPS_SHARE * furthest]
    losses = [r.loss for r in near if r.loss is not None]
    if not losses:
        return near
    usual = as_good_as(statistics.median_low(losses))
    return [r for r in counting if r.loss is not None and r.loss <= usual]


def by_loss(records: Iterable[PeerRecord]) -> list[PeerRecord]:
    """Sort members by their loss.

    Args:
        records: their records.

    Returns:
        The lowest loss first; those without a loss come last, equal ones by peer id.
    """
    return sorted(records, key=lambda r: (r.loss is None, r.loss or 0.0, r.peer))
