"""One direct connection: a TCP socket to a partner, over which sealed chunks travel both ways."""

from __future__ import annotations

import select
import socket

from p2p_elastic.peers.direct.sealing import Seal, SealedChunks
from p2p_elastic.peers.transport.shared_socket import SharedSocket
from p2p_elastic.peers.transport.transfer_threads import TransferThreads
from p2p_elastic.protocol.chunks import Incoming, Outgoing


class DirectConnection:
    """A direct connection; the socket belongs to it from now on.

    Args:
        name: the same at both ends, and of no other connection.
        partner: the peer id at the other end.
        connected: the socket.
        outgoing: of what this end sends.
        incoming: of what it receives.
    """

    headers = False  # every byte is checked

    def __init__(self, name: str, partner: str, connected: socket.socket, outgoing: Seal, incoming: Seal) -> None:
        self.name, self.partner = name, partner
        self._chunks, self._shared = SealedChunks(outgoing, incoming), SharedSocket(partner, connected)

    @property
    def usable(self) -> bool:
        """Whether an idle connection is still open: nothing comes while nobody asked for anything, but an end."""
        if self._shared.ended or self._chunks.worn:
            return False
        poll = select.poll()
        poll.register(self._shared.socket, select.POLLIN)
        return not poll.poll(0)

    async def transfer(self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float) -> float:
        """Send and fill vectors, as `Carrier.transfer` says, in one thread for each direction.

        Args:
            outgoing: what to send; None if nothing travels that way.
            incoming: what to fill; None if nothing travels that way.
            gap_seconds: how long one piece may take.

        Returns:
            The longest time that a piece took, in seconds. No thread is at work any more.
        """
        work = TransferThreads(self, outgoing, incoming, gap_seconds)
        with self._shared.in_use():
            self._shared.socket.settimeout(gap_seconds)
            try:
                await work.run()
            finally:
                self._chunks.let_go()
        return work.longest

    def close(self) -> None:
        """Close it; what was sent is in the kernel's hands."""
        self._shared.close()

    def abort(self) -> None:
        """Close at once, and wake every thread that waits for it."""
        self._shared.abort()

    # -- in a thread --------------------------------------------------------------------------------------------------

    def send_now(self, _header: bytes, chunk: memoryview) -> None:
        """Send a chunk from a thread; it has no header.

        Args:
            chunk: its bytes.

        Raises:
            ExchangeTimeout: if nothing moved, either way, within the socket's timeout.
            PartnerUnreachable: if the connection broke.
        """
        self._shared.send(self._chunks.seal(chunk))

    def fill_now(self, buffer: memoryview, end: float) -> None:
        """Fill a whole buffer from a thread.

        Args:
            buffer: what to fill: exactly one chunk.
            end: by when, in monotonic seconds.

        Raises:
            ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
            PartnerUnreachable: if the connection broke or ended, or something was changed on its way.
        """
        self._shared.fill(self._chunks.room(len(buffer)), end)
        self._chunks.open(buffer, self.partner)
