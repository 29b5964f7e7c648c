"""The table of topologies: which strategy each of them is."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from p2p_elastic.peers.centre_strategy import CentreStrategy
from p2p_elastic.peers.conversation import Limits
from p2p_elastic.peers.initiator import Initiator
from p2p_elastic.peers.leader_strategy import LeaderStrategy
from p2p_elastic.peers.local_context import LocalContext
from p2p_elastic.peers.nobody import NobodyStrategy
from p2p_elastic.peers.pairs import PairsStrategy
from p2p_elastic.peers.seats import OwnSeat
from p2p_elastic.peers.strategy_parts import StrategyParts
from p2p_elastic.peers.topology import Strategy
from p2p_elastic.peers.transport import Transport
from p2p_elastic.rules.methods import Topology

STRATEGIES: Mapping[Topology, Callable[[StrategyParts], Strategy]] = {
    Topology.PAIRS: PairsStrategy,
    Topology.CENTRE: CentreStrategy,
    Topology.LEADER: LeaderStrategy,
    Topology.NOBODY: NobodyStrategy,
}
"""Those that run live; the simulator has the others."""


def parts_of(local: LocalContext, transport: Transport, limits: Limits, rng: random.Random) -> StrategyParts:
    """The parts of the peer that `local` is of, which does as the topology of its policy says."""
    own, initiator = OwnSeat(local, limits), Initiator(local, transport, limits, rng)
    parts = StrategyParts(local, transport, limits, rng, initiator, own)
    take_up(parts)
    return parts


def take_up(parts: StrategyParts) -> None:
    """From now on do as the topology of the policy says."""
    local = parts.local
    local.run.topology = STRATEGIES[local.run.policy.topology](parts)
    local.slot.mailbox.compare(local.run.topology.compares)
