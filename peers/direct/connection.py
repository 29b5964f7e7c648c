"""One direct connection: two TLS connections to a partner, of which each carries one direction.

OpenSSL lets one thread at a time use a connection, and here one thread sends while another receives.
"""

from __future__ import annotations

import select
import ssl

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.transport.transfer_threads import Sockets, TransferThreads, fill_from, late
from p2p_elastic.protocol.chunks import Incoming, Outgoing


class TlsConnection:
    """A direct connection over TLS; the sockets belong to it from now on.

    Args:
        name: the same at both ends, and of no other connection.
        partner: the peer id at the other end.
        outgoing: on which this end sends.
        incoming: on which it receives.
    """

    headers = False  # TLS checks every byte

    def __init__(self, name: str, partner: str, outgoing: ssl.SSLSocket, incoming: ssl.SSLSocket) -> None:
        self.name, self.partner = name, partner
        self._outgoing, self._incoming = outgoing, incoming
        self._sockets = Sockets(outgoing, incoming)

    @property
    def usable(self) -> bool:
        """Whether an idle connection is still open: nothing comes while nobody asked for anything, but an end."""
        if self._sockets.ended:
            return False
        poll = select.poll()
        for one in (self._outgoing, self._incoming):
            poll.register(one, select.POLLIN)
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
        with self._sockets.in_use():
            for one in (self._outgoing, self._incoming):
                one.settimeout(gap_seconds)
            await work.run()
        return work.longest

    def close(self) -> None:
        """Close it; what was sent is in the kernel's hands."""
        self._sockets.close()

    def abort(self) -> None:
        """Close at once, and wake every thread that waits for it."""
        self._sockets.abort()

    # -- in a thread --------------------------------------------------------------------------------------------------

    def send_now(self, _header: bytes, chunk: memoryview) -> None:
        """Send a chunk from a thread, within the gap allowed; it has no header.

        Args:
            chunk: its bytes.

        Raises:
            ExchangeTimeout: if nothing moved within the socket's timeout.
            PartnerUnreachable: if the connection broke.
        """
        try:
            self._outgoing.sendall(chunk)
        except TimeoutError as error:
            raise late(self.partner, self._outgoing.gettimeout() or 0.0) from error
        except OSError as error:
            raise PartnerUnreachable(f"the direct connection broke: {error}", partner=self.partner) from error

    def fill_now(self, buffer: memoryview, end: float) -> None:
        """Fill a whole buffer from a thread.

        Args:
            buffer: what to fill.
            end: by when, in monotonic seconds.

        Raises:
            ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
            PartnerUnreachable: if the connection broke or ended.
        """
        fill_from(self._incoming, buffer, end, self.partner)
