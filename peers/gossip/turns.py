"""When an offer that comes during an exchange gets its turn: after it, if that is soon; otherwise it is declined."""

from __future__ import annotations

import asyncio
import contextlib
import statistics

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.peers.exchange.busy_partners import CROSSED, free_in
from p2p_elastic.peers.exchange.slot import Phase
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.session.deadlines import UNKNOWN
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.endpoint import Refusal
from p2p_elastic.protocol.messages import DeclineReason, Offer

HELD_SECONDS = 0.5  # that an offer waits at most; less than any peer that asks waits for the answer
SHORT_SECONDS = 0.001  # of waiting are as good as none
BUSY_SECONDS = 0.1  # that an exchange takes, before any has shown it
UNANSWERED_TIMES = 4.0  # a round trip and a step: until then, a partner that is free has answered this peer's own offer


class Turns:
    """The offers that wait for the exchange under way. Belongs to the network thread.

    An exchange that was agreed ends by itself. While this peer's own offer has no answer, that may wait at the partner
    for another such offer, and so on, in a circle; so the offers of larger peer ids wait then only as long as an
    answer takes that waits for nothing.

    Args:
        local: the parts of this peer.
        limits: how long to wait for this peer's own offer to end.
    """

    def __init__(self, local: LocalContext, limits: Limits) -> None:
        self._local, self._limits = local, limits

    async def wait(self, offer: Offer) -> Refusal | None:
        """Wait until the exchange under way has ended, and begin to answer an offer.

        Args:
            offer: the partner's.

        Returns:
            Why it is declined; None if a snapshot is on its way for it.
        """
        slot, began = self._local.slot, asyncio.get_running_loop().time()
        if not slot.waiting.join(offer.peer):
            return self._busy()
        try:
            while True:
                if (refusal := self._objection(offer)) is not None:
                    return refusal
                if slot.waiting.is_first(offer.peer) and slot.answer(offer.peer, offer.part):
                    slot.waiting.answered()
                    return None
                if (refusal := self._crossing(offer)) is not None:
                    return refusal
                if (seconds := self._seconds(offer, began)) < SHORT_SECONDS:
                    return self._busy()
                slot.freed.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await wait_for(slot.freed.wait(), seconds)
        finally:
            slot.waiting.leave(offer.peer)
            slot.freed.set()  # the next one is first

    def _objection(self, offer: Offer) -> Refusal | None:
        local = self._local
        if offer.part is not None and (local.own.broken or local.own.newcomer):
            return Refusal(DeclineReason.NOT_TRAINING, "it needs a whole model first")
        if local.departure.leaving and offer.peer != local.departure.awaited:  # since the offer came
            return Refusal(DeclineReason.LEAVING)
        return None

    def _crossing(self, offer: Offer) -> Refusal | None:
        """Two peers that offered to each other at once: the offer of the smaller id stands, the other's is declined."""
        local, slot = self._local, self._local.slot
        if slot.state != (Phase.OFFERING, offer.peer):
            return None
        if offer.peer > local.peer:
            return Refusal(DeclineReason.BUSY, CROSSED)
        slot.yield_to(offer.peer)
        slot.waiting.put_first(offer.peer)
        return None

    def _seconds(self, offer: Offer, began: float) -> float:
        """How much longer an offer may wait."""
        local, passed = self._local, asyncio.get_running_loop().time() - began
        state = local.slot.state
        if state == (Phase.YIELDING, offer.peer):
            return self._limits.header_seconds - passed
        if self._usual() > HELD_SECONDS:
            return 0.0
        unanswered = state.phase is Phase.OFFERING and offer.peer > local.peer
        return (min(self._answer(), HELD_SECONDS) if unanswered else HELD_SECONDS) - passed

    def _answer(self) -> float:
        """How long an answer takes that waits for a step only, in seconds."""
        members = self._local.members
        rtt, step = members.deadlines.of_all.get("rtt", UNKNOWN).smoothed, members.step_time.seconds
        return UNANSWERED_TIMES * (BUSY_SECONDS if rtt is None else rtt + (step or 0.0))

    def _usual(self) -> float:
        """How long the exchange under way takes, in seconds: as those with that partner, or with others."""
        known, partner = self._local.pacing.expected(), self._local.slot.state.partner
        if partner is not None and partner in known:
            return known[partner]
        return statistics.median_low(known.values()) if known else BUSY_SECONDS

    def _busy(self) -> Refusal:
        return Refusal(DeclineReason.BUSY, free_in(self._usual()))
