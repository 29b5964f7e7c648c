"""This peer's side of any exchange: what it says of itself, its two vectors, its rule, and what it knows of others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from p2p_elastic.exchange import SHARE_MAX, Result, Tell
from p2p_elastic.peers.centre import Centre
from p2p_elastic.peers.conversation import Vectors
from p2p_elastic.peers.handover import Check, Handover, State
from p2p_elastic.peers.journal import Entry, Journal
from p2p_elastic.peers.leader import Following
from p2p_elastic.peers.partners import Member, own_weight
from p2p_elastic.peers.snapshots import Snapshot
from p2p_elastic.policy import Policy
from p2p_elastic.rules import Facts, Topology
from p2p_elastic.vector import ParameterVector


@dataclass(frozen=True)
class Membership:
    """What this peer is in the run, and how often it says so."""

    run: str
    codec: str = "none"
    group: str = ""  # whose leader we follow, and may be
    standby: bool = False  # does not train: keeps a fresh copy of the centre variable, to take its place
    newcomer: bool = False  # joined a run that was under way: copies before it counts
    first_sequence: int = 1  # of our records; must be beyond those of an earlier life with the same identity
    announce_seconds: float = 5.0
    refresh_seconds: float = 3.0


class Progress(NamedTuple):
    """What the training thread last said."""

    step: int = 0
    loss: float | None = None


class Local:
    """State that asking and answering share. Belongs to the network thread, but for `progress`."""

    def __init__(self, peer: str, vector: ParameterVector, policy: Policy, membership: Membership) -> None:
        self.peer, self.vector, self.membership = peer, vector, membership
        self.handover, self.journal = Handover(vector), Journal()
        self.vectors = Vectors(self.handover.mine, self.handover.theirs)
        self.members: Mapping[str, Member] = {}
        self.progress = Progress()
        self.newcomer = membership.newcomer
        self.offering_to: str | None = None
        self.yielding = False  # the partner that we offer to offered to us, and goes first
        self.leaving = False
        self.freed = asyncio.Event()
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """From now on do as this policy says."""
        self.policy = policy
        self._rule_state = policy.rule.init(self.handover.mine)
        self._global_state = policy.global_rule.init(self.handover.mine) if policy.global_rule else None
        membership, topology = self.membership, policy.topology
        self.centre: Centre | None = None
        self.following: Following | None = None
        if topology is Topology.CENTRE:
            self.centre = Centre(
                self.handover.mine.clone(),  # not the model itself: it may be training by now
                policy.rule,
                seated=not membership.newcomer,
                announce_seconds=membership.announce_seconds,
            )
        if topology is Topology.LEADER:
            self.following = Following(self.peer, membership.group, membership.announce_seconds)

    @property
    def share(self) -> float:
        """What we give away of our sum weight when we ask (GoSGD)."""
        return min(self.policy.rule.share(self._rule_state), SHARE_MAX)

    @property
    def weight(self) -> float:
        """How much we count for a partner: 0 while a newcomer, 1 afterwards."""
        return own_weight(self.newcomer, self.progress.step, self.members)

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """The newest snapshot of that peer that is held here."""
        if self.centre is not None and origin == self.peer:
            return self.centre.shown(self.peer)
        if self.following is None:
            return None
        if origin == self.peer:
            self.following.asked_for = True
        return self.following.snapshots.newest(origin)

    def tell(self, exchange_id: str) -> Tell:
        """How well our training goes."""
        progress = self.progress
        return Tell(id=exchange_id, peer=self.peer, run=self.membership.run, step=progress.step, loss=self.loss())

    def loss(self) -> float | None:
        """The last loss, where it is a number that JSON has."""
        loss = self.progress.loss
        return loss if loss is not None and math.isfinite(loss) else None

    def finite(self) -> bool:
        """Whether our own snapshot may be shown to others."""
        return bool(torch.isfinite(self.handover.mine.sum()))

    def move(
        self,
        exchange_id: str,
        mine: Facts,
        theirs: Facts,
        *,
        received: bool = True,
        of_all: bool = False,
        check: Check | None = None,
    ) -> float | None:
        """Turn the received vector into our move and hand it to the training thread. Returns the L2 distance.

        Where nothing was `received` only the rule's state changes, and the handover is free again. `of_all`: by the
        rule for the leader of all groups. `check` is asked by the training thread before it adds the move.
        """
        if not received:
            self._update(self.handover.theirs[:0], mine, theirs, of_all)
            self.free()
            return None
        delta = self.handover.theirs.sub_(self.handover.mine)
        distance = float(torch.linalg.vector_norm(delta))
        if not math.isfinite(distance):
            delta.zero_()  # what overflows a difference would break the model
        move = self._update(delta, mine, theirs, of_all)
        if move is not self.handover.theirs:
            self.handover.theirs.copy_(move)
        if theirs.weight > 0.0 and check is None:
            self.newcomer = False  # copied, or met somebody who counts: from now on we count too
        self.handover.deliver(exchange_id, check)
        self.freed.set()
        return distance

    def _update(self, delta: Tensor, mine: Facts, theirs: Facts, of_all: bool) -> Tensor:
        if of_all and self.policy.global_rule is not None:
            move, self._global_state = self.policy.global_rule.update(
                delta, self._global_state, mine=mine, theirs=theirs
            )
        else:
            move, self._rule_state = self.policy.rule.update(delta, self._rule_state, mine=mine, theirs=theirs)
        return move

    def enter(
        self,
        exchange_id: str,
        partner: str,
        result: Result,
        *,
        initiated: bool,
        started: float,
        traffic: tuple[int, int],
        distance: float | None,
    ) -> None:
        """Write an exchange that just ended into the journal. `started` in seconds of the event loop's clock."""
        now = asyncio.get_running_loop().time()
        self.journal.enter(
            Entry(
                id=exchange_id,
                partner=partner,
                initiated=initiated,
                outcome=result.outcome,
                reason=result.reason,
                step=self.progress.step,
                seconds=now - started,
                bytes_sent=traffic[0],
                bytes_received=traffic[1],
                distance=distance,
                ended_at=now,
            )
        )

    def free(self) -> None:
        """Give up the exchange under way."""
        self.handover.release()
        self.freed.set()

    async def until_free(self) -> None:
        """Wait until no exchange is under way and no move waits to be added."""
        await self._until(State.FREE)

    async def until_quiet(self) -> None:
        """Wait until no exchange is under way; a move may still wait to be added."""
        await self._until(State.FREE, State.DELIVERED)

    async def _until(self, *states: State) -> None:
        while self.handover.state not in states:
            self.freed.clear()
            await self.freed.wait()
