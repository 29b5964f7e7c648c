"""Vectors on their way over blocking sockets, in two threads for each stream: one sends, one fills.

A thread that sends and one that receives wait in the kernel, without Python's lock, and take it for some microseconds
per chunk. On the event loop the same bytes cost a sixth more time, and a callback for each 200 kB.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable
from p2p_elastic.protocol.chunks import Incoming, Outgoing

T = TypeVar("T")
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


class SharedSocket:
    """A socket that is not closed while a thread or the event loop waits for it: its number may soon be another's.

    Args:
        connected: it belongs to this from now on.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._users = 0
        self.ended = False

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it open meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self.ended:
                self._close()

    def close(self) -> None:
        """Close it, once nobody uses it; what was sent is in the kernel's hands."""
        self.ended = True
        self._close()

    def abort(self) -> None:
        """Close it, and wake every thread that waits for it."""
        self.ended = True
        with contextlib.suppress(OSError):  # it is closed, or not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)
        self._close()

    def _close(self) -> None:
        if not self._users:
            self._socket.close()


def late(partner: str, seconds: float) -> ExchangeTimeout:
    """Make the error for a piece that did not move in time.

    Args:
        partner: the peer at the other end.
        seconds: how long it had.

    Returns:
        The error, to be raised.
    """
    return ExchangeTimeout(f"nothing came of it within {seconds:.3g} s", partner=partner)


class Heard:
    """When a partner's bytes came last, in monotonic seconds: who sends waits while they come."""

    def __init__(self) -> None:
        self.at = -math.inf


def send_some(send: Callable[[T], int], data: T, seconds: float, partner: str, heard: Heard) -> int:
    """Send a part of something over a socket with a timeout, while the partner sends too.

    On a thin link the socket takes nothing for longer than its timeout: p2pd does not read before the partner has read
    half of yamux's window, and the kernel says that there is room once a third of its buffer is free.

    Args:
        send: sends a part of it, and says how many bytes that is.
        data: what to send.
        seconds: the socket's timeout.
        partner: the peer at the other end.
        heard: of this partner.

    Returns:
        How many bytes were taken.

    Raises:
        ExchangeTimeout: if nothing moved, either way, within the timeout.
        PartnerUnreachable: if the connection broke.
    """
    while True:
        try:
            return send(data)
        except TimeoutError as error:
            if heard.at < time.monotonic() - seconds:
                raise late(partner, seconds) from error
        except OSError as error:
            raise PartnerUnreachable(f"the stream broke: {error}", partner=partner) from error


def send_all(connected: socket.socket, data: bytes | memoryview, partner: str, heard: Heard) -> None:
    """Send all of something over a socket with a timeout, as `send_some` does.

    Args:
        connected: the socket.
        data: what to send.
        partner: the peer at the other end.
        heard: of this partner.

    Raises:
        ExchangeTimeout: if nothing moved, either way, within the timeout.
        PartnerUnreachable: if the connection broke.
    """
    sent, seconds = 0, connected.gettimeout() or 0.0
    while sent < len(data):
        sent += send_some(connected.send, data[sent:], seconds, partner, heard)


def fill_from(source: socket.socket, buffer: memoryview, end: float, partner: str, heard: Heard) -> None:
    """Fill a whole buffer from a socket with a timeout.

    Args:
        source: the socket.
        buffer: what to fill.
        end: by when, in monotonic seconds.
        partner: the peer at the other end.
        heard: of this partner.

    Raises:
        ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
        PartnerUnreachable: if the connection broke or ended.
    """
    filled, gap = 0, source.gettimeout() or 0.0
    while filled < len(buffer):
        try:
            count = source.recv_into(buffer[filled:])
        except TimeoutError as error:
            raise late(partner, gap) from error
        except OSError as error:
            raise PartnerUnreachable(f"the stream broke: {error}", partner=partner) from error
        if not count:
            raise PartnerUnreachable("the stream ended", partner=partner)
        filled += count
        heard.at = time.monotonic()
        if heard.at > end and filled < len(buffer):
            raise late(partner, gap)


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
