"""What a partner can exchange with at any peer: the model that trains here."""

from __future__ import annotations

import asyncio
import logging

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.peers.exchange.mailbox import State
from p2p_elastic.peers.exchange.pacing import ORDINARY, Precedence
from p2p_elastic.peers.gossip.apply_move import Brought, move
from p2p_elastic.peers.gossip.turns import Turns
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.endpoint import Refusal
from p2p_elastic.protocol.chunks import Received, Vectors
from p2p_elastic.protocol.exchange import facts
from p2p_elastic.protocol.messages import Accept, DeclineReason, Offer
from p2p_elastic.rules.trial import Trial

log = logging.getLogger(__name__)


class OwnEndpoint:
    """The model that trains here: a snapshot of it goes out, the move waits for the training thread.

    Args:
        local: the parts of this peer.
        limits: how long to wait for a snapshot, and for this peer's own offer to end.
    """

    def __init__(self, local: LocalContext, limits: Limits) -> None:
        self._local, self._limits = local, limits
        self._turns = Turns(local, limits)
        self.published = asyncio.Event()

    def precedence(self, offer: Offer) -> Precedence:
        """Say how the budget treats an offer: all are alike.

        Args:
            offer: from a partner.

        Returns:
            Nothing that sets it apart.
        """
        return ORDINARY

    def vectors(self, offer: Offer) -> Vectors:
        """Give the vectors that travel.

        Args:
            offer: says with which codec.

        Returns:
            The snapshot, and where the partner's vector comes in.
        """
        return self._local.slot.mailbox.vectors(offer.codec)

    async def reserve(self, offer: Offer) -> Refusal | None:
        """Wait for the turn of an offer and for a snapshot, and keep that for it until `commit` or `free`.

        Args:
            offer: the partner's; it says which part of the vector is wanted.

        Returns:
            Why it is declined; None if the snapshot is reserved.
        """
        local = self._local
        if local.own.progress.step == 0:
            return Refusal(DeclineReason.NOT_TRAINING, "not begun")
        local.own.weigh()
        local.busy.heard(offer.peer)
        if (declined := await self._turns.wait(offer)) is not None:
            return declined
        refusal: Refusal | None = Refusal(DeclineReason.LEAVING)  # if this is cancelled while it waits
        try:
            refusal = await self._snapshot()
        finally:
            if refusal is not None:
                local.slot.release()
        return refusal

    async def take_snapshot(self) -> bool:
        """Freeze this peer's parameters for an exchange that it asks for outside of the schedule.

        Returns:
            False if the exchange under way does not end in time, if no step does, or if the parameters are not finite.
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

    async def _snapshot(self) -> Refusal | None:
        local = self._local
        seconds = local.members.step_time.patience(local.own.step_rate.steps_per_second, self._limits.snapshot_seconds)
        try:
            await wait_for(self._until_published(), seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.NOT_TRAINING, f"no step ended in {seconds:.3g} s")
        if local.own.presumed_finite(local.slot.mailbox, local.run.policy.flow):
            return None
        if not await local.own.finite(local.slot.mailbox):
            if (
                not local.run.policy.sends or local.slot.mailbox.part is not None
            ):  # nothing comes that could heal this model
                return Refusal(DeclineReason.NOT_FINITE)
            local.slot.mailbox.mine.zero_()  # with weight 0 nobody follows it; what comes replaces this model
        return None

    async def _until_published(self) -> None:
        while self._local.slot.mailbox.state is not State.READY:
            self.published.clear()
            await self.published.wait()

    def accept(self, offer: Offer) -> Accept:
        """Build the answer to an offer.

        Args:
            offer: the reserved one.

        Returns:
            The answer, with the step of the snapshot.
        """
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
        """Try what was received on the examples here.

        Args:
            offer, accept: what the partner and this end say.

        Returns:
            How it does; None if it is not tried, or if nothing comes by this run's rule.
        """
        return (
            await self._local.judge.try_ours(self._local.slot.mailbox.both, facts(offer), facts(accept))
            if self._local.run.policy.sends
            else None
        )

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        """Hand the move of an exchange that took place to the training thread.

        Args:
            offer, accept: what the partner and this end say.
            trial: how what was received did; None if it was not tried.
            received: the partner's vector; None if nothing came.

        Returns:
            The L2 distance before the move; None if this end does not move.
        """
        came = received if self._local.run.policy.sends else None
        return move(self._local, Brought(offer.id, offer.peer, facts(accept), facts(offer), came, trial))

    def free(self) -> None:
        """Drop the snapshot: the exchange did not take place."""
        self._local.slot.release()
