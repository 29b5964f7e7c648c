"""Everybody trains alone."""

from __future__ import annotations

from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.state.topology import Errand, Strategy


class NobodyStrategy(Strategy):
    """Exchanges with nobody; its peer is a member that others see."""

    def __init__(self, parts: StrategyParts) -> None:
        self._slot = parts.local.slot

    async def run_due(self, errand: Errand) -> None:
        """What was due in another run is not done."""
        self._slot.release()

    @property
    def why_alone(self) -> str:
        """The rule says so."""
        return "by this run's rule everybody trains alone"
