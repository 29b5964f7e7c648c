"""A stream over the unix socket to p2pd: messages on the event loop, vectors in two threads of their own.

A thread that sends and one that receives wait in the kernel, without Python's lock, and take it for some microseconds
per chunk. On the event loop the same bytes cost a sixth more time, and a callback for each 200 kB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable
from p2p_elastic.protocol.chunks import Incoming, Outgoing

BUFFER_BYTES = 1 << 22  # asked of the kernel for what is on its way to p2pd; it may give less
THREADS_MAX = 256  # two for each stream of `Limits.streams_total`, and some more


class SocketStream:
    """`Stream` over a connected socket, which belongs to it from now on.

    Args:
        partner: the peer id at the other end, as the transport proved it.
        connected: the socket to p2pd.
        rest: bytes that were received before the socket was taken over; they are read first.
    """

    def __init__(self, partner: str, connected: socket.socket, rest: bytes = b"") -> None:
        self.partner, self._socket = partner, connected
        self._rest = memoryview(rest)  # received before the socket was taken over
        self._users, self._ended, self._released = 0, False, False  # calls that wait for the socket, and its end
        connected.setblocking(False)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)

    @classmethod
    async def take_over(cls, partner: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> SocketStream:
        """Make a stream of a reader and a writer that nobody else uses any more.

        Args:
            partner: the peer id at the other end, as the transport proved it.
            reader: what it has received already is kept.
            writer: its transport is closed, the socket below it is not.

        Returns:
            The stream.

        Raises:
            OSError: if the connection is gone.
        """
        transport = writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport
        reader.feed_eof()  # so that `read` gives what is here, and does not wait for more
        rest = await reader.read()
        transport.pause_reading()  # type: ignore[attr-defined]  # a full reader has resumed it
        taken = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        transport.abort()  # closes its own number of the socket only
        return cls(partner, taken, rest)

    @property
    def socket(self) -> socket.socket:
        """The socket, for users that need nothing else of the stream, such as a benchmark."""
        return self._socket

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`, on the event loop.

        Args:
            data: any bytes; not kept after the call.

        Raises:
            PartnerUnreachable: if the stream broke.
        """
        with self._in_use():
            try:
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
            except OSError as error:
                raise self._broken(error) from error

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill a whole buffer, on the event loop.

        Args:
            buffer: what to fill.

        Raises:
            PartnerUnreachable: if the stream broke or ended.
        """
        filled = self._take_rest(buffer)
        loop = asyncio.get_running_loop()
        while filled < len(buffer):
            with self._in_use():
                try:
                    count = await loop.sock_recv_into(self._socket, buffer[filled:])
                except OSError as error:
                    raise self._broken(error) from error
            if not count:  # a killed partner looks like this too
                raise PartnerUnreachable("the stream ended", partner=self.partner)
            filled += count

    async def transfer(self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float) -> float:
        """Send and fill vectors, as `Stream.transfer` says, in one thread for each direction.

        Args:
            outgoing: what to send; None if nothing travels that way.
            incoming: what to fill; None if nothing travels that way.
            gap_seconds: how long one piece may take.

        Returns:
            The longest time that a piece took, in seconds. No thread is at work any more.
        """
        work = _Work(self, outgoing, incoming, gap_seconds)
        with self._in_use():
            self._socket.settimeout(gap_seconds)
            try:
                await work.run()
            finally:
                if not self._ended:
                    self._socket.setblocking(False)
        return work.longest

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the socket open: a number closed while a thread or the event loop waits for it may soon be another's."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._ended:
                self._close()

    async def close(self) -> None:
        """Close the stream; what was sent is in the kernel's hands, or p2pd's."""
        self._ended = True
        self._close()

    def abort(self) -> None:
        """Close at once, and wake every thread that waits for the socket."""
        self._ended = True
        if not self._released:
            with contextlib.suppress(OSError):  # it is not connected any more
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes those that wait for it
        self._close()

    def _close(self) -> None:
        if not self._users and not self._released:
            self._released = True
            self._socket.close()

    def _take_rest(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _broken(self, error: OSError) -> PartnerUnreachable:
        return PartnerUnreachable(f"the stream broke: {error}", partner=self.partner)

    def late(self, seconds: float) -> ExchangeTimeout:
        """Make the error for a piece that did not move in time.

        Args:
            seconds: how long it had.

        Returns:
            The error, to be raised.
        """
        return ExchangeTimeout(f"nothing came of it within {seconds:.3g} s", partner=self.partner)

    # -- in a thread --------------------------------------------------------------------------------------------------

    def send_now(self, header: bytes, chunk: memoryview) -> None:
        """Send a header and its chunk from a thread, each within the gap allowed.

        In one call: p2pd would make a packet of a header alone.

        Args:
            header: what goes before the chunk.
            chunk: the bytes of one chunk.

        Raises:
            ExchangeTimeout: if nothing moved within the socket's timeout.
            PartnerUnreachable: if the stream broke.
        """
        try:
            sent = self._socket.sendmsg((header, chunk))
            while sent < len(header):  # hardly ever: the kernel took a part of the header
                sent += self._socket.send(header[sent:])
            self._socket.sendall(chunk[sent - len(header) :])
        except TimeoutError as error:
            raise self.late(self._socket.gettimeout() or 0.0) from error
        except OSError as error:
            raise self._broken(error) from error

    def fill_now(self, buffer: memoryview, end: float) -> None:
        """Fill a whole buffer from a thread.

        Args:
            buffer: what to fill.
            end: by when, in monotonic seconds.

        Raises:
            ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
            PartnerUnreachable: if the stream broke or ended.
        """
        filled = self._take_rest(buffer)
        gap = self._socket.gettimeout() or 0.0
        while filled < len(buffer):
            try:
                count = self._socket.recv_into(buffer[filled:])
            except TimeoutError as error:
                raise self.late(gap) from error
            except OSError as error:
                raise self._broken(error) from error
            if not count:
                raise PartnerUnreachable("the stream ended", partner=self.partner)
            filled += count
            if time.monotonic() > end and filled < len(buffer):
                raise self.late(gap)


_THREADS = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="transfer")  # none is started before there is work


class _Work:
    """One transfer in its threads. `longest`: what a piece took at most, in seconds."""

    def __init__(
        self, stream: SocketStream, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float
    ) -> None:
        self._stream, self._outgoing, self._incoming, self._gap = stream, outgoing, incoming, gap_seconds
        self._moved, self._sending = threading.Condition(), outgoing is not None
        self.longest = 0.0

    async def run(self) -> None:
        """Raises what the first thread that fails raised. When it returns or raises, no thread is at work any more."""
        loop = asyncio.get_running_loop()
        tasks = [(self._send, self._outgoing), (self._fill, self._incoming)]
        left: set[asyncio.Future[None]] = {
            loop.run_in_executor(_THREADS, task) for task, vector in tasks if vector is not None
        }
        failed: BaseException | None = None
        while left:
            try:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_EXCEPTION)
                failed = failed or next((e for e in (d.exception() for d in done) if e is not None), None)
            except asyncio.CancelledError as cancelled:
                failed = failed or cancelled
            if failed is not None:  # the other thread ends as soon as it sees that
                self._stream.abort()
        if failed is not None:
            raise failed

    def _send(self) -> None:
        assert self._outgoing is not None
        try:
            for header, chunk in self._outgoing.pieces():
                self._tell()
                began = time.monotonic()
                self._stream.send_now(header, chunk)
                self._took(began)
        finally:
            self._sending = False
            self._tell()

    def _fill(self) -> None:
        assert self._incoming is not None
        for piece in self._incoming.pieces():
            began = time.monotonic()
            if isinstance(piece, int):
                self._wait_until_sent(piece)
            else:
                self._stream.fill_now(piece, began + self._gap)
            self._took(began)

    def _tell(self) -> None:
        with self._moved:
            self._moved.notify()

    def _wait_until_sent(self, chunks: int) -> None:
        outgoing = self._outgoing
        assert outgoing is not None, "nothing is sent that the received could be compared with"
        with self._moved:
            sent = self._moved.wait_for(lambda: outgoing.sent >= chunks or not self._sending, self._gap)
        if not sent:
            raise self._stream.late(self._gap)
        if outgoing.sent < chunks:
            raise PartnerUnreachable("the stream broke", partner=self._stream.partner)

    def _took(self, began: float) -> None:
        self.longest = max(self.longest, time.monotonic() - began)
