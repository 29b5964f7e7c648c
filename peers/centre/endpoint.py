"""The end of exchanges with the centre variable, where it is here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import torch

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.peers.centre.variable import Centre
from p2p_elastic.peers.exchange.pacing import Precedence
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.topology import Refusal
from p2p_elastic.protocol.chunks import Received, Vectors
from p2p_elastic.protocol.exchange import facts
from p2p_elastic.protocol.messages import Accept, DeclineReason, Offer, Stamp
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.merging import is_barrier
from p2p_elastic.rules.trial import Trial


class CentreEndpoint:
    """The centre variable: changed at once, by the network thread, one exchange after the other."""

    def __init__(self, local: LocalContext, centre: Centre, limits: Limits) -> None:
        self._local, self._centre, self._limits = local, centre, limits

    def precedence(self, offer: Offer) -> Precedence:
        """A centre variable that is given up does not come again. Partners have no other one; they have to hear where
        it is."""
        return Precedence(exempt=not self._centre.seated, once=offer.centre is not None, only=True)

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
        mine, theirs = facts(accept), facts(offer)
        if offer.centre is None:
            trusted = trusted_at(self._local, self._centre, offer.peer, theirs, trial)
            distance = self._centre.move(offer.peer, mine, theirs, trusted)
        else:
            share = 0.0 if trial is not None and trial.barrier else self._centre.inheritance(offer.centre)
            distance = self._centre.take_in(offer.peer, offer.centre, share)
        self._centre.free()
        return distance

    def free(self) -> None:
        self._centre.free()


def trusted_at(
    local: LocalContext, centre: Centre, partner: str, theirs: Facts, trial: Trial | None
) -> Callable[[float], float]:
    """Given the distance, how far the centre, which is here, trusts a partner."""

    def trusted(distance: float) -> float:
        verdict = local.judge.verdict(partner, theirs, distance, trial, centre.part, judge=centre.judge)
        return 1.0 if verdict is None else verdict.trust

    return trusted
