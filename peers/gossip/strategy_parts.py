"""What every strategy works with."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from p2p_elastic.peers.exchange.snapshots import Snapshot, SnapshotLosses
from p2p_elastic.peers.gossip.endpoint import OwnEndpoint
from p2p_elastic.peers.gossip.initiator import Initiator
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.transport.interfaces import Transport

Measure = Callable[[Snapshot], SnapshotLosses]
"""How a snapshot does on this peer's examples. Called by the training thread."""


@dataclass(eq=False)
class StrategyParts:
    """The parts of one peer. They stay as they are if it adopts another run.

    Attributes:
        local: the parts that most of its classes need.
        transport: opens and serves streams.
        limits: of each conversation.
        rng: for the choice of partners, and for ids.
        initiator: does the exchanges that this peer asks for.
        own: the end of exchanges with the model that trains here.
        measure: tries a leader's snapshot; None if no snapshots are tried.
    """

    local: LocalContext
    transport: Transport
    limits: Limits
    rng: random.Random
    initiator: Initiator
    own: OwnEndpoint
    measure: Measure | None = None
