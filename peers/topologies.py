"""The table of topologies: which strategy each of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.gossip.nobody import NobodyStrategy
from p2p_elastic.peers.gossip.strategy import PairsStrategy
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.leader.strategy import LeaderStrategy
from p2p_elastic.peers.state.topology import Strategy
from p2p_elastic.rules.methods import Topology

STRATEGIES: Mapping[Topology, Callable[[StrategyParts], Strategy]] = {
    Topology.PAIRS: PairsStrategy,
    Topology.CENTRE: CentreStrategy,
    Topology.LEADER: LeaderStrategy,
    Topology.NOBODY: NobodyStrategy,
}
"""Those that run live; the simulator has the others."""


def take_up(parts: StrategyParts) -> None:
    """From now on do as the topology of the policy says."""
    local = parts.local
    local.run.topology = STRATEGIES[local.run.policy.topology](parts)
    local.slot.mailbox.compare(local.run.topology.compares)
