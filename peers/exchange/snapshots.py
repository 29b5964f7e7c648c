"""Snapshots that spread: each peer sends one a few times, and refers whoever asks later to those that have it.

So a snapshot reaches N peers in about log N steps, and its origin sends it `COPIES` times, however many want it. Only
whoever comes back, because those holders did not help, gets one more.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

COPIES = 2  # times that one peer sends one snapshot
TRIES = 2  # for one asker, where the first transfer failed
REFERRED_MAX = 4
SNAPSHOTS_MAX = 3  # our own, that of the group's leader, and that of the leader of all


class SnapshotLosses(NamedTuple):
    """Losses in nats: of a leader's parameters on our latest examples, with its standard error, and of our own
    parameters on examples that we never saw."""

    theirs: float
    error: float
    own: float


@dataclass(eq=False)
class Snapshot:
    """The parameters [D] that `origin` published after its step, and to whom we sent them."""

    origin: str
    step: int
    loss: float | None
    vector: Tensor
    source: str | None = None  # who sent it to us
    believed: bool = False  # its parameters gave the loss that it claims, on our own examples
    sending: int = 0  # copies on their way
    holders: list[str] = field(default_factory=list)  # those that got it from us
    tries: Counter[str] = field(default_factory=Counter)  # transfers begun, per member
    referred: set[str] = field(default_factory=set)  # members that were sent to others

    def may_send(self, peer: str) -> bool:
        """Whether that member gets a copy of ours: the first ones do, and who was referred in vain; each one copy."""
        if peer in self.holders or self.tries[peer] >= TRIES:
            return False
        return self.sending + len(self.holders) < COPIES or peer in self.referred

    def refer(self, peer: str, alive: Collection[str]) -> tuple[str, ...]:
        """Who else has it, of those `alive`; nobody while it is on its way. Where `peer` comes back, they did not
        help."""
        live = tuple(h for h in self.holders if h != peer and h in alive)
        if live or self.sending == 0:
            self.referred.add(peer)
        return live[-REFERRED_MAX:]


class Snapshots:
    """The snapshots held here, by origin; the newest of each, SNAPSHOTS_MAX in all, the oldest are dropped."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Snapshot] = OrderedDict()
        self.published = 0  # of our own making

    @property
    def held(self) -> tuple[Snapshot, ...]:
        """All of them, the one that was kept last at the end."""
        return tuple(self._held.values())

    def keep(self, snapshot: Snapshot) -> None:
        """Hold this one from now on."""
        self._held.pop(snapshot.origin, None)
        self._held[snapshot.origin] = snapshot
        while len(self._held) > SNAPSHOTS_MAX:
            self._held.popitem(last=False)

    def drop(self, snapshot: Snapshot) -> None:
        """Hold it no longer, and so neither follow nor spread it."""
        if self._held.get(snapshot.origin) is snapshot:
            del self._held[snapshot.origin]

    def newest(self, origin: str) -> Snapshot | None:
        """That of `origin`, where it is held here."""
        return self._held.get(origin)


def next_holder(holders: Collection[str], asked: set[str], alive: Collection[str], rng: random.Random) -> str | None:
    """Whom to ask next for a snapshot, of those `alive` that are said to have it."""
    open_ones = sorted(h for h in holders if h not in asked and h in alive)
    return rng.choice(open_ones) if open_ones else None
