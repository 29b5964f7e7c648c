"""When a peer asks for an exchange: every tau steps, or with probability p after each step."""

from __future__ import annotations

import random
from typing import NamedTuple

from p2p_elastic.errors import ConfigError


class Schedule(NamedTuple):
    """Either a communication period tau or a probability p per step; the effective period is 1/p.

    Source: Elastic Gossip, arXiv 1812.02407 (both forms).

    Attributes:
        period: tau in steps, 1 or more; None if a probability is given.
        probability: p, 0 to 1; None if a period is given.
    """

    period: int | None = None
    probability: float | None = None

    @classmethod
    def build(cls, period: int | None, probability: float | None) -> Schedule:
        """Check the two and build a schedule.

        Args:
            period: tau in steps, 1 or more, or None.
            probability: p, 0 to 1, or None.

        Returns:
            The schedule.

        Raises:
            ConfigError: unless exactly one of the two is given and in range.

        Example:
            >>> str(Schedule.build(32, None)), str(Schedule.build(None, 0.125))
            ('every 32 steps', 'with probability 0.125 per step')
        """
        if (period is None) == (probability is None):
            raise ConfigError("period/probability", (period, probability), "give one of the two, not both or none")
        if period is not None and period < 1:
            raise ConfigError("period", period, "a whole number of steps, 1 or more")
        if probability is not None and not 0.0 <= probability <= 1.0:
            raise ConfigError("probability", probability, "a number from 0 to 1")
        return cls(period, probability)

    @property
    def mean_period(self) -> float:
        """Steps between two exchanges that the peer asks for, on average; infinite for a probability of 0."""
        if self.period is not None:
            return float(self.period)
        return 1.0 / self.probability if self.probability else float("inf")

    def due(self, step: int, rng: random.Random) -> bool:
        """Whether an exchange is due after a step.

        Args:
            step: counted from 1.
            rng: drawn from once per call if the schedule is a probability.

        Returns:
            True if it is due.
        """
        if self.period is not None:
            return step % self.period == 0
        return rng.random() < (self.probability or 0.0)

    def __str__(self) -> str:
        return f"every {self.period} steps" if self.period else f"with probability {self.probability:g} per step"
