"""Partners that declined as busy, and for how long they are not asked again."""

from __future__ import annotations

import re
from typing import NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.trust import PARTNERS_MAX

BUSY_SECONDS_MIN, BUSY_SECONDS_MAX = 0.005, 1.0  # of what a partner says, this much is believed
CROSSED = "asked you at the same time"  # the detail of a Decline: the offer of the peer that declines stands
_FREE = re.compile(r"free in (\d{1,9}(?:\.\d{1,6})?) s")


def free_in(seconds: float) -> str:
    """Say in a Decline when this peer will be free.

    Args:
        seconds: from now.

    Returns:
        The detail of the Decline.
    """
    return f"free in {max(0.0, seconds):.3f} s"


def told(detail: str) -> float | None:
    """Read what `free_in` wrote.

    Args:
        detail: of a Decline, from anybody.

    Returns:
        Seconds, as the partner says; None if it does not say so.

    Example:
        >>> told(free_in(0.25)), told("free in a moment")
        (0.25, None)
    """
    found = _FREE.fullmatch(detail)
    return None if found is None else float(found[1])


class _Busy(NamedTuple):
    seconds: float  # that were believed
    until: float


class BusyPartners:
    """Until when partners are busy: PARTNERS_MAX of them at most. Belongs to the network thread.

    A partner that declines again when it should have been free is left alone for twice as long, whatever it says.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Busy] = {}

    def said(self, partner: str, seconds: float, now: float) -> None:
        """Take in what a partner says.

        Args:
            partner: its peer id.
            seconds: until it is free.
            now: in seconds of the event loop's clock.
        """
        before = self._known.pop(partner, None)
        least = BUSY_SECONDS_MIN if before is None else 2.0 * before.seconds
        believed = min(max(seconds, least), BUSY_SECONDS_MAX)
        self._known[partner] = _Busy(believed, now + believed)
        forget_oldest(self._known, PARTNERS_MAX)

    def heard(self, partner: str) -> None:
        """Forget what a partner said, since it asks, or exchanged.

        Args:
            partner: its peer id.
        """
        self._known.pop(partner, None)

    def at(self, now: float) -> set[str]:
        """List those that are busy.

        Args:
            now: in seconds of the event loop's clock.

        Returns:
            Their peer ids.
        """
        return {partner for partner, busy in self._known.items() if busy.until > now}

    def first_free(self, now: float) -> float | None:
        """Say when the first of those that are busy is free.

        Args:
            now: in seconds of the event loop's clock.

        Returns:
            Seconds from now; None if none is busy.
        """
        return min((busy.until - now for busy in self._known.values() if busy.until > now), default=None)
