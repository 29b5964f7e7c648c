"""Runs the exchange protocol (`p2p_elastic.protocol.exchange`) over a stream, within deadlines and bounds."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ExchangeError, ExchangeTimeout, RemoteProtocolError
from p2p_elastic.peers.session.deadlines import Bounds, Deadlines, Wait, Waits
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Received, Vectors
from p2p_elastic.protocol.exchange import Answer, Command, Commit, Receive, Send, Transfer, Widen
from p2p_elastic.protocol.framing import MESSAGE_HEADER, pack, unpack_body, unpack_header
from p2p_elastic.protocol.messages import Accept, Message

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds of one exchange and of what strangers can take from us.

    What a partner has shown makes its deadlines shorter (`deadlines.py`); these are the longest ones.
    """

    idle_seconds: float = 10.0  # longest silence of a partner; hivemind itself never times out
    exchange_seconds: float = 60.0  # longest exchange as a whole, plus its bytes at the slowest rate:
    bytes_per_second_min: float = 20_000.0
    header_seconds: float = 5.0  # a stream that says nothing for so long is closed
    snapshot_seconds: float = 5.0  # wait for our own next step before declining, while our speed is not known
    streams_per_peer: int = 28  # an exchange has LANES_MAX at most
    streams_total: int = 96
    attempts: int = 3  # partners asked for one due exchange
    farewell_seconds: float = 2.0  # longest wait for a partner to read our last word and close
    inquiries: int = 3  # questions after a lost last word
    part_elements: int = 2 * 2**20  # 8 MiB: what a newcomer asks one donor for at a time
    ledger_entries: int = 256  # exchanges remembered, for idempotent retry

    @property
    def bounds(self) -> Bounds:
        """Of the deadlines that are learnt."""
        return Bounds(self.idle_seconds, self.exchange_seconds, self.bytes_per_second_min, self.snapshot_seconds)


Widening = Callable[[int], Awaitable[Stream]]
"""Opens, or awaits, the stream of that number of an exchange that goes over several; the first one is 0."""


class Conversation:
    """One stream with a deadline on every wait, counting bytes both ways.

    Without `waits` the deadlines are the limits themselves, and nothing is learnt.
    """

    def __init__(self, stream: Stream, limits: Limits, waits: Waits | None = None) -> None:
        self.stream, self._limits = stream, limits
        self._waits = waits or Deadlines(limits.bounds).of(stream.partner, limits.snapshot_seconds)
        self.bytes_sent = self.bytes_received = 0
        self._transferred = 0  # bytes, of which some may still be on their way
        self._lanes = 1
        self._streams = [stream]  # with those beside `stream`, for the vectors
        self.widening: Widening | None = None
        self.received: Received | None = None  # what a transfer brought, also where it failed
        self.said: type[Message] | None = None  # the last message that we began to send
        self.exchanging = False  # who leaves waits until the partner has heard what came of it
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
        seated: bool = False,
    ) -> T:
        """Drive `exchange` to its end; `seated` where no other one can take place meanwhile.

        Raises ExchangeError with the partner's id in it.
        """
        seconds = self._waits.whole(0 if vectors is None else vectors.wire_bytes, seated=seated)
        self._end = asyncio.get_running_loop().time() + seconds
        try:
            return await self._drive(exchange, vectors, commit)
        except ExchangeError as error:
            for stream in self._streams:
                stream.abort()
            error.partner = self.stream.partner
            raise
        finally:
            self._end = math.inf

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
        if isinstance(command, Widen):
            self._lanes = command.streams
            return None
        assert isinstance(command, Commit)
        assert commit is not None, "a commit needs somebody to write it down"
        commit()
        return None

    async def send(self, message: Message) -> None:
        """Send one message. Raises ExchangeError."""
        self.said = type(message)
        await self._send(pack(message))

    async def until_closed(self) -> None:
        """Wait until the partner, who has our last word now, closes the stream; not for long.

        With libp2p, whoever closes first may take back what the other has not read yet.
        """
        with contextlib.suppress(ExchangeError):
            await self.within(self._limits.farewell_seconds, self._receive(1))

    async def _receive_due(self, types: tuple[type, ...]) -> Message:
        """The message that is due now in the protocol."""
        began, wait = asyncio.get_running_loop().time(), _wait_of(types)
        seconds = self._waits.answer() if wait == "answer" else self._waits.word(self._transferred)
        message = await self.within(seconds, self._receive_message(types), wait)
        took = asyncio.get_running_loop().time() - began
        self._waits.saw(wait, took)
        if isinstance(message, Accept):
            self._waits.saw("rtt", max(0.0, took - message.waited))
        return message

    async def receive(self, types: tuple[type, ...], seconds: float) -> Message:
        """One message, of one of these types, within `seconds`. Raises ExchangeError."""
        return await self.within(seconds, self._receive_message(types))

    async def _receive_message(self, types: tuple[type, ...]) -> Message:
        header = await self._receive(MESSAGE_HEADER.size)
        message_type, length = unpack_header(header)
        if message_type not in types:
            due = " or ".join(t.__name__ for t in types)
            raise RemoteProtocolError(f"{message_type.__name__} where {due} is due")
        return unpack_body(message_type, await self._receive(length))

    async def _transfer(self, vectors: Vectors, ways: Transfer) -> str | None:
        began, lanes, gap = asyncio.get_running_loop().time(), range(self._lanes), self._waits.gap()
        outgoing = [Outgoing(vectors, i, self._lanes) if ways.send else None for i in lanes]
        incoming = [Incoming(vectors, i, self._lanes, outgoing[i]) if ways.receive else None for i in lanes]

        async def lane(number: int) -> float:
            stream = self.stream if number == 0 else await self._further(number)
            return await stream.transfer(outgoing[number], incoming[number], gap)

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
        return None if self.received.finite else "the parameters received are not finite"

    async def _further(self, number: int) -> Stream:
        assert self.widening is not None, "nobody opens streams"
        stream = await self.widening(number)
        self._streams.append(stream)
        return stream

    def _learn(self, ways: Transfer, longest_gap: float, seconds: float) -> None:
        """What a transfer shows. Where we only send, it shows how fast buffers fill."""
        self._transferred = self.bytes_sent + self.bytes_received
        if ways.receive:
            self._waits.saw("gap", longest_gap)
            self._waits.saw("byte", seconds / max(1, self._transferred))

    async def _send(self, data: bytes) -> None:
        await self.within(self._waits.gap(), self.stream.send(data), "gap")
        self.bytes_sent += len(data)

    async def _receive(self, length: int) -> bytes:
        buffer = bytearray(length)
        await self.stream.receive_into(memoryview(buffer))
        self.bytes_received += length
        return bytes(buffer)

    async def within(self, seconds: float, wait: Awaitable[T], missed: Wait | None = None) -> T:
        """`wait`, but no longer than that, or than is left of the whole exchange.

        Raises ExchangeTimeout; then the next deadline `missed` is longer, or that of the whole.
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
