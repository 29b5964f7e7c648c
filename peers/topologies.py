"""The table of topologies: the strategy of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.gossip.endpoint import OwnEndpoint
from p2p_elastic.peers.gossip.initiator import Initiator
from p2p_elastic.peers.gossip.nobody import NobodyStrategy
from p2p_elastic.peers.gossip.strategy import PairsStrategy
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.leader.strategy import LeaderStrategy
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.topology import Strategy
from p2p_elastic.peers.transport.interfaces import Transport
from p2p_elastic.rules.methods import Topology

STRATEGIES: Mapping[Topology, Callable[[StrategyParts], Strategy]] = {
    Topology.PAIRS: PairsStrategy,
    Topology.CENTRE: CentreStrategy,
    Topology.LEADER: LeaderStrategy,
    Topology.NOBODY: NobodyStrategy,
}
"""The topologies that run live; the simulator has the others."""


def parts_of(local: LocalContext, transport: Transport, limits: Limits, rng: random.Random) -> StrategyParts:
    """The parts of a peer, which does as the topology of its policy says.

    Args:
        local: the peer's state.
        transport: opens streams.
        limits: of each conversation.
        rng: for the choice of partners.

    Returns:
        What every strategy works with.
    """
    own, initiator = OwnEndpoint(local, limits), Initiator(local, transport, limits, rng)
    parts = StrategyParts(local, transport, limits, rng, initiator, own)
    take_up(parts)
    return parts


def take_up(parts: StrategyParts) -> None:
    """Follow the topology of the policy from now on.

    Args:
        parts: of the peer, whose strategy is replaced.
    """
    local = parts.local
    local.run.topology = STRATEGIES[local.run.policy.topology](parts)
    local.slot.mailbox.compare(local.run.topology.compares)
