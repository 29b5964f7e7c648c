"""Runs the exchange protocol (`p2p_elastic.protocol.exchange`) over a stream, within deadlines and bounds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ExchangeError, ExchangeTimeout, RemoteProtocolError
from p2p_elastic.peers.session.carriers import Carriers
from p2p_elastic.peers.session.deadlines import Bounds, Deadlines, Wait, Waits
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Received, Vectors
from p2p_elastic.protocol.exchange import TAKEN_BACK, Answer, Command, Commit, Connect, Receive, Send, Transfer, Widen
from p2p_elastic.protocol.framing import (
    CHUNK_BYTES_MAX,
    CHUNK_HEADER,
    MESSAGE_HEADER,
    check_chunk,
    check_chunk_length,
    chunk_header,
    pack,
    unpack_body,
    unpack_header,
)
from p2p_elastic.protocol.messages import Accept, Message, Route

T = TypeVar("T")
log = logging.getLogger(__name__)
CHUNK_BYTES = 2**17  # of what is no vector
BUFFERED_BYTES = 2**24  # of a vector that was sent, that may still be on its way: yamux's largest window
CONNECT_SECONDS, CONNECT_ROUND_TRIPS = 1.0, 4.0  # TCP and a greeting; then the vectors go over libp2p


@dataclass(frozen=True)
class Limits:
    """Bounds of one exchange and of what strangers can take from this peer.

    What a partner has shown makes its deadlines shorter (`deadlines.py`); these are the longest ones.

    Attributes:
        idle_seconds: longest silence of a partner; hivemind itself never times out.
        exchange_seconds: longest exchange as a whole, apart from its bytes at the slowest rate.
        bytes_per_second_min: the slowest rate; with it an exchange gets more time for each byte.
        header_seconds: a stream that says nothing for longer is closed.
        snapshot_seconds: how long to wait for the own next step before declining, while the own speed is not known.
        streams_per_peer: open streams of one peer; an exchange has LANES_MAX at most.
        streams_total: open streams of all peers.
        attempts: partners asked for one due exchange.
        farewell_seconds: longest wait for a partner to read the last word and close.
        inquiries: questions after a lost last word.
        part_elements: what a newcomer asks one donor for at a time; 2 MiB in float32, a minute at 256 kbit/s.
        ledger_entries: exchanges remembered, for idempotent retry.
    """

    idle_seconds: float = 10.0
    exchange_seconds: float = 60.0
    bytes_per_second_min: float = 20_000.0
    header_seconds: float = 5.0
    snapshot_seconds: float = 5.0
    streams_per_peer: int = 28
    streams_total: int = 96
    attempts: int = 3
    farewell_seconds: float = 2.0
    inquiries: int = 3
    part_elements: int = 2**19
    ledger_entries: int = 256

    @property
    def bounds(self) -> Bounds:
        """The bounds of the deadlines that are learnt."""
        return Bounds(self.idle_seconds, self.exchange_seconds, self.bytes_per_second_min, self.snapshot_seconds)


class Conversation:
    """One stream with a deadline on every wait, counting bytes both ways.

    Args:
        stream: to the partner; the code that made it closes it.
        limits: the longest deadlines.
        waits: the deadlines by what the partner has shown; None: the limits themselves, and nothing is learnt.
    """

    def __init__(self, stream: Stream, limits: Limits, waits: Waits | None = None) -> None:
        self.stream, self._limits = stream, limits
        self._waits = waits or Deadlines(limits.bounds).of(stream.partner, limits.snapshot_seconds)
        self.bytes_sent = self.bytes_received = 0
        self._answered_in = 0.0  # seconds; the round trip is no longer
        self._transferred = 0  # bytes, of which some may still be on their way
        self.carriers = Carriers(stream)
        self.received: Received | None = None  # what a transfer brought, also if it failed
        self.taken_back = False  # what this end sent, as it is not finite
        self.said: type[Message] | None = None  # the last message that began to be sent
        self.exchanging = False  # a peer that leaves waits until the partner has heard what came of it
        self._end = math.inf  # of the whole exchange, by the event loop's clock

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far."""
        return self.bytes_sent, self.bytes_received

    async def run(
        self,
        exchange: Generator[Command, Answer, T],
        vectors: Vectors | None = None,
        commit: Callable[[], None] | None = None,
        *,
        exclusive: bool = False,
    ) -> T:
        """Drive an exchange to its end: send, receive and transfer what it asks for.

        Args:
            exchange: the protocol, from `p2p_elastic.protocol.exchange`; errors of the stream are thrown into it.
            vectors: what a transfer sends and fills; None if there is none.
            commit: called when the exchange takes place at this end; None if that is not asked for.
            exclusive: True if no other exchange can take place meanwhile, so that a slow one costs more.

        Returns:
            What the exchange returns.

        Raises:
            ExchangeError: if it fails, with the partner's id in it; then the stream is aborted.
        """
        seconds = self._waits.whole(0 if vectors is None else vectors.wire_bytes, exclusive=exclusive)
        self._end = asyncio.get_running_loop().time() + seconds
        try:
            return await self._drive(exchange, vectors, commit)
        except ExchangeError as error:
            self.carriers.abort()
            error.partner = self.stream.partner
            raise
        finally:
            self._end = math.inf
            self.carriers.end(whole=self._transferred > 0)

    async def _drive(
        self,
        exchange: Generator[Command, Answer, T],
        vectors: Vectors | None,
        commit: Callable[[], None] | None,
    ) -> T:
        command = next(exchange)
        try:
            while True:
                try:
                    answer = await self._obey(command, vectors, commit)
                except ExchangeError as error:
                    command = exchange.throw(error)
                else:
                    command = exchange.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _obey(self, command: Command, vectors: Vectors | None, commit: Callable[[], None] | None) -> Answer:
        if isinstance(command, Send):
            await self.send(command.message)
            return None
        if isinstance(command, Receive):
            return await self._receive_due(command.types)
        if isinstance(command, Transfer):
            assert vectors is not None, "a transfer needs vectors"
            return await self.within(math.inf, self._transfer(vectors, command), "byte")
        if isinstance(command, Connect):
            return await self._connect(command)
        if isinstance(command, Widen):
            self.carriers.count = command.streams
            return None
        assert isinstance(command, Commit)
        assert commit is not None, "a commit needs somebody to write it down"
        commit()
        return None

    async def send(self, message: Message) -> None:
        """Send one message.

        Args:
            message: what to send.

        Raises:
            ExchangeError: if the stream broke, or did not take it in time.
        """
        self.said = type(message)
        await self._send(pack(message))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes whose number the partner knows, in chunks.

        Args:
            data: what to send.

        Raises:
            ExchangeError: if the stream broke, or did not take them in time.
        """
        for start in range(0, len(data), CHUNK_BYTES):
            chunk = memoryview(data)[start : start + CHUNK_BYTES]
            await self._send(chunk_header(chunk))
            await self._send(bytes(chunk))

    async def receive_bytes(self, nbytes: int) -> bytes:
        """Receive bytes that `send_bytes` sent.

        Args:
            nbytes: their number, which the caller has checked.

        Returns:
            The bytes.

        Raises:
            ExchangeError: if they do not come in time, or were changed on their way.
        """
        data, gap = bytearray(), self._waits.gap()
        while (due := min(CHUNK_BYTES, nbytes - len(data))) > 0:
            header = await self.within(gap, self._receive(CHUNK_HEADER.size), "gap")
            check_chunk_length(header, due)
            chunk = await self.within(max(gap, self._waits.moving(due)), self._receive(due), "gap")
            check_chunk(header, memoryview(chunk))
            data += chunk
        return bytes(data)

    async def until_closed(self) -> None:
        """Wait until the partner, which has the last word now, closes the stream; not for long.

        With libp2p, the end that closes first may take back what the other has not read yet.
        """
        with contextlib.suppress(ExchangeError):
            await self.within(self._limits.farewell_seconds, self._receive(1))

    async def _receive_due(self, types: tuple[type, ...]) -> Message:
        """Receive the message that is due now in the protocol."""
        if Route in types:  # the partner connects first
            return await self.within(self._waits.word() + self._connect_seconds(), self._receive_message(types))
        began, wait = asyncio.get_running_loop().time(), _wait_of(types)
        seconds = self._waits.answer() if wait == "answer" else self._waits.word(self._transferred)
        seconds = max(seconds, self._waits.moving(min(self._transferred, BUFFERED_BYTES)))
        message = await self.within(seconds, self._receive_message(types), wait)
        took = asyncio.get_running_loop().time() - began
        self._waits.saw(wait, took)
        self._answered_in = took
        if isinstance(message, Accept):
            self._waits.saw("rtt", max(0.0, took - message.waited))
        return message

    async def receive(self, types: tuple[type, ...], seconds: float) -> Message:
        """Receive one message.

        Args:
            types: those that may come now.
            seconds: how long to wait.

        Returns:
            The message, checked field by field.

        Raises:
            ExchangeError: if it does not come in time, is of another type, or is malformed.
        """
        return await self.within(seconds, self._receive_message(types))

    async def _receive_message(self, types: tuple[type, ...]) -> Message:
        header = await self._receive(MESSAGE_HEADER.size)
        message_type, length = unpack_header(header)
        if message_type not in types:
            due = " or ".join(t.__name__ for t in types)
            raise RemoteProtocolError(f"{message_type.__name__} came when {due} was due")
        return unpack_body(message_type, await self._receive(length))

    def _connect_seconds(self) -> float:
        return CONNECT_SECONDS + CONNECT_ROUND_TRIPS * (self._waits.rtt_seconds or self._answered_in)

    async def _connect(self, command: Connect) -> str | None:
        """Why it does not work, and nothing is lost; None if it does."""
        try:
            await self.within(self._connect_seconds(), self.carriers.connect(command.theirs, command.streams))
        except ExchangeError as error:
            log.info("vectors to and from %s travel over libp2p: %s", self.stream.partner, error)
            self.carriers.not_connected("not in time" if isinstance(error, ExchangeTimeout) else "not connected")
            return str(error)
        return None

    async def _transfer(self, vectors: Vectors, ways: Transfer) -> str | None:
        count = self.carriers.count
        began, lanes = asyncio.get_running_loop().time(), range(count)
        gap = max(self._waits.gap(), self._waits.moving(min(vectors.wire_bytes, 2 * count * CHUNK_BYTES_MAX)))
        outgoing = [Outgoing(vectors, i, count) if ways.send else None for i in lanes]
        incoming = [Incoming(vectors, i, count, outgoing[i]) if ways.receive else None for i in lanes]

        async def lane(number: int) -> float:
            carrier = await self.carriers.of(number)
            return await carrier.transfer(outgoing[number], incoming[number], gap)

        tasks = [asyncio.ensure_future(lane(number)) for number in lanes]
        try:
            gaps = await asyncio.gather(*tasks)
        except ExchangeTimeout:
            self._waits.missed("gap")
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            sent, came = [o for o in outgoing if o is not None], [i for i in incoming if i is not None]
            self.bytes_sent += sum(o.nbytes for o in sent)
            self.bytes_received += sum(i.nbytes for i in came)
            self.received = Received.of(came)
        self._learn(ways, max(gaps), asyncio.get_running_loop().time() - began)
        if vectors.copying is not None and not vectors.copying.finite:
            self.taken_back = True
            return TAKEN_BACK
        if self.received.finite:
            return None
        left_out = () if ways.whole else vectors.leave_out()
        self.received = self.received._replace(finite=bool(left_out), left_out=left_out)
        return None if left_out else "the parameters received are not finite"

    def _learn(self, ways: Transfer, longest_gap: float, seconds: float) -> None:
        """Keep what a transfer shows. One that only sends shows how fast buffers fill, and is left out."""
        self._transferred = self.bytes_sent + self.bytes_received
        if ways.receive:
            self._waits.saw("gap", longest_gap)
            self._waits.saw("byte", seconds / max(1, self._transferred))

    async def _send(self, data: bytes) -> None:
        await self.within(max(self._waits.gap(), self._waits.moving(len(data))), self.stream.send(data), "gap")
        self.bytes_sent += len(data)

    async def _receive(self, length: int) -> bytes:
        buffer = bytearray(length)
        await self.stream.receive_into(memoryview(buffer))
        self.bytes_received += length
        return bytes(buffer)

    async def within(self, seconds: float, wait: Awaitable[T], missed: Wait | None = None) -> T:
        """Wait, but no longer than a deadline, or than is left of the whole exchange.

        Args:
            seconds: the deadline, from now.
            wait: what to wait for; cancelled at the deadline.
            missed: which wait it is; its next deadline is longer if this one is missed. None: nothing is learnt.

        Returns:
            What was waited for.

        Raises:
            ExchangeTimeout: if it did not come in time.
        """
        left = self._end - asyncio.get_running_loop().time()
        if left < seconds:
            seconds, missed = max(0.0, left), "byte"
        try:
            return await wait_for(wait, seconds)
        except asyncio.TimeoutError as error:
            if missed is not None:
                self._waits.missed(missed)
            raise ExchangeTimeout(f"nothing came of it within {seconds:.3g} s", partner=self.stream.partner) from error


def _wait_of(types: tuple[type, ...]) -> Wait:
    return "answer" if Accept in types else "word"
