"""Which partners could not be connected directly lately: these are not tried again at each exchange."""

from __future__ import annotations

from typing import Literal, NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.trust import PARTNERS_MAX

Setback = Literal["dial", "transfer"]
"""The partner could not be dialled; a connection broke, or came to nothing, with vectors on it."""
AGAIN_SECONDS, AGAIN_SECONDS_MAX = 60.0, 3600.0


class _Failed(NamedTuple):
    """Times in a row, and until when it is not tried again, in seconds of the event loop's clock."""

    times: int
    until: float


class Setbacks:
    """How often direct connections failed with each partner, PARTNERS_MAX at most."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, Setback], _Failed] = {}

    def failed(self, partner: str, what: Setback, now: float) -> None:
        """Note a failure: after AGAIN_SECONDS it may be tried again, and after twice as long each further time.

        Args:
            partner: its peer id.
            what: failed.
            now: seconds of the event loop's clock.
        """
        times = 1 + (self._failed.pop((partner, what), _Failed(0, 0.0)).times)
        seconds = min(AGAIN_SECONDS * 2.0 ** min(times - 1, 16), AGAIN_SECONDS_MAX)
        self._failed[partner, what] = _Failed(times, now + seconds)
        forget_oldest(self._failed, 2 * PARTNERS_MAX)

    def worked(self, partner: str, what: Setback) -> None:
        """Note that it works.

        Args:
            partner: its peer id.
            what: worked.
        """
        self._failed.pop((partner, what), None)

    def lately(self, partner: str, what: Setback, now: float) -> bool:
        """Whether it failed lately.

        Args:
            partner: its peer id.
            what: may have failed.
            now: seconds of the event loop's clock.

        Returns:
            True until it may be tried again.
        """
        known = self._failed.get((partner, what))
        return known is not None and now < known.until
