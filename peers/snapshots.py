"""Snapshots that spread: each peer sends one a few times, and refers whoever asks later to those that have it.

So a snapshot reaches N peers in about log N steps, and its origin sends it `COPIES` times, however many want it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, field

from torch import Tensor

from p2p_elastic.peers.partners import Members

COPIES = 2  # times that one peer sends one snapshot
SNAPSHOTS_MAX = 3  # our own, that of the group's leader, and that of the leader of all


@dataclass
class Snapshot:
    """The parameters [D] that `origin` published after its step, and to whom we sent them."""

    origin: str
    step: int
    loss: float | None
    vector: Tensor
    believed: bool = False  # its parameters gave the loss that it claims, on our own examples
    sending: int = 0  # copies on their way
    holders: list[str] = field(default_factory=list)  # those that got it from us

    def may_send(self) -> bool:
        """Whether it was not handed out often enough yet."""
        return self.sending + len(self.holders) < COPIES


class Snapshots:
    """The snapshots held here, by origin; the newest of each, SNAPSHOTS_MAX in all, the oldest are dropped."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Snapshot] = OrderedDict()
        self.published = self.sent = 0  # of our own making; copies sent of any

    def keep(self, snapshot: Snapshot) -> None:
        """Hold this one from now on."""
        self._held.pop(snapshot.origin, None)
        self._held[snapshot.origin] = snapshot
        while len(self._held) > SNAPSHOTS_MAX:
            self._held.popitem(last=False)

    def newest(self, origin: str) -> Snapshot | None:
        """That of `origin`, where it is held here."""
        return self._held.get(origin)


def next_holder(holders: tuple[str, ...], asked: set[str], members: Members, rng: random.Random) -> str | None:
    """Whom to ask next for a snapshot, of those that are said to have it."""
    open_ones = sorted(h for h in holders if h not in asked and h in members and not members[h].suspect)
    return rng.choice(open_ones) if open_ones else None
