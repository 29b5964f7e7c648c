"""The side that asks: one due exchange, with the first partner that agrees."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import NamedTuple

from p2p_elastic.errors import ExchangeError, LocalProtocolError
from p2p_elastic.peers.exchange.busy_partners import CROSSED, told
from p2p_elastic.peers.exchange.negotiation import Terms
from p2p_elastic.peers.exchange.slot import Phase
from p2p_elastic.peers.gossip.apply_move import Brought, move
from p2p_elastic.peers.session.call import Call, outcome_of
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.parallel_streams import Lanes
from p2p_elastic.peers.state.context import LocalContext, enter
from p2p_elastic.peers.transport.interfaces import Transport
from p2p_elastic.protocol.chunks import Received, Vectors
from p2p_elastic.protocol.exchange import TAKEN_BACK, Result, initiate, inquire
from p2p_elastic.protocol.messages import Direct, Offer, Verified
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.status.schema import Way

log = logging.getLogger(__name__)
TRY_ANOTHER = (Outcome.DECLINED, Outcome.UNREACHABLE, Outcome.TIMEOUT, Outcome.BROKEN)  # nobody moved
SUSPICIOUS = (Outcome.UNREACHABLE, Outcome.TIMEOUT, Outcome.BROKEN, Outcome.REFUSED, Outcome.HALF)


class Attempt(NamedTuple):
    """What came of asking one partner.

    Attributes:
        result: how the exchange ended.
        distance: L2 distance between the two models before the move; None if nothing was received.
        traffic: bytes sent and bytes received.
        intact: whether this peer's snapshot is still as it was.
        way: which the vectors took.
    """

    result: Result
    distance: float | None = None
    traffic: tuple[int, int] = (0, 0)
    intact: bool = True
    way: Way | None = None


class Initiator:
    """Asks the partners that the topology names until one agrees. All of them are offered the same snapshot.

    Args:
        local: the parts of this peer.
        transport: opens streams.
        limits: of each conversation, and the number of partners to ask.
        rng: for the ids of exchanges.
    """

    def __init__(self, local: LocalContext, transport: Transport, limits: Limits, rng: random.Random) -> None:
        self._local, self._transport, self._limits, self._rng = local, transport, limits, rng
        self._asked = 0  # partners, for the exchange that is due
        self._again: float | None = None  # seconds until it is tried again
        self._crossed = False  # the partner offered at the same time, and its offer stands
        self._so_far: Attempt | None = None  # of the exchange under way, from when it may have moved the partner

    async def run_once(self) -> float | None:
        """Do one due exchange. When it returns, a move is waiting or the mailbox is free again.

        Returns:
            In how many seconds to try again, since a partner was busy; None: it is done, or was tried often enough.
        """
        done, self._again = False, None
        try:
            done = await self._ask_around()
        finally:
            if not done:
                self._local.slot.release()
            if self._again is None:
                self._asked = 0
        return self._again

    async def _ask_around(self) -> bool:
        local, tried = self._local, set[str]()
        here = local.run.topology.here
        presumed = not here and local.own.presumed_finite(local.slot.mailbox, local.run.policy.flow)
        if not presumed and not await local.own.finite(local.slot.mailbox):
            if not local.run.policy.receives:
                local.journal.skipped["own parameters not finite"] += 1
                return False
            if local.slot.mailbox.part is not None:  # the next one is of all
                local.journal.skipped["own parameters not finite"] += 1
                return False
            local.slot.mailbox.mine.zero_()  # with weight 0 nobody follows it; what comes back replaces this model
        local.own.weigh()
        if here:
            return await local.run.topology.meet_here() is None
        while self._asked < self._limits.attempts:
            if local.own.condition.drained or local.pacing.closed():
                local.journal.skipped["drained" if local.own.condition.drained else "paced"] += 1
                return False
            partner = local.run.topology.next_partner(tried)
            if partner is None and self._waits(local.busy.first_free(asyncio.get_running_loop().time())):
                return False
            if partner is None:
                local.journal.skipped["no further partner" if tried else "no partner"] += 1
                return False
            tried.add(partner.peer)
            self._asked += 1
            outcome, intact = await self._ask(partner)
            if outcome not in TRY_ANOTHER or self._crossed or local.slot.state.phase is Phase.YIELDING:
                return outcome is Outcome.COMPLETED
            if local.slot.waiting.present and self._waits(0.0):
                return False
            if not intact:
                local.journal.skipped["snapshot used up"] += 1
                return False
        return False

    def _waits(self, seconds: float | None) -> bool:
        """Let what is due wait for so long, unless enough partners were asked."""
        if seconds is not None and self._asked < self._limits.attempts:
            self._again = seconds
        return self._again is not None

    async def exchange_with(self, partner: PeerRecord) -> Outcome:
        """Do one exchange outside of the schedule, of the snapshot that was taken for it.

        When it returns, a move is waiting or the mailbox is free again.

        Args:
            partner: the one to ask.

        Returns:
            How it ended.
        """
        outcome = None
        try:
            outcome, _ = await self._ask(partner)
        finally:
            if outcome is not Outcome.COMPLETED:
                self._local.slot.release()
        return outcome

    async def _ask(self, partner: PeerRecord) -> tuple[Outcome, bool]:
        """How the exchange ended, and whether this peer's snapshot is still as it was."""
        local, exchange_id = self._local, new_id(self._rng)
        started = asyncio.get_running_loop().time()
        local.slot.offer(partner.peer)
        self._so_far, self._crossed = None, False
        try:
            asked = await self._exchange(partner, exchange_id)
        except asyncio.CancelledError:  # such as by a farewell whose time is over
            if self._so_far is not None:
                self._enter(exchange_id, partner.peer, self._so_far, started)
            raise
        if asked.result.outcome is not Outcome.COMPLETED:
            local.slot.declined()
        if asked.result.outcome is Outcome.DECLINED:
            self._declined(partner.peer, asked.result.detail)
        elif asked.result.outcome is Outcome.COMPLETED:
            local.busy.heard(partner.peer)
        if self._crossed:
            return asked.result.outcome, asked.intact
        if asked.result.outcome in SUSPICIOUS and asked.result.reason != TAKEN_BACK:
            log.info("exchange with %s: %s: %s", partner.peer, asked.result.outcome.value, asked.result.reason)
            local.members.failed(partner.peer, asked.result.outcome)
        else:
            local.members.heard(partner.peer)
        self._enter(exchange_id, partner.peer, asked, started)
        return asked.result.outcome, asked.intact

    def _declined(self, partner: str, detail: str) -> None:
        """Learn from a Decline. If the partner's own offer stands, that exchange is this one: it is entered there."""
        local, seconds = self._local, told(detail)
        crossed = detail == CROSSED and partner < local.peer
        self._crossed = crossed or local.slot.state.phase is Phase.YIELDING
        if crossed or seconds is not None:
            local.busy.said(partner, seconds or 0.0, asyncio.get_running_loop().time())

    def _enter(self, exchange_id: str, partner: str, asked: Attempt, started: float) -> None:
        enter(
            self._local,
            exchange_id,
            partner,
            asked.result,
            initiated=True,
            started=started,
            traffic=asked.traffic,
            distance=asked.distance,
            way=asked.way,
        )

    async def _exchange(self, partner: PeerRecord, exchange_id: str) -> Attempt:
        local, waits = self._local, self._local.members.waits(partner)
        call = Call(self._transport, partner, self._limits, waits)
        lanes = Lanes(call.open, exchange_id)
        try:
            async with call as conversation:
                conversation.carriers.widening = lanes.open
                relayed, terms = conversation.stream.relayed, local.own.terms(local.slot.mailbox.part, waits)
                terms = terms._replace(streams=1) if relayed else terms
                vectors = local.slot.mailbox.vectors(terms.codec)
                meeting = local.direct.ask(partner, terms.streams, vectors.wire_bytes // 2, relayed=relayed)
                direct = conversation.carriers.meet(meeting)
                offer = self._offer(exchange_id, partner.peer, terms, direct)
                try:
                    result = await self._converse(conversation, offer, vectors)
                finally:
                    await lanes.close()
                    if conversation.taken_back:
                        local.slot.mailbox.lost.doubted = True
        except ExchangeError as error:  # no stream
            return Attempt(Result(Outcome.UNREACHABLE, reason=str(error)))
        if result.outcome is Outcome.HALF:
            self._so_far = Attempt(result, traffic=conversation.traffic, way=conversation.carriers.way)
            result = await self._resolve(partner, exchange_id, result)
        if result.outcome is Outcome.COMPLETED:
            self._so_far = Attempt(result, traffic=conversation.traffic, way=conversation.carriers.way)
        distance = await self._move(partner.peer, exchange_id, result, conversation.received)
        intact = conversation.received is None or not vectors.in_place
        return Attempt(result, distance, conversation.traffic, intact, conversation.carriers.way)

    async def _converse(self, conversation: Conversation, offer: Offer, vectors: Vectors) -> Result:
        try:
            exchange = initiate(offer, self._local.run.policy.flow, self._local.slot.agree)
            return await conversation.run(exchange, vectors, exclusive=True)
        except ExchangeError as error:
            return Result(outcome_of(error), reason=str(error))
        except asyncio.CancelledError:
            if conversation.said is Verified:
                given_up = Result(Outcome.HALF, reason="given up before the last word")
                self._so_far = Attempt(given_up, traffic=conversation.traffic, way=conversation.carriers.way)
            raise

    async def _move(self, partner: str, exchange_id: str, result: Result, came: Received | None) -> float | None:
        local = self._local
        received = came if local.run.policy.receives else None
        if result.outcome is not Outcome.COMPLETED:
            return None
        if result.mine is None or result.theirs is None:
            raise LocalProtocolError("an exchange completed without facts")
        local.run.topology.exchanged(result)
        mine, theirs, trial, distance = result.mine, result.theirs, None, None
        try:
            trial = await local.judge.try_ours(local.slot.mailbox.both, theirs, mine) if received is not None else None
        finally:  # whatever came between: the partner has moved
            distance = move(local, Brought(exchange_id, partner, mine, theirs, received, trial))
            if self._so_far is not None:
                self._so_far = self._so_far._replace(distance=distance)
        return distance

    def _offer(self, exchange_id: str, partner: str, terms: Terms, direct: Direct | None) -> Offer:
        local = self._local
        return Offer(
            id=exchange_id,
            **{**local.run.asking._asdict(), **terms._asdict()},
            step=local.slot.mailbox.snapshot_step,
            loss=local.own.loss(),
            weight=local.own.weight,
            share=local.share,
            apart=local.own.apart_from(partner),
            last=local.departure.handing_over,
            direct=direct,
        )

    async def _resolve(self, partner: PeerRecord, exchange_id: str, half: Result) -> Result:
        """Ask, under the same id, for the last word that was lost."""
        for attempt in range(self._limits.inquiries):
            await asyncio.sleep(0.1 * 4**attempt)
            try:
                async with Call(self._transport, partner, self._limits) as conversation:
                    verdict = await conversation.run(inquire(exchange_id))
            except ExchangeError as error:
                log.info("exchange %s with %s: no last word yet: %s", exchange_id, partner.peer, error)
                continue
            return half._replace(outcome=verdict.outcome, reason=verdict.reason)
        return half


def new_id(rng: random.Random) -> str:
    """Draw an id for an exchange, a fetch or a comparison.

    Args:
        rng: of the peer that asks.

    Returns:
        128 bits, hexadecimal.
    """
    return f"{rng.getrandbits(128):032x}"
