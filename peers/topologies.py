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
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.topology import Strategy
from p2p_elastic.peers.transport.interfaces import Transport
from p2p_elastic.rules.methods import Topology
from p2p_elastic.rules.policy import Policy

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


def adopt(parts: StrategyParts, context: RunContext, policy: Policy, now: float) -> None:
    """Let a peer become a newcomer of another run with the same model.

    Args:
        parts: of the peer.
        context: its place in that run.
        policy: how the peers of that run train together.
        now: seconds of the event loop's clock.
    """
    local = parts.local
    local.run.adopt(context, policy)
    local.members.forget()
    local.own.join(now)
    local.judge.forget()
    take_up(parts)
    local.pacing.adopt(policy, local.run.bargain.vector_bytes)


def take_up(parts: StrategyParts) -> None:
    """Follow the topology of the policy from now on.

    Args:
        parts: of the peer, whose strategy is replaced.
    """
    local = parts.local
    local.run.topology = STRATEGIES[local.run.policy.topology](parts)
    local.slot.mailbox.compare(local.run.topology.compares)
    local.slot.mailbox.outer.use(local.run.policy.outer)
