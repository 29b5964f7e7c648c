"""Vectors on their way over blocking sockets, in two threads for each stream: one sends, one fills.

A thread that sends and one that receives wait in the kernel, without Python's lock, and take it for some microseconds
per chunk. On the event loop the same bytes cost a sixth more time, and a callback for each 200 kB.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.transport.shared_socket import late
from p2p_elastic.protocol.chunks import Incoming, Outgoing

THREADS_MAX = 256  # two for each stream of `Limits.streams_total`, and some more


class Blocking(Protocol):
    """What carries the bytes of one stream, and is used by one thread in each direction."""

    partner: str
    headers: bool
    """Whether chunks need headers: not if every byte is checked already."""

    def send_now(self, header: bytes, chunk: memoryview) -> None:
        """Send a header and its chunk.

        Args:
            header: what goes before the chunk; may be empty.
            chunk: the bytes of one chunk.

        Raises:
            ExchangeTimeout: if nothing moved, either way, within the socket's timeout.
            PartnerUnreachable: if the stream broke.
        """

    def fill_now(self, buffer: memoryview, end: float) -> None:
        """Fill a whole buffer.

        Args:
            buffer: what to fill.
            end: by when, in monotonic seconds.

        Raises:
            ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
            PartnerUnreachable: if the stream broke or ended.
        """

    def abort(self) -> None:
        """Close at once, and wake both threads."""


THREADS = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="transfer")  # none is started before there is work


class TransferThreads:
    """One transfer in its threads.

    Args:
        carrier: of the bytes.
        outgoing: what to send; None if nothing travels that way.
        incoming: what to fill; None if nothing travels that way.
        gap_seconds: how long one piece may take.

    Attributes:
        longest: what a piece took at most, in seconds.
    """

    def __init__(
        self, carrier: Blocking, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float
    ) -> None:
        self._carrier, self._outgoing, self._incoming, self._gap = carrier, outgoing, incoming, gap_seconds
        self._moved, self._sending = threading.Condition(), outgoing is not None
        self._waits = False  # the thread that fills, for the one that sends
        self.longest = 0.0

    async def run(self) -> None:
        """Raises what the first thread that fails raised. When it returns or raises, no thread is at work any more."""
        loop = asyncio.get_running_loop()
        tasks = [(self._send, self._outgoing), (self._fill, self._incoming)]
        left: set[asyncio.Future[None]] = {
            loop.run_in_executor(THREADS, task) for task, vector in tasks if vector is not None
        }
        failed: BaseException | None = None
        while left:
            try:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_EXCEPTION)
                failed = failed or next((e for e in (d.exception() for d in done) if e is not None), None)
            except asyncio.CancelledError as cancelled:
                failed = failed or cancelled
            if failed is not None:  # the other thread ends as soon as it sees that
                self._carrier.abort()
        if failed is not None:
            raise failed

    def _send(self) -> None:
        assert self._outgoing is not None
        try:
            for header, chunk in self._outgoing.pieces(headers=self._carrier.headers):
                self._tell()
                began = time.monotonic()
                self._carrier.send_now(header, chunk)
                self._took(began)
        finally:
            self._sending = False
            self._tell()

    def _fill(self) -> None:
        assert self._incoming is not None
        for piece in self._incoming.pieces(headers=self._carrier.headers):
            began = time.monotonic()
            if isinstance(piece, int):
                self._wait_until_sent(piece)
            else:
                self._carrier.fill_now(piece, began + self._gap)
            self._took(began)

    def _tell(self) -> None:
        if self._waits:  # who is about to wait looks once more after it said so
            with self._moved:
                self._moved.notify()

    def _wait_until_sent(self, chunks: int) -> None:
        outgoing = self._outgoing
        assert outgoing is not None, "nothing is sent that the received could be compared with"
        with self._moved:
            self._waits = True
            sent = self._moved.wait_for(lambda: outgoing.sent >= chunks or not self._sending, self._gap)
            self._waits = False
        if not sent:
            raise late(self._carrier.partner, self._gap)
        if outgoing.sent < chunks:
            raise PartnerUnreachable("the stream broke", partner=self._carrier.partner)

    def _took(self, began: float) -> None:
        self.longest = max(self.longest, time.monotonic() - began)
