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
"""How a snapshot does on our own examples. Called by the training thread."""


@dataclass(eq=False)
class StrategyParts:
    """The parts of one peer. They stay where it adopts another run.

    `own` is the end of exchanges with the model that trains here; `measure` is None where nobody tries snapshots.
    """

    local: LocalContext
    transport: Transport
    limits: Limits
    rng: random.Random
    initiator: Initiator
    own: OwnEndpoint
    measure: Measure | None = None
