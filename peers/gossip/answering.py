"""Answering exchanges: offers, the further streams of an exchange, and inquiries after a lost last word."""

from __future__ import annotations

import asyncio
import logging

from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.call import outcome_of
from p2p_elastic.peers.session.commit_log import Key, Ledger
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.parallel_streams import AwaitedLanes
from p2p_elastic.peers.state.context import LocalContext, enter
from p2p_elastic.peers.state.endpoint import Endpoint, Refusal
from p2p_elastic.protocol.chunks import Received
from p2p_elastic.protocol.exchange import Result, respond
from p2p_elastic.protocol.messages import Aborted, Accept, Committed, Decline, DeclineReason, Inquiry, Lane, Offer
from p2p_elastic.rules.trial import Trial

log = logging.getLogger(__name__)
WAITED_MAX = 3600.0  # seconds that an answer may say it waited


class Answering:
    """Exchanges that others ask for, each committed once. Belongs to the network thread.

    Args:
        local: the parts of this peer.
        limits: of each conversation, and the number of exchanges that are remembered.
        admission: says which askers are heard.
    """

    def __init__(self, local: LocalContext, limits: Limits, admission: Admission) -> None:
        self._local, self._limits, self._admission = local, limits, admission
        self._ledger = Ledger(limits.ledger_entries)
        self._awaited = AwaitedLanes(limits.header_seconds)

    @property
    def ledger(self) -> Ledger:
        """What came of the exchanges that were answered lately."""
        return self._ledger

    def register(self, answers: Answers) -> None:
        """Register the answers to offers, inquiries and lanes.

        Args:
            answers: the table of the responder.
        """
        answers.register(Offer, self.answer)
        answers.register(Inquiry, self.say_verdict)
        answers.register(Lane, self.join)

    async def join(self, conversation: Conversation, lane: Lane) -> None:
        """Take a stream as a further one of an exchange under way.

        Args:
            conversation: on that stream.
            lane: says of which exchange it is, and its number.

        Raises:
            ExchangeError: if no such stream is awaited.
        """
        key = Key(conversation.stream.partner, lane.id)
        await self._awaited.join(key, lane.number, conversation.stream)

    async def say_verdict(self, conversation: Conversation, inquiry: Inquiry) -> None:
        """Say whether an exchange took place.

        Args:
            conversation: with the peer that asked for it.
            inquiry: has the id of the exchange.

        Raises:
            ExchangeError: if the verdict is not there in time, or cannot be sent.
        """
        key = Key(self._admission.identify(conversation), inquiry.id)
        committed = await conversation.within(self._limits.idle_seconds, self._ledger.verdict(key))
        await conversation.send(Committed(id=key.id) if committed else Aborted(id=key.id, reason="not committed"))

    async def answer(self, conversation: Conversation, offer: Offer) -> None:
        """Exchange, or say why not.

        Args:
            conversation: with the peer that asks.
            offer: what it offers.

        Raises:
            ExchangeError: if it is another peer than it says, or if the decline cannot be sent.
        """
        key = Key(self._admission.identify(conversation, offer.peer), offer.id)
        if await self._admission.declines(conversation, offer):
            return
        endpoint, asked_at = self._local.run.topology.endpoint(), asyncio.get_running_loop().time()
        refusal = Refusal(DeclineReason.OTHER_RULE) if endpoint is None else await self._reserve(endpoint, offer)
        if endpoint is not None and refusal is None:
            await self._exchange(conversation, offer, key, endpoint, asked_at)
        elif refusal is not None:
            decline = Decline(id=offer.id, reason=refusal.reason, detail=refusal.detail)
            await self._admission.say_no(conversation, decline)

    async def _reserve(self, endpoint: Endpoint, offer: Offer) -> Refusal | None:
        """Make this end ready, or say why not. While it waits for its turn, the budget may be spent on others."""
        refusal = self._paced(endpoint, offer) or await endpoint.reserve(offer)
        if refusal is None and (refusal := self._paced(endpoint, offer)) is not None:
            endpoint.free()
        return refusal

    def _paced(self, endpoint: Endpoint, offer: Offer) -> Refusal | None:
        local = self._local
        why = (
            None if offer.peer == local.departure.awaited else local.pacing.objection(offer, endpoint.precedence(offer))
        )
        return None if why is None else Refusal(DeclineReason.PACED, why)

    async def _exchange(
        self, conversation: Conversation, offer: Offer, key: Key, endpoint: Endpoint, asked_at: float
    ) -> None:
        local, started = self._local, asyncio.get_running_loop().time()
        record = local.members.record_of(key.partner)
        relayed = conversation.stream.relayed
        meeting = local.direct.answer(offer.direct, key.partner, record, offer.streams, relayed=relayed)
        direct = conversation.carriers.meet(meeting)
        terms = {"streams": offer.streams, "waited": min(started - asked_at, WAITED_MAX), "direct": direct}
        accept = endpoint.accept(offer).model_copy(update=terms)
        reply, trial, distance = _Reply(self._ledger, key), None, None
        conversation.exchanging = True
        try:
            result = await self._converse(conversation, offer, accept, endpoint, reply)
            trial = await endpoint.try_out(offer, accept) if reply.committed else None
        except ExchangeError as error:
            result = Result(outcome_of(error), reason=str(error))
            log.info("exchange asked for by %s: %s: %s", key.partner, result.outcome.value, error)
        finally:
            if conversation.taken_back:
                local.slot.mailbox.lost.doubted = True
            self._ledger.end(key, committed=False)
            if reply.committed:  # whatever came between: the partner was told so
                distance = _commit(endpoint, offer, accept, trial, conversation.received)
            else:
                endpoint.free()
        enter(
            local,
            offer.id,
            key.partner,
            result,
            initiated=False,
            started=started,
            traffic=conversation.traffic,
            distance=distance,
            way=conversation.carriers.way,
        )

    async def _converse(
        self, conversation: Conversation, offer: Offer, accept: Accept, endpoint: Endpoint, reply: _Reply
    ) -> Result:
        key = reply.key
        if not self._ledger.begin(key):
            raise RemoteProtocolError(f"exchange {offer.id} was offered before", partner=key.partner)
        if offer.last:
            self._local.pacing.takes_last(key.partner)
        with self._awaited.expect(key, offer.streams) as conversation.carriers.widening:
            exchange = respond(offer, accept, self._local.run.policy.flow)
            return await conversation.run(exchange, endpoint.vectors(offer), reply.commit, exclusive=True)


class _Reply:
    """One exchange under way, and whether the partner is told that it took place."""

    def __init__(self, ledger: Ledger, key: Key) -> None:
        self._ledger, self.key = ledger, key
        self.committed = False

    def commit(self) -> None:
        """Note that it takes place: the partner is told so."""
        self.committed = True
        self._ledger.end(self.key, committed=True)


def _commit(
    endpoint: Endpoint, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None
) -> float | None:
    try:
        return endpoint.commit(offer, accept, trial, received)
    except BaseException:  # such as a GPU that failed: the next exchange finds the endpoint free
        endpoint.free()
        raise
