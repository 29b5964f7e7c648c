"""The side that is asked. Whatever a stranger sends costs bounded memory and time, and is counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.conversation import Conversation, Limits
from p2p_elastic.peers.donor import Donor, Shown
from p2p_elastic.peers.goodbyes import Goodbyes
from p2p_elastic.peers.initiator import outcome_of
from p2p_elastic.peers.lanes import AwaitedLanes
from p2p_elastic.peers.ledger import Key, Ledger
from p2p_elastic.peers.local_context import LocalContext, enter
from p2p_elastic.peers.seats import CentreSeat, OwnSeat, Refusal, Seat
from p2p_elastic.peers.snapshots import Snapshot
from p2p_elastic.peers.transfer import EXACT, Vectors
from p2p_elastic.peers.transport import Stream
from p2p_elastic.protocol.exchange import Result, give, objection, respond
from p2p_elastic.protocol.messages import (
    Aborted,
    Committed,
    Decline,
    DeclineReason,
    Fetch,
    Given,
    Goodbye,
    Inquiry,
    Lane,
    Offer,
    Referral,
    Tell,
    Unchanged,
)
from p2p_elastic.rules.methods import Topology

log = logging.getLogger(__name__)
WAITED_MAX = 3600.0
OUTGOING_MAX = 4  # snapshots on their way at the same time; those that readers are slowest to take are cut


class Responder:
    """Answers offers and inquiries, one stream at a time per slot, a few slots per peer."""

    def __init__(
        self,
        local: LocalContext,
        limits: Limits,
        own: OwnSeat,
        goodbyes: Goodbyes,
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._local, self._limits = local, limits
        self._own, self._goodbyes = own, goodbyes
        self.donor = Donor(local, limits, look)
        self._ledger = Ledger(limits.ledger_entries)
        self._awaited = AwaitedLanes(limits.header_seconds)
        self._streams: Counter[str] = Counter()
        self._outgoing: list[tuple[Snapshot, Stream]] = []
        self._exchanging: set[Conversation] = set()  # until the initiator heard what came of it
        self._told = asyncio.Event()

    async def until_told(self) -> None:
        """Wait until every initiator heard what came of its exchange: who goes before that leaves a half one behind."""
        while self._exchanging:
            self._told.clear()
            await self._told.wait()

    def _seat(self) -> Seat:
        centre = self._local.run.centre
        return self._own if centre is None else CentreSeat(self._local, centre, self._limits)

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
        conversation = Conversation(stream, self._limits, self._local.members.waits_of(partner))
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
            self._exchanging.discard(conversation)
            self._told.set()
            await stream.close()

    async def _answer(self, conversation: Conversation) -> None:
        message = await conversation.receive((Offer, Inquiry, Fetch, Tell, Goodbye, Lane), self._limits.header_seconds)
        key = Key(conversation.stream.partner, message.id)
        if isinstance(message, Lane):
            await self._awaited.join(key, message.number, conversation.stream)
            return
        self._local.members.heard(key.partner)
        if isinstance(message, Inquiry):
            committed = await conversation.within(self._limits.idle_seconds, self._ledger.verdict(key))
            await conversation.send(Committed(id=key.id) if committed else Aborted(id=key.id, reason="not committed"))
            return
        assert isinstance(message, (Offer, Fetch, Tell, Goodbye))
        if message.peer != key.partner:
            raise RemoteProtocolError(f"claims to be {message.peer!a}, is {key.partner}", partner=key.partner)
        if isinstance(message, (Tell, Goodbye)):
            await self._listen(conversation, message)
            return
        decline = self._objection(message)
        if decline is not None:
            await self._say_no(conversation, decline)
        elif isinstance(message, Fetch) and message.part is not None:
            await self._give_part(conversation, message, message.part)
        elif isinstance(message, Fetch):
            await self._give(conversation, message)
        else:
            await self._serve(conversation, message, key)

    async def _say_no(self, conversation: Conversation, decline: Decline) -> None:
        self._local.journal.declined_by_us[decline.reason.value] += 1
        await conversation.send(decline)

    def _objection(self, asked: Offer | Fetch) -> Decline | None:
        local = self._local
        bargain, vector = local.run.bargain, local.vector
        codecs = bargain.codecs if isinstance(asked, Offer) else {*bargain.codecs, EXACT}
        general = objection(
            asked,
            run=local.run.context.run,
            schema_hash=vector.schema_hash,
            elements=vector.elements,
            codecs=codecs,
        )
        if general is None and isinstance(asked, Offer) and asked.part is not None and bargain.fragments == 1:
            general = Decline(id=asked.id, reason=DeclineReason.OTHER_RULE, detail="this run exchanges whole models")
        if general is not None or asked.peer == local.departure.awaited:
            return general
        if local.departure.leaving:
            return Decline(id=asked.id, reason=DeclineReason.LEAVING)
        return Decline(id=asked.id, reason=DeclineReason.DRAINED) if local.own.condition.drained else None

    async def _listen(self, conversation: Conversation, told: Tell | Goodbye) -> None:
        local = self._local
        if told.run != local.run.context.run:
            await self._say_no(conversation, Decline(id=told.id, reason=DeclineReason.OTHER_RUN))
            return
        if isinstance(told, Goodbye):
            await self._goodbyes.hear(conversation, told)
            return
        if local.run.following is not None and told.peer in local.members.known:
            local.run.following.hear(told.peer, told.loss, asyncio.get_running_loop().time())
        await conversation.send(local.own.tell(told.id))
        local.journal.gave(conversation.traffic)

    async def _give(self, conversation: Conversation, asked: Fetch) -> None:
        """Hand out a snapshot that is held here, or say who else has it. To members only: strangers take no places."""
        local = self._local
        snapshot = local.run.snapshot_of(asked.origin) if asked.peer in local.members.known else None
        if snapshot is None:
            await self._say_no(conversation, Decline(id=asked.id, reason=DeclineReason.NO_SNAPSHOT))
        elif asked.have == snapshot.step:
            await conversation.send(Unchanged(id=asked.id))
        elif asked.peer == local.departure.awaited or (snapshot.may_send(asked.peer) and not local.pacing.closed()):
            await self._send_copy(conversation, asked, snapshot)
        elif holders := snapshot.refer(asked.peer, local.members.alive()):
            await conversation.send(Referral(id=asked.id, holders=holders))
        else:  # on its way to others
            reason = DeclineReason.PACED if local.pacing.closed() else DeclineReason.BUSY
            await self._say_no(conversation, Decline(id=asked.id, reason=reason))

    async def _give_part(self, conversation: Conversation, asked: Fetch, part: Part) -> None:
        """Hand out a part of our own parameters, or of the centre variable, to a member that joins late."""
        shown: Shown | DeclineReason = DeclineReason.NO_SNAPSHOT
        if asked.origin == self._local.peer:  # newcomers are let in beyond the budget, but not without end
            shown = DeclineReason.PACED if self._local.pacing.in_debt() else await self.donor.show(asked)
        if isinstance(shown, DeclineReason):
            await self._say_no(conversation, Decline(id=asked.id, reason=shown))
            return
        with self._sending(conversation, shown.snapshot), self.donor.gives():
            given = await self.donor.given(asked, shown, part)
            values = shown.snapshot.vector[slice(*part)]
            await conversation.run(give(given), Vectors.sending(values, asked.codec))

    async def _send_copy(self, conversation: Conversation, asked: Fetch, snapshot: Snapshot) -> None:
        with self._sending(conversation, snapshot):
            snapshot.tries[asked.peer] += 1
            given = Given(id=asked.id, origin=snapshot.origin, step=snapshot.step, loss=snapshot.loss)
            await conversation.run(give(given), Vectors.sending(snapshot.vector, asked.codec))
            await conversation.until_closed()  # by then it is held there
            snapshot.holders.append(asked.peer)

    @contextmanager
    def _sending(self, conversation: Conversation, snapshot: Snapshot) -> Iterator[None]:
        """While it is on its way it counts, and may be cut."""
        entry = snapshot, conversation.stream
        self._make_room(snapshot)
        self._outgoing.append(entry)
        snapshot.sending += 1
        try:
            yield
        finally:
            snapshot.sending -= 1
            self._outgoing.remove(entry)
            self._local.journal.gave(conversation.traffic)

    def _make_room(self, wanted: Snapshot) -> None:
        """Slow readers must not keep any number of old snapshots in memory."""
        others = list(dict.fromkeys(snapshot for snapshot, _ in self._outgoing if snapshot is not wanted))
        for oldest in others[: max(0, len(others) + 1 - OUTGOING_MAX)]:
            for snapshot, stream in self._outgoing:
                if snapshot is oldest:
                    stream.abort()

    async def _serve(self, conversation: Conversation, offer: Offer, key: Key) -> None:
        seat, asked_at = self._seat(), asyncio.get_running_loop().time()
        offered = self._local.run.policy.topology in (Topology.PAIRS, Topology.CENTRE)
        refusal = await self._reserve(seat, offer) if offered else Refusal(DeclineReason.OTHER_RULE)
        if refusal is None:
            await self._exchange(conversation, offer, key, seat, asked_at)
        else:
            await self._say_no(conversation, Decline(id=offer.id, reason=refusal.reason, detail=refusal.detail))

    async def _reserve(self, seat: Seat, offer: Offer) -> Refusal | None:
        """Make our end ready, or say why not. While it waits for its turn, the budget may be spent on others."""
        refusal = self._paced(offer) or await seat.reserve(offer)
        if refusal is None and (refusal := self._paced(offer)) is not None:
            seat.free()
        return refusal

    def _paced(self, offer: Offer) -> Refusal | None:
        local = self._local
        elsewhere = local.run.centre is not None and not local.run.centre.seated  # that is what the asker has to hear
        why = None if elsewhere or offer.peer == local.departure.awaited else local.pacing.objection(offer)
        return None if why is None else Refusal(DeclineReason.PACED, why)

    async def _exchange(self, conversation: Conversation, offer: Offer, key: Key, seat: Seat, asked_at: float) -> None:
        local, started = self._local, asyncio.get_running_loop().time()
        terms = {"streams": offer.streams, "waited": min(started - asked_at, WAITED_MAX)}
        accept = seat.accept(offer).model_copy(update=terms)
        committed, distance, trial = False, None, None
        self._exchanging.add(conversation)

        def commit() -> None:
            nonlocal committed
            committed = True
            self._ledger.end(key, committed=True)

        try:
            if not self._ledger.begin(key):
                raise RemoteProtocolError(f"exchange {offer.id} was offered before", partner=key.partner)
            if offer.last:
                local.pacing.takes_last(key.partner)
            with self._awaited.expect(key, offer.streams) as conversation.widening:
                exchange = respond(offer, accept, local.run.policy.flow)
                result = await conversation.run(exchange, seat.vectors(offer), commit, seated=True)
            trial = await seat.try_out(offer, accept) if committed else None
        except ExchangeError as error:
            result = Result(outcome_of(error), reason=str(error))
            log.info("exchange asked for by %s: %s: %s", key.partner, result.outcome.value, error)
        finally:
            self._ledger.end(key, committed=False)
            if committed:  # whatever came between: the partner was told so
                try:
                    distance = seat.commit(offer, accept, trial, conversation.received)
                except BaseException:  # such as a GPU that failed: the next exchange finds the seat free
                    seat.free()
                    raise
            else:
                seat.free()
        enter(
            local,
            offer.id,
            key.partner,
            result,
            initiated=False,
            started=started,
            traffic=conversation.traffic,
            distance=distance,
        )
