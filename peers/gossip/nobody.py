"""Everybody trains alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.state.topology import Errand, Strategy


class NobodyStrategy(Strategy):
    """Exchanges with nobody; its peer is a member that others see.

    Args:
        parts: what every strategy works with.
    """

    def __init__(self, parts: StrategyParts) -> None:
        self._local, self._slot = parts.local, parts.local.slot

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """Say whether an outer step is due, of which there are none without an outer optimizer.

        Args:
            step: optimizer steps so far.
            coin: of the schedule.

        Yields:
            "exchange" if the schedule says so.
        """
        policy = self._local.run.policy
        if policy.outer is not None and policy.schedule.due(step, coin):
            yield "exchange"

    async def run_due(self, errand: Errand) -> None:
        """Drop what was due in another run.

        Args:
            errand: any.
        """
        self._slot.release()

    @property
    def why_alone(self) -> str:
        """The rule says so."""
        return "by this run's rule everybody trains alone"
