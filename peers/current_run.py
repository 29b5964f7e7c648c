"""The run that this peer is in, and what begins and ends with it."""

from __future__ import annotations

import random

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.centre import Centre
from p2p_elastic.peers.leader import Following
from p2p_elastic.peers.rule_states import RulesAtWork
from p2p_elastic.peers.run_context import Asking, RunContext
from p2p_elastic.peers.snapshots import Snapshot
from p2p_elastic.peers.terms import Bargain
from p2p_elastic.protocol.limits import FRAGMENTS_MAX
from p2p_elastic.rules.methods import Flow, Topology
from p2p_elastic.rules.policy import Policy


class CurrentRun:
    """The policy, the terms and the states of one run; `adopt` begins another one with the same model.

    Args:
        peer: this peer's id.
        vector: the model.
        context: this peer's place in the run.
        policy: how the run's peers train together.
    """

    def __init__(self, peer: str, vector: ParameterVector, context: RunContext, policy: Policy) -> None:
        self.peer, self.vector = peer, vector
        self.adopt(context, policy)

    def adopt(self, context: RunContext, policy: Policy) -> None:
        """From now on be in that run, and do as this policy says."""
        self.context, self.policy = context, policy
        self.bargain = Bargain(
            context, self.vector.elements, first_turn=random.Random(self.peer).randrange(FRAGMENTS_MAX)
        )
        self.rules = RulesAtWork(policy, self.vector.empty(0))
        self.centre: Centre | None = None
        self.following: Following | None = None
        if policy.topology is Topology.CENTRE:
            self.centre = Centre(
                self.vector.snapshot(self.vector.empty()),  # where nobody trains yet; else until the centre was seen
                policy.rule,
                seated=not context.newcomer,
                announce_seconds=context.announce_seconds,
            )
        if policy.topology is Topology.LEADER:
            self.following = Following(self.peer, context.group, context.announce_seconds)

    @property
    def compares(self) -> bool:
        """Whether a partner's parameters are kept beside ours: to be tried, or, of the centre, as they came."""
        topology = self.policy.topology
        return topology is Topology.CENTRE or (topology is Topology.PAIRS and self.policy.weighting == "dynamic")

    @property
    def exchange_bytes(self) -> int:
        """What an exchange that is due moves at least, both ways together."""
        return self.bargain.vector_bytes * (2 if self.policy.flow is Flow.BOTH else 1)

    @property
    def asking(self) -> Asking:
        """What we say of ourselves where we ask."""
        codec, vector = self.bargain.codec_of_copies, self.vector
        return Asking(self.peer, self.context.run, vector.schema_hash, vector.elements, codec)

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """The newest snapshot of that peer that is held here."""
        if self.centre is not None and origin == self.peer:
            return self.centre.shown(self.peer)
        if self.following is None:
            return None
        if origin == self.peer:
            self.following.asked_for = True
        return self.following.snapshots.newest(origin)
