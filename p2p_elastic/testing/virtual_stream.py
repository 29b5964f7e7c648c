"""Simulated streams: two pipes, whose pieces the network judges."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable
from p2p_elastic.protocol.chunks import Incoming, Outgoing
from p2p_elastic.testing.faults import Judging

STREAM_BYTES_MAX = 1 << 20  # a sender waits while more than this is under way: back-pressure


class Pipe:
    """One direction of a stream.

    Args:
        network: judges each piece.
        source: the peer that sends.
        target: the peer that receives.
    """

    def __init__(self, network: Judging, source: str, target: str) -> None:
        self._network, self._source, self._target = network, source, target
        self._sent_pieces: deque[bytes] = deque()
        self._arrived: deque[bytes] = deque()
        self._under_way = self._sent = 0
        self._last_arrival = 0.0
        self._changed = asyncio.Event()
        self.closed = self._finished = self._silent = False

    async def send(self, data: bytes) -> None:
        """Send one piece; it arrives when the network's verdict says, and not before the one before it.

        Args:
            data: any bytes.

        Raises:
            PartnerUnreachable: if the stream is cut.
        """
        while self._under_way > STREAM_BYTES_MAX and not self.closed:
            await self._wait()
        if self.closed:
            raise PartnerUnreachable("the stream is cut", partner=self._target)
        verdict = self._network.verdict(self._source, self._target, "piece", nbytes=len(data), number=self._sent)
        self._sent += 1
        if verdict.action == "cut":
            raise PartnerUnreachable("the stream is cut", partner=self._target)
        self._silent = self._silent or verdict.action == "silence"
        if self._silent:  # a host that vanished, a firewall that forgot the stream: nothing arrives, nobody is told
            return
        if verdict.action == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 0x55])
        self._under_way += len(data)
        loop = asyncio.get_running_loop()
        self._last_arrival = max(self._last_arrival, loop.time() + verdict.seconds)
        self._sent_pieces.append(data)
        # What is under way belongs to nobody: a sender that is stopped meanwhile does not hold it back.
        loop.call_at(self._last_arrival, self._arrive, context=Context())

    def _arrive(self) -> None:
        """One piece arrives: the oldest, since timers that end at the same time fire in any order."""
        if self._sent_pieces:  # not cut meanwhile
            self._arrived.append(self._sent_pieces.popleft())
        self._changed.set()

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill a whole buffer with what arrives.

        Args:
            buffer: what to fill.

        Raises:
            PartnerUnreachable: if the stream is cut, or ended before that.
        """
        filled = 0
        while filled < len(buffer):
            while not self._arrived:
                if self.closed or (self._finished and not self._sent_pieces):
                    raise PartnerUnreachable("the stream ended", partner=self._source)
                await self._wait()
            piece = self._arrived.popleft()
            taken = piece[: len(buffer) - filled]
            buffer[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) < len(piece):
                self._arrived.appendleft(piece[len(taken) :])
            self._under_way -= len(taken)
            self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def finish(self) -> None:
        """Send no more; what is under way still arrives."""
        self._finished = not self._silent
        self._changed.set()

    def cut(self) -> None:
        """Drop what is under way; nothing arrives any more."""
        self.closed = True
        self._sent_pieces.clear()
        self._arrived.clear()
        self._changed.set()


class SimulatedStream:
    """One end of a simulated stream. It is in `streams`, in the order of opening, until it ends.

    Args:
        partner: the peer id of the other end.
        outgoing: the direction to the partner.
        incoming: the direction from the partner.
        streams: the open ends of this peer.
    """

    relayed = False

    def __init__(self, partner: str, outgoing: Pipe, incoming: Pipe, streams: dict[SimulatedStream, None]) -> None:
        self.partner, self._outgoing, self._incoming, self._streams = partner, outgoing, incoming, streams
        streams[self] = None

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`, as one piece.

        Args:
            data: any bytes.

        Raises:
            PartnerUnreachable: if the stream is cut.
        """
        try:
            await self._outgoing.send(bytes(data))
        except PartnerUnreachable:
            self.abort()
            raise

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill a whole buffer with what the partner sends.

        Args:
            buffer: what to fill.

        Raises:
            PartnerUnreachable: if the stream ended.
        """
        await self._incoming.receive_into(buffer)

    @property
    def open(self) -> bool:
        """Whether neither end has closed it."""
        return not (self._outgoing.closed or self._incoming.closed)

    async def transfer(
        self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float, *, headers: bool = True
    ) -> float:
        """Send and fill vectors, as `Stream.transfer` says, in two tasks.

        Args:
            outgoing: what to send; None if nothing travels that way.
            incoming: what to fill; None if nothing travels that way.
            gap_seconds: how long one piece may take.
            headers: whether chunks have headers.

        Returns:
            The longest time that a piece took, in virtual seconds.
        """
        loop, moved, longest = asyncio.get_running_loop(), asyncio.Event(), 0.0

        async def timed(wait: Coroutine[Any, Any, object]) -> None:
            nonlocal longest
            began = loop.time()
            try:
                await wait_for(wait, gap_seconds)
            except asyncio.TimeoutError as error:
                raise ExchangeTimeout(f"nothing came of it within {gap_seconds:.3g} s", partner=self.partner) from error
            longest = max(longest, loop.time() - began)

        async def send(outgoing: Outgoing) -> None:
            for header, chunk in outgoing.pieces(headers=headers):
                moved.set()
                if headers:
                    await timed(self.send(header))
                await timed(self.send(chunk))
            moved.set()

        async def until_sent(chunks: int) -> None:
            while outgoing is not None and outgoing.sent < chunks:
                moved.clear()
                await moved.wait()

        async def fill(incoming: Incoming) -> None:
            for piece in incoming.pieces(headers=headers):
                await timed(until_sent(piece) if isinstance(piece, int) else self.receive_into(piece))

        ways = [send(outgoing)] if outgoing is not None else []
        tasks = [asyncio.ensure_future(way) for way in [*ways, *([fill(incoming)] if incoming is not None else [])]]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return longest

    async def close(self) -> None:
        """Close the stream; what was sent still arrives."""
        self._streams.pop(self, None)
        self._outgoing.finish()
        self._incoming.cut()

    def abort(self) -> None:
        """Cut both directions at once."""
        self._streams.pop(self, None)
        self._outgoing.cut()
        self._incoming.cut()
