"""Whether a peer that comes back after a restart was away for so long that it has nothing to tell the others."""

from __future__ import annotations

import statistics

from p2p_elastic.peers.membership.liveness import Members

AWAY_PERIODS, AWAY_STEPS_MIN = 4.0, 50
"""How far ahead the others must be, in communication periods and in steps: staleness alone may explain less."""
RETURN_SECONDS = 60.0  # after the restart; a peer that trained alone for longer has something of its own to bring


def was_away_long(step: int, members: Members, period: float) -> bool:
    """Whether the others are so far ahead that this peer has nothing to tell them.

    Args:
        step: how many steps this peer has made.
        members: the other members; drained ones do not count.
        period: the communication period, in steps.

    Returns:
        True if the median member is ahead by more than AWAY_PERIODS periods and AWAY_STEPS_MIN steps; False if it is
        alone.
    """
    steps = [member.record.step for member in members.values() if not member.record.drained]
    if not steps:
        return False
    margin = max(float(AWAY_STEPS_MIN), AWAY_PERIODS * period)
    return statistics.median(steps) - step > margin
