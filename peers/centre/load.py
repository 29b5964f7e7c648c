"""How busy the members of a run keep its centre, which exchanges with one of them at a time (EASGD)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from p2p_elastic.errors import ConfigError
from p2p_elastic.health.diagnose import LESS_FOR_A_CENTRE

EXCHANGE_SECONDS, SECONDS_PER_BYTE = 0.02, 0.23 / 100e6  # the quickest measured, on one machine (docs/results/speed.md)
LATE_MAX = 2.0  # times the period: from there on at least every second peer that asks is sent away,
TURN_SECONDS = 10.0  # which is no harm if its turn comes sooner than this


def turn_of(members: int, nbytes: float) -> float:
    """Work out how often a member's turn comes if all ask the centre all the time.

    Args:
        members: how many.
        nbytes: of an exchange, each way.

    Returns:
        Seconds from one exchange to the next, at best, over the quickest link.

    Example:
        >>> round(turn_of(40, 100e6), 3)
        10.0
    """
    return members * (EXCHANGE_SECONDS + nbytes * SECONDS_PER_BYTE)


def check_centre(turn: float, rates: Sequence[float | None], period: float) -> None:
    """Refuse to be one more of those for whom a centre has no time.

    Args:
        turn: as `turn_of` says, with this peer.
        rates: steps per second of members, as far as they are known.
        period: steps between two exchanges that a member asks for.

    Raises:
        ConfigError: if the median member would have less than half of the exchanges that it asks for, and those seldom.
    """
    known = [rate for rate in rates if rate is not None]
    if not known or turn <= TURN_SECONDS or (late := turn * statistics.median(known) / period) <= LATE_MAX:
        return
    advice = (
        f"it has one place, and with one member more each has its turn every {turn:.0f} s at best, {late:.0f} times "
        f"the period of {period:g} steps. {LESS_FOR_A_CENTRE}"
    )
    raise ConfigError("rule", "a centre", advice)
