"""What a partner can exchange with at this peer: the model that trains here, or the centre variable."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, Protocol

from p2p_elastic.exchange import facts
from p2p_elastic.messages import Accept, DeclineReason, Offer
from p2p_elastic.peers.centre import Centre
from p2p_elastic.peers.conversation import Limits, Vectors
from p2p_elastic.peers.handover import State
from p2p_elastic.peers.local import Local
from p2p_elastic.trust import Trial

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    reason: DeclineReason
    detail: str = ""


class Seat(Protocol):
    """One end of an exchange that somebody asked for. After `reserve` it is ours until `commit` or `free`."""

    @property
    def vectors(self) -> Vectors: ...

    async def reserve(self, offer: Offer) -> Refusal | None:
        """Make `vectors.mine` ready to be sent, or say why not."""

    def accept(self, offer: Offer) -> Accept: ...

    async def try_out(self, offer: Offer) -> Trial | None:
        """How what was received does on the examples here."""

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None) -> float | None:
        """The exchange took place: move. Returns the L2 distance before it, None where nothing was received."""

    def free(self) -> None:
        """It did not take place."""


class OwnSeat:
    """The model that trains here: a snapshot of it goes out, the move waits for the training thread."""

    def __init__(self, local: Local, limits: Limits) -> None:
        self._local, self._limits = local, limits
        self.published = asyncio.Event()

    @property
    def vectors(self) -> Vectors:
        return self._local.vectors

    async def reserve(self, offer: Offer) -> Refusal | None:
        local = self._local
        if local.progress.step == 0:
            return Refusal(DeclineReason.NOT_TRAINING, "not begun")
        local.weigh()
        await self._yield_to(offer.peer)
        if not local.handover.request():
            return Refusal(DeclineReason.BUSY)
        refusal: Refusal | None = Refusal(DeclineReason.LEAVING)  # where we are cancelled while waiting
        try:
            refusal = await self._snapshot()
        finally:
            if refusal is not None:
                local.free()
        return refusal

    async def _yield_to(self, partner: str) -> None:
        """Two peers that offered to each other at once: the offer of the smaller id stands, the other's is declined."""
        local = self._local
        if local.offering_to != partner or partner > local.peer:
            return
        local.yielding = True
        try:
            await asyncio.wait_for(local.until_free(), self._limits.header_seconds)
        except asyncio.TimeoutError:
            log.info("our own offer to %s did not end", partner)

    async def _snapshot(self) -> Refusal | None:
        local = self._local
        seconds = local.step_time.patience(local.pace.steps_per_second, self._limits.snapshot_seconds)
        try:
            await asyncio.wait_for(self._until_published(), seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.NOT_TRAINING, f"no step ended in {seconds:.3g} s")
        if not local.finite():
            if not local.policy.sends:  # the asker sends nothing that could heal us
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
        )

    async def try_out(self, offer: Offer) -> Trial | None:
        return await self._local.try_out(self.vectors, facts(offer)) if self._local.policy.sends else None

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None) -> float | None:
        received = self._local.policy.sends
        return self._local.move(
            offer.id, facts(accept), facts(offer), partner=offer.peer, received=received, trial=trial
        )

    def free(self) -> None:
        self._local.free()


class CentreSeat:
    """The centre variable: changed at once, by the network thread, one exchange after the other."""

    def __init__(self, local: Local, centre: Centre, limits: Limits) -> None:
        self._local, self._centre, self._limits = local, centre, limits

    @property
    def vectors(self) -> Vectors:
        return self._centre.vectors

    async def reserve(self, offer: Offer) -> Refusal | None:
        if not self._centre.seated:
            return Refusal(DeclineReason.NOT_CENTRE)
        try:
            await asyncio.wait_for(self._centre.reserve(), self._limits.snapshot_seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.BUSY)
        if not self._centre.seated:  # it went elsewhere while we waited
            self._centre.free()
            return Refusal(DeclineReason.NOT_CENTRE)
        return None

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

    async def try_out(self, offer: Offer) -> Trial | None:
        return await self._local.try_out(self.vectors, facts(offer))

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None) -> float | None:
        mine, theirs = facts(accept)._replace(centre=True), facts(offer)
        trusted = self._local.trusted_at(self._centre, offer.peer, theirs, trial)
        distance = self._centre.move(offer.peer, mine, theirs, trusted)
        self._centre.free()
        return distance

    def free(self) -> None:
        self._centre.free()
