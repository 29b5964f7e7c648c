"""The side that is asked. Whatever a stranger sends costs bounded memory and time, and is counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import NamedTuple

from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.exchange import (
    Aborted,
    Accept,
    Committed,
    Decline,
    DeclineReason,
    Inquiry,
    Offer,
    Result,
    facts,
    objection,
    respond,
)
from p2p_elastic.peers.conversation import Conversation, Limits
from p2p_elastic.peers.handover import State
from p2p_elastic.peers.initiator import outcome_of
from p2p_elastic.peers.ledger import Key, Ledger
from p2p_elastic.peers.local import Local
from p2p_elastic.peers.transport import Stream

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    reason: DeclineReason
    detail: str = ""


class Responder:
    """Answers offers and inquiries, one stream at a time per slot, a few slots per peer."""

    def __init__(self, local: Local, limits: Limits) -> None:
        self._local, self._limits = local, limits
        self._ledger = Ledger(limits.ledger_entries)
        self._streams: Counter[str] = Counter()
        self.published = asyncio.Event()

    async def answer(self, stream: Stream) -> None:
        """Serve one stream to its end."""
        partner = stream.partner
        if (
            self._streams[partner] >= self._limits.streams_per_peer
            or self._streams.total() >= self._limits.streams_total
        ):
            self._local.journal.streams_refused["too many streams"] += 1
            stream.abort()
            return
        self._streams[partner] += 1
        conversation = Conversation(stream, self._limits)
        try:
            await self._answer(conversation)
            await conversation.until_closed()
        except ExchangeError as error:
            self._local.journal.streams_refused[type(error).__name__] += 1
            log.info("stream from %s refused: %s", partner, error)
            stream.abort()
        finally:
            self._streams[partner] -= 1
            self._streams += Counter()  # drops zeros: strangers must not fill the table
            await stream.close()

    async def _answer(self, conversation: Conversation) -> None:
        message = await conversation.receive((Offer, Inquiry), self._limits.header_seconds)
        key = Key(conversation.stream.partner, message.id)
        if isinstance(message, Inquiry):
            committed = await conversation.within(self._limits.idle_seconds, self._ledger.verdict(key))
            await conversation.send(Committed(id=key.id) if committed else Aborted(id=key.id, reason="not committed"))
            return
        assert isinstance(message, Offer)
        if message.peer != key.partner:
            raise RemoteProtocolError(f"claims to be {message.peer!a}, is {key.partner}", partner=key.partner)
        decline = await self._decline(message)
        if decline is not None:
            self._local.journal.declined_by_us[decline.reason.value] += 1
            await conversation.send(decline)
        else:
            await self._exchange(conversation, message, key)

    async def _decline(self, offer: Offer) -> Decline | None:
        """What speaks against this offer; where nothing does, `mine` holds a snapshot and is reserved for it."""
        local = self._local
        general = objection(
            offer, run=local.membership.run, schema_hash=local.vector.schema_hash, elements=local.vector.elements
        )
        if general is not None:
            return general
        refusal = await self._reserve(offer)
        return None if refusal is None else Decline(id=offer.id, reason=refusal.reason, detail=refusal.detail)

    async def _reserve(self, offer: Offer) -> Refusal | None:
        local = self._local
        if local.leaving:
            return Refusal(DeclineReason.LEAVING)
        if local.progress.step == 0:
            return Refusal(DeclineReason.NOT_TRAINING, "not begun")
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
        try:
            await asyncio.wait_for(self._until_published(), self._limits.snapshot_seconds)
        except asyncio.TimeoutError:
            return Refusal(DeclineReason.NOT_TRAINING, f"no step ended in {self._limits.snapshot_seconds:g} s")
        return None if self._local.finite() else Refusal(DeclineReason.NOT_FINITE)

    async def _until_published(self) -> None:
        while self._local.handover.state is not State.READY:
            self.published.clear()
            await self.published.wait()

    async def _exchange(self, conversation: Conversation, offer: Offer, key: Key) -> None:
        local = self._local
        started, distance = asyncio.get_running_loop().time(), None
        accept = self._accept(offer)

        def commit() -> None:
            nonlocal distance
            distance = local.move(offer.id, facts(accept), facts(offer))
            self._ledger.end(key, committed=True)

        try:
            if not self._ledger.begin(key):
                raise RemoteProtocolError(f"exchange {offer.id} was offered before", partner=key.partner)
            result = await conversation.run(respond(offer, accept), local.vectors, commit)
        except ExchangeError as error:
            result = Result(outcome_of(error), reason=str(error))
            log.info("exchange asked for by %s: %s: %s", key.partner, result.outcome.value, error)
        finally:
            self._ledger.end(key, committed=False)
            if distance is None:
                local.free()
        local.enter(
            offer.id,
            key.partner,
            result,
            initiated=False,
            started=started,
            traffic=conversation.traffic,
            distance=distance,
        )

    def _accept(self, offer: Offer) -> Accept:
        local = self._local
        return Accept(
            id=offer.id,
            peer=local.peer,
            schema_hash=local.vector.schema_hash,
            step=local.handover.snapshot_step,
            loss=local.loss(),
            weight=local.weight,
        )
