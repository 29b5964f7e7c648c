"""A socket to a partner that threads and the event loop share, and that says when nothing moves any more."""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Iterator

from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable

WAKE_BYTES = 1 << 15  # that wake a thread: with each packet of a thin link it would take the GIL from who trains


class SharedSocket:
    """A socket that is not closed while a thread or the event loop waits for it: its number may soon be another's.

    Args:
        partner: the peer id at the other end.
        connected: it belongs to this from now on.
    """

    def __init__(self, partner: str, connected: socket.socket) -> None:
        self.partner, self.socket = partner, connected
        self._users, self._wakes_at = 0, 1
        self._heard_at = -math.inf  # in monotonic seconds, by a thread; who sends waits while bytes come
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
            self.socket.shutdown(socket.SHUT_RDWR)
        self._close()

    def _close(self) -> None:
        if not self._users:
            self.socket.close()

    # -- in a thread; the socket has a timeout ------------------------------------------------------------------------

    def send(self, *pieces: bytes | memoryview) -> None:
        """Send all of some pieces, those that fit in one packet, while the partner sends too.

        On a thin link the socket takes nothing for longer than its timeout: p2pd does not read before the partner has
        read half of yamux's window, and the kernel says that there is room once a third of its buffer is free.

        Args:
            pieces: what to send; not kept after the call.

        Raises:
            ExchangeTimeout: if nothing moved, either way, within the socket's timeout.
            PartnerUnreachable: if the connection broke.
        """
        left = [memoryview(piece) for piece in pieces if piece]
        while left:
            sent = self._send_some(left)
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]

    def _send_some(self, pieces: list[memoryview]) -> int:
        seconds = self.socket.gettimeout() or 0.0
        while True:
            try:
                return self.socket.sendmsg(pieces)
            except TimeoutError as error:
                if self._heard_at < time.monotonic() - seconds:
                    raise late(self.partner, seconds) from error
            except OSError as error:
                raise broken(self.partner, error) from error

    def fill(self, buffer: memoryview, end: float) -> None:
        """Fill a whole buffer.

        Args:
            buffer: what to fill.
            end: by when, in monotonic seconds.

        Raises:
            ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
            PartnerUnreachable: if the connection broke or ended.
        """
        try:
            self._fill(buffer, end, WAKE_BYTES if len(buffer) >= WAKE_BYTES else 1)
        finally:
            with contextlib.suppress(OSError):  # it is broken
                self._wake_at(1)

    def _fill(self, buffer: memoryview, end: float, wake_bytes: int) -> None:
        filled, gap = 0, self.socket.gettimeout() or 0.0
        while filled < len(buffer):
            try:
                self._wake_at(min(wake_bytes, len(buffer) - filled))
                count = self.socket.recv_into(buffer[filled:])
            except TimeoutError as error:
                raise late(self.partner, gap) from error
            except OSError as error:
                raise broken(self.partner, error) from error
            if not count:
                raise PartnerUnreachable("the stream ended", partner=self.partner)
            filled += count
            self._heard_at = time.monotonic()
            if self._heard_at > end and filled < len(buffer):
                raise late(self.partner, gap)

    def _wake_at(self, nbytes: int) -> None:
        """Let the kernel wait for so many bytes; p2pd's socket wakes with each of its writes all the same."""
        if nbytes != self._wakes_at:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
            self._wakes_at = nbytes


def late(partner: str, seconds: float) -> ExchangeTimeout:
    """Make the error for a piece that did not move in time.

    Args:
        partner: the peer at the other end.
        seconds: how long it had.

    Returns:
        The error, to be raised.
    """
    return ExchangeTimeout(f"nothing came of it within {seconds:.3g} s", partner=partner)


def broken(partner: str, error: OSError) -> PartnerUnreachable:
    """Make the error for a socket that failed.

    Args:
        partner: the peer at the other end.
        error: the system's.

    Returns:
        The error, to be raised.
    """
    return PartnerUnreachable(f"the stream broke: {error}", partner=partner)
