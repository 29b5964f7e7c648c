"""A stream over the unix socket to p2pd: messages on the event loop, vectors in two threads of their own."""

from __future__ import annotations

import asyncio
import os
import socket

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.transport.shared_socket import SharedSocket, broken
from p2p_elastic.peers.transport.transfer_threads import Blocking, TransferThreads
from p2p_elastic.protocol.chunks import Incoming, Outgoing

BUFFER_BYTES = 1 << 22  # asked of the kernel for what is on its way to p2pd; it may give less


class SocketStream:
    """`Stream` over a connected socket, which belongs to it from now on.

    Args:
        partner: the peer id at the other end, as the transport proved it.
        connected: the socket to p2pd.
        rest: bytes that were received before the socket was taken over; they are read first.

    Attributes:
        remote: the IP address from which the partner opened it; empty if this end did.
    """

    relayed = False

    def __init__(self, partner: str, connected: socket.socket, rest: bytes = b"") -> None:
        self.partner, self.headers, self.remote = partner, True, ""
        self._rest = memoryview(rest)  # received before the socket was taken over
        self._shared = SharedSocket(partner, connected)
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
        return self._shared.socket

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`, on the event loop.

        Args:
            data: any bytes; not kept after the call.

        Raises:
            PartnerUnreachable: if the stream broke.
        """
        with self._shared.in_use():
            try:
                await asyncio.get_running_loop().sock_sendall(self._shared.socket, data)
            except OSError as error:
                raise broken(self.partner, error) from error

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill a whole buffer, on the event loop.

        Args:
            buffer: what to fill.

        Raises:
            PartnerUnreachable: if the stream broke or ended.
        """
        filled = 0
        while filled < len(buffer):
            count = await self.receive_some(buffer[filled:])
            if not count:  # a killed partner looks like this too
                raise PartnerUnreachable("the stream ended", partner=self.partner)
            filled += count

    async def receive_some(self, buffer: memoryview) -> int:
        """Receive what is there, or the next bytes that come, on the event loop.

        Args:
            buffer: what to fill from its beginning.

        Returns:
            How many bytes; 0: the stream ended.

        Raises:
            PartnerUnreachable: if the stream broke.
        """
        if filled := self._take_rest(buffer):
            return filled
        with self._shared.in_use():
            try:
                return await asyncio.get_running_loop().sock_recv_into(self._shared.socket, buffer)
            except OSError as error:
                raise broken(self.partner, error) from error

    async def transfer(
        self,
        outgoing: Outgoing | None,
        incoming: Incoming | None,
        gap_seconds: float,
        through: Blocking | None = None,
    ) -> float:
        """Send and fill vectors, as `Stream.transfer` says, in one thread for each direction.

        Args:
            outgoing: what to send; None if nothing travels that way.
            incoming: what to fill; None if nothing travels that way.
            gap_seconds: how long one piece may take.
            through: changes the bytes before it hands them to this stream's `send_now`, and after `fill_now`.

        Returns:
            The longest time that a piece took, in seconds. No thread is at work any more.
        """
        work = TransferThreads(through or self, outgoing, incoming, gap_seconds)
        with self._shared.in_use():
            self._shared.socket.settimeout(gap_seconds)
            try:
                await work.run()
            finally:
                if not self._shared.ended:
                    self._shared.socket.setblocking(False)
        return work.longest

    async def close(self) -> None:
        """Close the stream; what was sent is in the kernel's hands, or p2pd's."""
        self._shared.close()

    def abort(self) -> None:
        """Close at once, and wake every thread that waits for the socket."""
        self._shared.abort()

    def _take_rest(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    # -- in a thread --------------------------------------------------------------------------------------------------

    def send_now(self, header: bytes, chunk: memoryview) -> None:
        """Send a header and its chunk from a thread.

        In one call: p2pd would make a packet of a header alone.

        Args:
            header: what goes before the chunk.
            chunk: the bytes of one chunk.

        Raises:
            ExchangeTimeout: if nothing moved, either way, within the socket's timeout.
            PartnerUnreachable: if the stream broke.
        """
        self._shared.send(header, chunk)

    def fill_now(self, buffer: memoryview, end: float) -> None:
        """Fill a whole buffer from a thread.

        Args:
            buffer: what to fill.
            end: by when, in monotonic seconds.

        Raises:
            ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
            PartnerUnreachable: if the stream broke or ended.
        """
        self._shared.fill(buffer[self._take_rest(buffer) :], end)
