"""Ramps and thresholds: from what is measured to a number between 0 and 1."""

from __future__ import annotations

COPIES_BELOW, COUNTS_FROM = 0.1, 0.3  # two thresholds, so that a peer does not flap between copying and counting
STEP = 0.05  # smaller changes of a weight are not worth telling


def ramp(value: float, *, bad: float, good: float) -> float:
    """0 at `bad` and beyond, 1 at `good` and beyond, linear between; either may be the larger one. NaN gives 0.

    Args:
        value: what was measured, in any unit.
        bad: the value that gives 0, in the same unit.
        good: the value that gives 1.

    Returns:
        0 to 1.

    Example:
        >>> ramp(90.0, bad=95.0, good=85.0), ramp(0.9, bad=0.2, good=0.8)
        (0.5, 1.0)
    """
    if bad > good:
        value, bad, good = -value, -bad, -good
    if value >= good:
        return 1.0
    return (value - bad) / (good - bad) if value > bad else 0.0


def settled(before: float, health: float) -> float:
    """The weight that a peer gives itself next.

    Below COPIES_BELOW it is 0: the peer copies and is not copied, until its health is COUNTS_FROM or more.

    Args:
        before: its weight until now, 0 to 1.
        health: what its worst signal says, 0 to 1.

    Returns:
        0 to 1; `before` if the change is smaller than STEP.

    Example:
        >>> settled(1.0, 0.09), settled(0.0, 0.29), settled(0.0, 0.3), settled(0.5, 0.52)
        (0.0, 0.0, 0.3, 0.5)
    """
    if health < (COUNTS_FROM if before == 0.0 else COPIES_BELOW):
        return 0.0
    return before if abs(health - before) < STEP and health < 1.0 else health
