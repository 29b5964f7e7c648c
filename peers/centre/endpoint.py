"""The centre's end of an exchange, at the peer that holds the centre variable."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import torch

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.health.trust import Scale, Verdict
from p2p_elastic.peers.centre.variable import Centre
from p2p_elastic.peers.exchange.pacing import Precedence
from p2p_elastic.peers.gossip.apply_move import note_left_out
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.endpoint import Refusal
from p2p_elastic.protocol.chunks import Received, Vectors
from p2p_elastic.protocol.exchange import facts
from p2p_elastic.protocol.messages import Accept, DeclineReason, Offer, Stamp
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.merging import is_barrier
from p2p_elastic.rules.trial import Trial


class CentreEndpoint:
    """The centre variable: changed at once, by the network thread, one exchange after the other.

    Args:
        local: this peer's side of any exchange.
        centre: the centre variable, held here or elsewhere.
        limits: how long an asker may wait for its turn.
    """

    def __init__(self, local: LocalContext, centre: Centre, limits: Limits) -> None:
        self._local, self._centre, self._limits = local, centre, limits

    def precedence(self, offer: Offer) -> Precedence:
        """Say how the budget treats an offer.

        Partners have no other centre variable, and have to hear where it is.

        Args:
            offer: from a partner; with a stamp if it hands over a centre variable that it gave up.

        Returns:
            Exempt if the centre is elsewhere; `once` for a centre variable that is given up: it does not come again.
        """
        return Precedence(exempt=not self._centre.seated, once=offer.centre is not None, only=True)

    def vectors(self, offer: Offer) -> Vectors:
        """Give the vectors that travel.

        Args:
            offer: says with which codec.

        Returns:
            The reserved part of the centre's value, and where the partner's comes in.
        """
        return self._centre.travelling(offer.codec, self._local.vector.seams)

    async def reserve(self, offer: Offer) -> Refusal | None:
        """Wait for the turn of an offer, and keep the centre variable for it until `commit` or `free`.

        Args:
            offer: which part of the centre variable is wanted, or which one is to be taken in.

        Returns:
            Why the offer is declined; None if the centre variable is reserved.
        """
        if not self._centre.seated:
            return Refusal(DeclineReason.NOT_CENTRE)
        if offer.centre is not None and not self._inherits(offer.peer, offer.centre):
            return Refusal(DeclineReason.NOT_CENTRE, "nothing to be taken in")
        try:
            await wait_for(self._centre.reserve(offer.part), self._limits.snapshot_seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.BUSY)
        if not self._centre.seated:  # it went elsewhere during the wait
            self._centre.free()
            return Refusal(DeclineReason.NOT_CENTRE)
        return None

    def _inherits(self, peer: str, stamp: Stamp) -> bool:
        return peer in self._local.members.known and self._centre.inherits(peer, stamp)

    def accept(self, offer: Offer) -> Accept:
        """Build the answer to an offer.

        Args:
            offer: the reserved one.

        Returns:
            The answer, with the stamp of the centre variable. The centre has weight 1.
        """
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
        """Try what was received on the examples here; a centre variable that was given up, where it would lead.

        Args:
            offer: the partner's.
            accept: the answer to it.

        Returns:
            The trial; None if this peer tries nothing.
        """
        local, theirs = self._local, facts(offer)
        if offer.centre is None:
            return await local.judge.try_out(self._centre.vectors, theirs)
        mine, other = self._centre.vectors.mine, self._centre.vectors.theirs
        share = self._centre.inheritance(offer.centre)  # what is tried is the place where it leads
        trial = await local.judge.try_out(Vectors(mine, torch.lerp(mine, other, share)), theirs)
        return trial and trial._replace(barrier=is_barrier(trial, local.own.progress.first_loss))

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        """Move the centre after an exchange, and let the next one in.

        Args:
            offer: the partner's; with a stamp if its centre variable is to be taken in.
            accept: the answer to it.
            trial: how what was received did; None if it was not tried. After a barrier nothing is taken in.
            received: which tensors are left out; the centre has its own vectors.

        Returns:
            The L2 distance before the move.
        """
        mine, theirs = facts(accept), facts(offer)
        if received is not None:
            note_left_out(self._local, offer.peer, received, self._centre.part)
        if offer.centre is None:
            judged = judged_at(self._local, self._centre, offer.peer, theirs, trial)
            distance = self._centre.move(offer.peer, mine, theirs, judged)
        else:
            share = 0.0 if trial is not None and trial.barrier else self._centre.inheritance(offer.centre)
            distance = self._centre.take_in(offer.peer, offer.centre, share)
        self._centre.free()
        return distance

    def free(self) -> None:
        """Let the next one in: the exchange did not take place."""
        self._centre.free()


def judged_at(
    local: LocalContext, centre: Centre, partner: str, theirs: Facts, trial: Trial | None
) -> Callable[[float], Verdict | None]:
    """Say how the centre, which is held here, judges a partner.

    Args:
        local: this peer's side of any exchange.
        centre: what the partner exchanges with.
        partner: its id.
        theirs: what the partner says of itself.
        trial: how its parameters did here; None if they were not tried.

    Returns:
        L2 distance -> the verdict; None if nobody is judged.
    """

    def judged(distance: float) -> Verdict | None:
        norm = float(torch.linalg.vector_norm(centre.vectors.mine[centre.place]))
        # With the peer here; and a worker that learns twice as fast is not clipped, for the centre learns from all.
        scale = Scale(norm, len(local.members.known) + 1, math.inf)
        return local.judge.verdict(partner, theirs, distance, trial, centre.part, scale=scale, judge=centre.judge)

    return judged
