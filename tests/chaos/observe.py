"""What one peer did, written down while it did it.

It listens where moves are settled and exchanges are entered: the two places that every exchange passes, at either end.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.peers.exchange.journal import Entry
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
        self.replaced = False  # by the last change

    def add_(self, move: Tensor, part: Part | None = None, share: float = 1.0) -> None:
        self.changes.append(move * share if share else torch.zeros_like(move))
        self.replaced = False
        super().add_(move, part, share)

    def load_(self, values: Tensor) -> None:
        self.changes.append(values.clone())
        self.replaced = True
        super().load_(values)


class Observer:
    """The exchanges and moves of one life of a peer, in their order."""

    def __init__(self, peer: Peer, vector: WatchedVector) -> None:
        self.entries: list[Entry] = []
        self.times: list[float] = []  # when an exchange completed or a move was added
        self.weights: dict[str, float | None] = {}  # exchange -> what the partner claimed to count for
        self.applied: list[Applied] = []
        self.vector, self._peer = vector, peer
        journal = peer.parts.journal
        enter, settle = journal.enter, journal.settled

        def entered(entry: Entry, weight: float | None = None) -> None:
            self.entries.append(entry)
            if entry.outcome is Outcome.COMPLETED:
                self.times.append(entry.ended_at)
            self.weights[entry.id] = weight
            enter(entry, weight)

        def settled(exchange_id: str, staleness: int) -> None:
            self.applied.append(Applied(exchange_id, vector.changes[-1], vector.replaced))
            self.times.append(asyncio.get_running_loop().time())
            settle(exchange_id, staleness)

        journal.enter = entered  # type: ignore[method-assign]
        journal.settled = settled  # type: ignore[method-assign]

    @property
    def disbelieved(self) -> int:
        """Moves that were settled and not added."""
        return self._peer.exchanges().skipped.get("leader not believed", 0)
