"""Dynamic weighting: from the recent history of distances to how far two ends pull each other.

A worker that was cut off, or fell back to an old state, comes back with a distance to the centre that suddenly grew.
Then the worker follows the centre, and the centre ignores the worker.

Source: Xu & Carr, arXiv 2409.09242. Of that paper only the abstract was at hand; score and shape are as recalled by
others, the constants and the sign are ours, chosen on a toy problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from p2p_elastic.errors import ConfigError

COEFFICIENTS = (0.4, 0.3, 0.2, 0.1)  # of the last differences, the newest first


class Weighting(NamedTuple):
    """When a worker counts as lagging.

    `coefficients` [m] weigh the last m differences of log-distances, the newest first. A score up to `dead_zone` (about
    two standard deviations of healthy workers) is normal, one of `limit` or more is hopeless, between them it is
    linear. `sign` is +1 where distances are taken at contacts (a straggler's grew), -1 for the opposite convention.
    """

    coefficients: tuple[float, ...] = COEFFICIENTS
    dead_zone: float = 0.1
    limit: float = 0.5
    sign: int = 1

    def checked(self) -> Weighting:
        """Itself. Raises ConfigError where it cannot be."""
        if not self.coefficients or min(self.coefficients) < 0.0 or abs(sum(self.coefficients) - 1.0) > 1e-9:
            raise ConfigError("coefficients", self.coefficients, "numbers of 0 or more that add up to 1")
        if not 0.0 <= self.dead_zone < self.limit:
            raise ConfigError("dead-zone/limit", (self.dead_zone, self.limit), "0 <= dead zone < limit")
        if self.sign not in (1, -1):
            raise ConfigError("sign", self.sign, "1 or -1")
        return self

    def lag(self, log_distances: Sequence[float]) -> float:
        """How much a worker lags, 0 (not at all) to 1; `log_distances` the oldest first. 0 while there are too few."""
        return lag(score(log_distances, self.coefficients), self)


class Pull(NamedTuple):
    """The share of the distance that each end moves: h1 the worker's, h2 the centre's."""

    worker: float
    centre: float


def score(log_distances: Sequence[float], coefficients: Sequence[float]) -> float:
    """The raw score a = sum_j c_j (u_{t-j} - u_{t-j-1}) of log-distances u, the oldest first; 0 while too few.

    Does not change when all distances are multiplied by a constant.
    """
    newest_first = list(log_distances)[::-1]
    if len(newest_first) <= len(coefficients):
        return 0.0
    return sum(c * (newest_first[j] - newest_first[j + 1]) for j, c in enumerate(coefficients))


def lag(raw_score: float, weighting: Weighting) -> float:
    """w = clip((s a - a0) / (k - a0), 0, 1), with dead zone a0, limit k and sign s. NaN is 1."""
    share = (weighting.sign * raw_score - weighting.dead_zone) / (weighting.limit - weighting.dead_zone)
    return share if 0.0 < share < 1.0 else 0.0 if share <= 0.0 else 1.0


def pulls(moving_rate: float, lagging: float) -> Pull:
    """h1 = alpha + (1 - alpha) w, h2 = alpha (1 - w): EASGD's at w = 0; at w = 1 the worker copies and is ignored.

    h1 + h2 stays at 1 or below where alpha is at most 0.5.

    >>> pulls(0.1, 0.0), pulls(0.1, 1.0)
    (Pull(worker=0.1, centre=0.1), Pull(worker=1.0, centre=0.0))
    """
    return Pull(moving_rate + (1.0 - moving_rate) * lagging, moving_rate * (1.0 - lagging))
