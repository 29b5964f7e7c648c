"""What one peer did, written down while it did it.

It listens where moves are settled and exchanges are entered: the two places that every exchange passes, at either end.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.peers.handover import Settled
from p2p_elastic.peers.journal import Entry
from p2p_elastic.peers.peer import Peer
from p2p_elastic.protocol.outcome import Outcome


class Applied(NamedTuple):
    """A change of the parameters: of which exchange, and the move [D]; `replaced`: loaded, not added."""

    exchange_id: str
    move: Tensor
    replaced: bool


class WatchedVector(ParameterVector):
    """Writes down what changes the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.changes: list[Tensor] = []

    def add_(self, move: Tensor, part: Part | None = None, share: float = 1.0) -> None:
        self.changes.append(move * share if share else torch.zeros_like(move))
        super().add_(move, part, share)

    def load_(self, values: Tensor) -> None:
        self.changes.append(values.clone())
        super().load_(values)


class Observer:
    """The exchanges and moves of one life of a peer, in their order."""

    def __init__(self, peer: Peer, vector: WatchedVector) -> None:
        self.entries: list[Entry] = []
        self.times: list[float] = []  # when an exchange completed or a move was added
        self.weights: dict[str, float | None] = {}  # exchange -> what the partner claimed to count for
        self.applied: list[Applied] = []
        self.disbelieved = 0  # moves that were settled and not added
        self.vector = vector
        journal, handover = peer._local.journal, peer._local.handover
        enter, between_steps = journal.enter, handover.between_steps

        def entered(entry: Entry, weight: float | None = None) -> None:
            self.entries.append(entry)
            if entry.outcome is Outcome.COMPLETED:
                self.times.append(entry.ended_at)
            self.weights[entry.id] = weight
            enter(entry, weight)

        def settled(*args: object, **kwargs: object) -> Settled | None:
            result = between_steps(*args, **kwargs)  # type: ignore[arg-type]
            if result is not None and result.added:
                self.applied.append(Applied(result.exchange_id, vector.changes[-1], result.replaced))
                self.times.append(asyncio.get_running_loop().time())
            elif result is not None:
                self.disbelieved += 1
            return result

        journal.enter = entered  # type: ignore[method-assign]
        handover.between_steps = settled  # type: ignore[method-assign]
