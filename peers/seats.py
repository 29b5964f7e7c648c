"""What a partner can exchange with at this peer: the model that trains here, or the centre variable."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, Protocol

import torch

from p2p_elastic.peers.centre import Centre
from p2p_elastic.peers.conversation import Limits
from p2p_elastic.peers.exchange_slot import Phase
from p2p_elastic.peers.local_context import LocalContext
from p2p_elastic.peers.mailbox import State
from p2p_elastic.peers.moving import move
from p2p_elastic.peers.timeouts import wait_for
from p2p_elastic.peers.transfer import Received, Vectors
from p2p_elastic.protocol.exchange import facts
from p2p_elastic.protocol.messages import Accept, DeclineReason, Offer, Stamp
from p2p_elastic.rules.merging import is_barrier
from p2p_elastic.rules.trial import Trial

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

    def __init__(self, local: LocalContext, limits: Limits) -> None:
        self._local, self._limits = local, limits
        self.published = asyncio.Event()

    def vectors(self, offer: Offer) -> Vectors:
        return self._local.slot.mailbox.vectors(offer.codec)

    async def reserve(self, offer: Offer) -> Refusal | None:
        local = self._local
        if local.own.progress.step == 0:
            return Refusal(DeclineReason.NOT_TRAINING, "not begun")
        local.own.weigh()
        await self._yield_to(offer.peer)
        if offer.part is not None and (local.own.broken or local.own.newcomer):
            return Refusal(DeclineReason.NOT_TRAINING, "it needs a whole model first")
        if local.departure.leaving and offer.peer != local.departure.awaited:  # since the offer came
            return Refusal(DeclineReason.LEAVING)
        if not local.slot.answer(offer.peer, offer.part):
            return Refusal(DeclineReason.BUSY)
        refusal: Refusal | None = Refusal(DeclineReason.LEAVING)  # where we are cancelled while waiting
        try:
            refusal = await self._snapshot()
        finally:
            if refusal is not None:
                local.slot.release()
        return refusal

    async def take_snapshot(self) -> bool:
        """Freeze our parameters for an exchange outside of the schedule, that we ask for.

        False where the one under way does not end in time, no step does, or they are not finite.
        """
        local, taken = self._local, False
        try:
            await wait_for(local.slot.until_idle(), self._limits.snapshot_seconds)
        except asyncio.TimeoutError:
            return False
        if not local.slot.take():
            return False
        try:
            await wait_for(self._until_published(), self._limits.snapshot_seconds)
            taken = await local.own.finite(local.slot.mailbox)
        except asyncio.TimeoutError:
            log.info("no step ended in %g s", self._limits.snapshot_seconds)
        finally:
            if not taken:
                local.slot.release()
        return taken

    async def _yield_to(self, partner: str) -> None:
        """Two peers that offered to each other at once: the offer of the smaller id stands, the other's is declined."""
        local = self._local
        if local.slot.state != (Phase.OFFERING, partner) or partner > local.peer:
            return
        local.slot.yield_to(partner)
        try:
            await wait_for(local.slot.until_idle(), self._limits.header_seconds)
        except asyncio.TimeoutError:
            log.info("our own offer to %s did not end", partner)

    async def _snapshot(self) -> Refusal | None:
        local = self._local
        seconds = local.members.step_time.patience(local.own.step_rate.steps_per_second, self._limits.snapshot_seconds)
        try:
            await wait_for(self._until_published(), seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.NOT_TRAINING, f"no step ended in {seconds:.3g} s")
        if not await local.own.finite(local.slot.mailbox):
            if not local.run.policy.sends or local.slot.mailbox.part is not None:  # nothing comes that could heal us
                return Refusal(DeclineReason.NOT_FINITE)
            local.slot.mailbox.mine.zero_()  # with weight 0 nobody follows it; what comes replaces our model
        return None

    async def _until_published(self) -> None:
        while self._local.slot.mailbox.state is not State.READY:
            self.published.clear()
            await self.published.wait()

    def accept(self, offer: Offer) -> Accept:
        local = self._local
        return Accept(
            id=offer.id,
            peer=local.peer,
            schema_hash=local.vector.schema_hash,
            step=local.slot.mailbox.snapshot_step,
            loss=local.own.loss(),
            weight=local.own.weight,
            apart=local.own.apart_from(offer.peer),
        )

    async def try_out(self, offer: Offer, accept: Accept) -> Trial | None:
        return (
            await self._local.judge.try_ours(self._local.slot.mailbox.both, facts(offer), facts(accept))
            if self._local.run.policy.sends
            else None
        )

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        came = received if self._local.run.policy.sends else None
        return move(self._local, offer.id, facts(accept), facts(offer), partner=offer.peer, received=came, trial=trial)

    def free(self) -> None:
        self._local.slot.release()


class CentreSeat:
    """The centre variable: changed at once, by the network thread, one exchange after the other."""

    def __init__(self, local: LocalContext, centre: Centre, limits: Limits) -> None:
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
        return peer in self._local.members.known and self._centre.inherits(peer, stamp)

    def accept(self, offer: Offer) -> Accept:
        return Accept(
            id=offer.id,
            peer=self._local.peer,
            schema_hash=self._local.vector.schema_hash,
            step=self._local.own.progress.step,
            loss=self._local.own.loss(),
            weight=1.0,
            centre=self._centre.stamp,
        )

    async def try_out(self, offer: Offer, accept: Accept) -> Trial | None:
        local, theirs = self._local, facts(offer)
        if offer.centre is None:
            return await local.judge.try_out(self._centre.vectors, theirs)
        mine, other = self._centre.vectors.mine, self._centre.vectors.theirs
        share = self._centre.inheritance(offer.centre)  # what is tried is the place where it leads
        trial = await local.judge.try_out(Vectors(mine, torch.lerp(mine, other, share)), theirs)
        return trial and trial._replace(barrier=is_barrier(trial, local.own.progress.first_loss))

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        mine, theirs = facts(accept)._replace(centre=True), facts(offer)
        if offer.centre is None:
            trusted = self._local.judge.trusted_at(self._centre, offer.peer, theirs, trial)
            distance = self._centre.move(offer.peer, mine, theirs, trusted)
        else:
            share = 0.0 if trial is not None and trial.barrier else self._centre.inheritance(offer.centre)
            distance = self._centre.take_in(offer.peer, offer.centre, share)
        self._centre.free()
        return distance

    def free(self) -> None:
        self._centre.free()
