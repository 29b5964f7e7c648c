"""Snapshots that spread: each peer sends one a few times, and refers later members to those that have it.

So a snapshot reaches N peers in about log N steps, and its origin sends it `COPIES` times, however many want it. Only a
member that comes back, because those holders did not help, gets one more.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

COPIES = 2  # times that one peer sends one snapshot
TRIES = 2  # for one member, if the first transfer failed
REFERRED_MAX = 4
SNAPSHOTS_MAX = 3  # this peer's own, that of the group's leader, and that of the leader of all


class SnapshotLosses(NamedTuple):
    """Losses of a leader's parameters and of this peer's own, in nats.

    Attributes:
        theirs: of the leader's parameters, on this peer's latest examples.
        error: the standard error of that.
        own: of this peer's own parameters, on examples that it never saw.
    """

    theirs: float
    error: float
    own: float


@dataclass(eq=False)
class Snapshot:
    """The parameters that a leader published, and the members that this peer sent them to.

    Attributes:
        origin: the leader's peer id.
        step: after which it published them.
        loss: what it claims, in nats; None if it claims none.
        vector: the parameters, `[D]`.
        source: the peer that sent them; None at their origin.
        believed: whether they gave the loss that is claimed, on this peer's own examples.
        sending: copies on their way.
        holders: members that got it from this peer.
        tries: transfers begun, per member.
        referred: members that were sent to others.
    """

    origin: str
    step: int
    loss: float | None
    vector: Tensor
    source: str | None = None
    believed: bool = False
    sending: int = 0
    holders: list[str] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    referred: set[str] = field(default_factory=set)

    def may_send(self, peer: str) -> bool:
        """Whether a member gets a copy from this peer: the first ones do, and those referred in vain; each one copy.

        Args:
            peer: the member.

        Returns:
            False if it has one, or TRIES transfers to it began.
        """
        if peer in self.holders or self.tries[peer] >= TRIES:
            return False
        return self.sending + len(self.holders) < COPIES or peer in self.referred

    def refer(self, peer: str, alive: Collection[str]) -> tuple[str, ...]:
        """Name other members that have the snapshot. If this one comes back, they did not help.

        Args:
            peer: the member that asks.
            alive: the members that are alive.

        Returns:
            REFERRED_MAX peer ids at most; none while the first copy is on its way.
        """
        live = tuple(h for h in self.holders if h != peer and h in alive)
        if live or self.sending == 0:
            self.referred.add(peer)
        return live[-REFERRED_MAX:]


class Snapshots:
    """The snapshots held here, by origin: the newest of each, SNAPSHOTS_MAX in all, the oldest are dropped."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Snapshot] = OrderedDict()
        self.published = 0  # of this peer's own making

    @property
    def held(self) -> tuple[Snapshot, ...]:
        """All of them, the one that was kept last at the end."""
        return tuple(self._held.values())

    def keep(self, snapshot: Snapshot) -> None:
        """Hold a snapshot from now on, instead of an older one of its origin.

        Args:
            snapshot: the snapshot.
        """
        self._held.pop(snapshot.origin, None)
        self._held[snapshot.origin] = snapshot
        while len(self._held) > SNAPSHOTS_MAX:
            self._held.popitem(last=False)

    def drop(self, snapshot: Snapshot) -> None:
        """Hold a snapshot no longer, and so neither follow nor spread it.

        Args:
            snapshot: the snapshot; one that is not held changes nothing.
        """
        if self._held.get(snapshot.origin) is snapshot:
            del self._held[snapshot.origin]

    def newest(self, origin: str) -> Snapshot | None:
        """Look up the snapshot of a leader.

        Args:
            origin: the leader's peer id.

        Returns:
            The snapshot; None if none is held here.
        """
        return self._held.get(origin)


def next_holder(holders: Collection[str], asked: set[str], alive: Collection[str], rng: random.Random) -> str | None:
    """Choose which member to ask next for a snapshot.

    Args:
        holders: those that are said to have it.
        asked: those that were asked before.
        alive: the members that are alive.
        rng: draws one.

    Returns:
        A peer id; None if none is left.
    """
    open_ones = sorted(h for h in holders if h not in asked and h in alive)
    return rng.choice(open_ones) if open_ones else None
