"""The run that this peer is in, and what begins and ends with it."""

from __future__ import annotations

import random

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.negotiation import Bargain
from p2p_elastic.peers.exchange.rule_states import RulesAtWork
from p2p_elastic.peers.membership.run_context import Asking, RunContext
from p2p_elastic.peers.state.topology import Strategy, Undecided
from p2p_elastic.protocol.limits import FRAGMENTS_MAX
from p2p_elastic.rules.methods import Flow
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
        self.topology: Strategy = Undecided()  # until that of the policy is taken up (`topologies.py`)
        self.adopt(context, policy)

    def adopt(self, context: RunContext, policy: Policy) -> None:
        """Begin another run: terms and rule states begin anew.

        Args:
            context: this peer's place in the run.
            policy: how the run's peers train together.
        """
        self.context, self.policy = context, policy
        self.bargain = Bargain(
            context, self.vector.elements, first_turn=random.Random(self.peer).randrange(FRAGMENTS_MAX)
        )
        self.rules = RulesAtWork(policy, self.vector.empty(0))

    @property
    def exchange_bytes(self) -> int:
        """What the exchange that was due last moves at least, both ways together."""
        return self.bargain.latest_bytes * (2 if self.policy.flow is Flow.BOTH else 1)

    @property
    def asking(self) -> Asking:
        """What this peer says of itself in whatever it asks for."""
        codec, vector = self.bargain.codec_of_copies, self.vector
        return Asking(self.peer, self.context.run, vector.schema_hash, vector.elements, codec)
