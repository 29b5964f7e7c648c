"""Everybody trains alone."""

from __future__ import annotations

from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.state.topology import Errand, Strategy


class NobodyStrategy(Strategy):
    """Exchanges with nobody; its peer is a member that others see.

    Args:
        parts: what every strategy works with.
    """

    def __init__(self, parts: StrategyParts) -> None:
        self._slot = parts.local.slot

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
