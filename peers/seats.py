"""What a partner can exchange with at this peer: the model that trains here, or the centre variable."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, Protocol

import torch

from p2p_elastic.health.trust import Trial
from p2p_elastic.peers.centre import Centre
from p2p_elastic.peers.conversation import Limits
from p2p_elastic.peers.handover import State
from p2p_elastic.peers.local import Local
from p2p_elastic.peers.moving import move
from p2p_elastic.peers.timeouts import wait_for
from p2p_elastic.peers.transfer import Received, Vectors
from p2p_elastic.protocol.exchange import facts
from p2p_elastic.protocol.messages import Accept, DeclineReason, Offer, Stamp
from p2p_elastic.rules.merging import is_barrier

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    reason: DeclineReason
    detail: str = ""


class Seat(Protocol):
    """One end of an exchange that somebody asked for. After `reserve` it is ours until `commit` or `free`."""

    async def reserve(self, offer: Offer) -> Refusal | None:
        """Make ours ready to be sent, or say why not."""

    def vectors(self, offer: Offer) -> Vectors:
        """What travels."""

    def accept(self, offer: Offer) -> Accept: ...

    async def try_out(self, offer: Offer, accept: Accept) -> Trial | None:
        """How what was received does on the examples here."""

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        """The exchange took place: move. Returns the L2 distance before it, None where nothing was received."""

    def free(self) -> None:
        """It did not take place."""


class OwnSeat:
    """The model that trains here: a snapshot of it goes out, the move waits for the training thread."""

    def __init__(self, local: Local, limits: Limits) -> None:
        self._local, self._limits = local, limits
        self.published = asyncio.Event()

    def vectors(self, offer: Offer) -> Vectors:
        return self._local.handover.vectors(offer.codec)

    async def reserve(self, offer: Offer) -> Refusal | None:
        local = self._local
        if local.progress.step == 0:
            return Refusal(DeclineReason.NOT_TRAINING, "not begun")
        local.weigh()
        await self._yield_to(offer.peer)
        if offer.part is not None and (local.broken or local.newcomer):
            return Refusal(DeclineReason.NOT_TRAINING, "it needs a whole model first")
        if local.leaving and offer.peer != local.awaited:  # since the offer came
            return Refusal(DeclineReason.LEAVING)
        if not local.handover.request(offer.part):
            return Refusal(DeclineReason.BUSY)
        refusal: Refusal | None = Refusal(DeclineReason.LEAVING)  # where we are cancelled while waiting
        try:
            refusal = await self._snapshot()
        finally:
            if refusal is not None:
                local.free()
        return refusal

    async def take_snapshot(self) -> bool:
        """Freeze our parameters for an exchange outside of the schedule, that we ask for.

        False where the one under way does not end in time, no step does, or they are not finite.
        """
        local, taken = self._local, False
        try:
            await wait_for(local.until_free(), self._limits.snapshot_seconds)
        except asyncio.TimeoutError:
            return False
        if not local.handover.request():
            return False
        try:
            await wait_for(self._until_published(), self._limits.snapshot_seconds)
            taken = await local.finite()
        except asyncio.TimeoutError:
            log.info("no step ended in %g s", self._limits.snapshot_seconds)
        finally:
            if not taken:
                local.free()
        return taken

    async def _yield_to(self, partner: str) -> None:
        """Two peers that offered to each other at once: the offer of the smaller id stands, the other's is declined."""
        local = self._local
        if local.offering_to != partner or partner > local.peer:
            return
        local.yielding = True
        try:
            await wait_for(local.until_free(), self._limits.header_seconds)
        except asyncio.TimeoutError:
            log.info("our own offer to %s did not end", partner)

    async def _snapshot(self) -> Refusal | None:
        local = self._local
        seconds = local.step_time.patience(local.step_rate.steps_per_second, self._limits.snapshot_seconds)
        try:
            await wait_for(self._until_published(), seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.NOT_TRAINING, f"no step ended in {seconds:.3g} s")
        if not await local.finite():
            if not local.policy.sends or local.handover.part is not None:  # nothing comes that could heal us
                return Refusal(DeclineReason.NOT_FINITE)
            local.handover.mine.zero_()  # with weight 0 nobody follows it; what comes replaces our model
        return None

    async def _until_published(self) -> None:
        while self._local.handover.state is not State.READY:
            self.published.clear()
            await self.published.wait()

    def accept(self, offer: Offer) -> Accept:
        local = self._local
        return Accept(
            id=offer.id,
            peer=local.peer,
            schema_hash=local.vector.schema_hash,
            step=local.handover.snapshot_step,
            loss=local.loss(),
            weight=local.weight,
            apart=local.apart_from(offer.peer),
        )

    async def try_out(self, offer: Offer, accept: Accept) -> Trial | None:
        return await self._local.try_ours(facts(offer), facts(accept)) if self._local.policy.sends else None

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        came = received if self._local.policy.sends else None
        return move(self._local, offer.id, facts(accept), facts(offer), partner=offer.peer, received=came, trial=trial)

    def free(self) -> None:
        self._local.free()


class CentreSeat:
    """The centre variable: changed at once, by the network thread, one exchange after the other."""

    def __init__(self, local: Local, centre: Centre, limits: Limits) -> None:
        self._local, self._centre, self._limits = local, centre, limits

    def vectors(self, offer: Offer) -> Vectors:
        return self._centre.travelling(offer.codec)

    async def reserve(self, offer: Offer) -> Refusal | None:
        if not self._centre.seated:
            return Refusal(DeclineReason.NOT_CENTRE)
        if offer.centre is not None and not self._inherits(offer.peer, offer.centre):
            return Refusal(DeclineReason.NOT_CENTRE, "nothing to be taken in")
        try:
            await wait_for(self._centre.reserve(offer.part), self._limits.snapshot_seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.BUSY)
        if not self._centre.seated:  # it went elsewhere while we waited
            self._centre.free()
            return Refusal(DeclineReason.NOT_CENTRE)
        return None

    def _inherits(self, peer: str, stamp: Stamp) -> bool:
        return peer in self._local.members and self._centre.inherits(peer, stamp)

    def accept(self, offer: Offer) -> Accept:
        return Accept(
            id=offer.id,
            peer=self._local.peer,
            schema_hash=self._local.vector.schema_hash,
            step=self._local.progress.step,
            loss=self._local.loss(),
            weight=1.0,
            centre=self._centre.stamp,
        )

    async def try_out(self, offer: Offer, accept: Accept) -> Trial | None:
        local, theirs = self._local, facts(offer)
        if offer.centre is None:
            return await local.try_out(self._centre.vectors, theirs)
        mine, other = self._centre.vectors.mine, self._centre.vectors.theirs
        share = self._centre.inheritance(offer.centre)  # what is tried is the place where it leads
        trial = await local.try_out(Vectors(mine, torch.lerp(mine, other, share)), theirs)
        return trial and trial._replace(barrier=is_barrier(trial, local.progress.first_loss))

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        mine, theirs = facts(accept)._replace(centre=True), facts(offer)
        if offer.centre is None:
            trusted = self._local.trusted_at(self._centre, offer.peer, theirs, trial)
            distance = self._centre.move(offer.peer, mine, theirs, trusted)
        else:
            share = 0.0 if trial is not None and trial.barrier else self._centre.inheritance(offer.centre)
            distance = self._centre.take_in(offer.peer, offer.centre, share)
        self._centre.free()
        return distance

    def free(self) -> None:
        self._centre.free()
