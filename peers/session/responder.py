"""The end that is asked. Whatever a stranger sends costs bounded memory and time, and is counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.deadlines import Waits
from p2p_elastic.peers.transport.everybody import Everybody
from p2p_elastic.peers.transport.interfaces import Access, Stream
from p2p_elastic.protocol.messages import Message

log = logging.getLogger(__name__)


class Responder:
    """Lets the feature that the table has for the first message answer; bounds the streams of a peer and of all.

    Args:
        answers: the table.
        limits: how many streams there may be, and how long one may say nothing.
        waits_of: the deadlines of a conversation with a peer, by its id.
        refused: reason -> how many streams were refused for it; counted up here.
        access: who is answered; None: everybody.
    """

    def __init__(
        self,
        answers: Answers,
        limits: Limits,
        waits_of: Callable[[str], Waits],
        refused: Counter[str],
        access: Access | None = None,
    ) -> None:
        self._answers, self._limits, self._waits_of, self._access = answers, limits, waits_of, access or Everybody()
        self._refused = refused
        self._streams: Counter[str] = Counter()
        self._open: set[Conversation] = set()
        self._told = asyncio.Event()

    @property
    def streams(self) -> int:
        """How many streams are being served, of all partners together."""
        return self._streams.total()

    async def until_told(self) -> None:
        """Wait until every initiator heard what came of its exchange: a peer that goes earlier leaves a half one."""
        while any(conversation.exchanging for conversation in self._open):
            self._told.clear()
            await self._told.wait()

    async def answer(self, stream: Stream) -> None:
        """Serve one stream to its end, and close it.

        Args:
            stream: as the transport hands it over.
        """
        partner = stream.partner
        if not self._access.allows(partner):
            self._refused["not admitted"] += 1
            stream.abort()
            return
        if (
            self._streams[partner] >= self._limits.streams_per_peer
            or self._streams.total() >= self._limits.streams_total
        ):
            self._refused["too many streams"] += 1
            stream.abort()
            return
        self._streams[partner] += 1
        conversation = Conversation(stream, self._limits, self._waits_of(partner))
        self._open.add(conversation)
        try:
            await self._answers.answer(conversation, await self._first_message(conversation))
            await conversation.until_closed()
        except ExchangeError as error:
            self._refused[type(error).__name__] += 1
            log.info("stream from %s refused: %s", partner, error)
            stream.abort()
        finally:
            conversation.carriers.end(whole=False)
            self._streams[partner] -= 1
            self._streams += Counter()  # drops zeros: strangers must not fill the table
            self._open.discard(conversation)
            self._told.set()
            await stream.close()

    async def _first_message(self, conversation: Conversation) -> Message:
        return await conversation.receive(self._answers.kinds, self._limits.header_seconds)
