"""The training curve of a peer since it began: of bounded length, whatever its duration."""

from __future__ import annotations

from pydantic import Field

from p2p_elastic.status.schema import PeerStatus
from p2p_elastic.values import Frozen

POINTS_MAX = 600


class HistoryPoint(Frozen):
    """The state of a peer's training at one moment."""

    seconds: float = Field(description="since the peer started")
    step: int = Field(description="optimizer steps done")
    loss: float | None = Field(description="mean over the last steps, in nats")
    accuracy: float | None = Field(description="share of the validation split, 0..1")
    metrics: dict[str, float | None] = Field(default={}, description="of the task on the validation split, by name")
    weight: float = Field(description="what the peer counted for in exchanges, 0..1")
    steps_per_second: float | None = Field(description="over the last seconds")


class History:
    """The curve. When it gets too long every second point goes, and points are taken half as often from then on.

    Args:
        interval_seconds: between two points, at first.
    """

    def __init__(self, interval_seconds: float = 1.0) -> None:
        self._interval = interval_seconds
        self._points: tuple[HistoryPoint, ...] = ()  # replaced whole: other threads read it

    @property
    def points(self) -> tuple[HistoryPoint, ...]:
        """The points, the oldest first."""
        return self._points

    def observe(self, status: PeerStatus) -> None:
        """Take a point if it is time for one.

        Args:
            status: of the peer now.
        """
        points, training = self._points, status.training
        if training.step == 0 and training.phase != "holding":
            return  # there is nothing to show yet
        if points and status.uptime_seconds - points[-1].seconds < self._interval:
            return
        if len(points) >= POINTS_MAX:
            points, self._interval = points[::2], 2 * self._interval
        taken = HistoryPoint(
            seconds=status.uptime_seconds,
            step=training.step,
            loss=training.loss,
            accuracy=training.validation_accuracy,
            metrics=training.metrics,
            weight=status.weight,
            steps_per_second=training.steps_per_second,
        )
        self._points = (*points, taken)
