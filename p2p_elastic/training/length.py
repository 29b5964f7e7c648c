"""A length of training in time."""

from __future__ import annotations

from collections.abc import Callable


class Length:
    """How much of a length in time is over, in all lives of a peer.

    Args:
        limit: seconds; None: the length is not one in time.
        clock: monotonic seconds.

    Attributes:
        seconds_before: of earlier lives.
    """

    def __init__(self, limit: float | None, clock: Callable[[], float]) -> None:
        self._limit, self._clock, self._began_at = limit, clock, clock()
        self.seconds_before = 0.0

    def begin(self) -> None:
        """Begin to count: what came before, such as waiting for others, does not count."""
        self._began_at = self._clock()

    @property
    def seconds(self) -> float:
        """Seconds of training, in all lives."""
        return self.seconds_before + self._clock() - self._began_at

    @property
    def share(self) -> float | None:
        """The share that is over, 0 to 1; None if the length is not one in time."""
        return None if self._limit is None else min(1.0, self.seconds / self._limit)
