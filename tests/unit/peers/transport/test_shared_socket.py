"""Sockets that threads use, and what ends them."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable
from p2p_elastic.peers.transport.shared_socket import WAKE_BYTES, SharedSocket


def test_sockets_stay_open_while_somebody_uses_them_and_close_then() -> None:
    one, other = socket.socketpair()
    sockets = SharedSocket("partner", one)
    with sockets.in_use():
        sockets.close()
        assert sockets.ended
        assert one.fileno() >= 0
    assert one.fileno() < 0
    other.close()


def test_an_abort_wakes_a_thread_that_waits() -> None:
    one, other = socket.socketpair()
    one.settimeout(60.0)
    sockets, failed = SharedSocket("partner", one), list[Exception]()

    def wait() -> None:
        try:
            sockets.fill(memoryview(bytearray(1)), time.monotonic() + 60.0)
        except PartnerUnreachable as error:
            failed.append(error)

    with sockets.in_use():
        thread = threading.Thread(target=wait)
        thread.start()
        sockets.abort()
        thread.join(10.0)
    assert len(failed) == 1
    other.close()


def test_what_comes_too_slowly_is_too_late_and_what_ends_early_is_unreachable() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(0.01)
        shared = SharedSocket("partner", one)
        buffer = memoryview(bytearray(4))
        with pytest.raises(ExchangeTimeout):
            shared.fill(buffer, time.monotonic() + 60.0)
        other.sendall(b"ab")
        with pytest.raises(ExchangeTimeout):  # some of it came, not all by then
            shared.fill(buffer, time.monotonic() - 1.0)
        other.sendall(b"cdef")
        shared.fill(buffer, time.monotonic() + 60.0)
        assert bytes(buffer) == b"cdef"
        other.shutdown(socket.SHUT_WR)
        with pytest.raises(PartnerUnreachable, match="ended"):
            shared.fill(buffer, time.monotonic() + 60.0)


class Slow(socket.socket):
    """A socket that has no room, but for two bytes at its third try; from then on its timeout is short."""

    tried: list[bytes]

    def sendmsg(self, pieces: list[memoryview]) -> int:  # type: ignore[override]
        self.tried.append(b"".join(pieces))
        if len(self.tried) != 3:
            raise TimeoutError
        self.settimeout(1e-9)
        return 2


def test_a_sender_waits_while_the_partner_sends_and_no_longer() -> None:
    one, other = socket.socketpair()
    with Slow(fileno=one.detach()) as slow, other:
        slow.tried = []
        slow.settimeout(60.0)
        shared = SharedSocket("partner", slow)
        other.sendall(b"x")
        shared.fill(memoryview(bytearray(1)), time.monotonic() + 60.0)
        with pytest.raises(ExchangeTimeout):
            shared.send(b"a", b"bcd")
        assert slow.tried == [b"abcd", b"abcd", b"abcd", b"cd"]


def test_a_thread_is_not_woken_by_each_packet_and_a_message_after_a_chunk_is_not_waited_for() -> None:
    size, packet = 3 * WAKE_BYTES + 100, 1000
    with socket.create_server(("127.0.0.1", 0)) as listening:
        other = socket.create_connection(listening.getsockname())
        one = Counted(listening.accept()[0])
    with one, other:
        one.settimeout(30.0)
        shared, buffer = SharedSocket("partner", one), memoryview(bytearray(size))
        thread = threading.Thread(target=shared.fill, args=(buffer, time.monotonic() + 60.0))
        thread.start()
        for at in range(0, size, packet):
            other.sendall(bytes([at // packet % 256]) * min(packet, size - at))
            one.arrived.wait(0.001)  # as on a thin link
        thread.join(30.0)
        assert not thread.is_alive()
        assert bytes(buffer[-1:]) == bytes([(size - 1) // packet % 256])
        assert one.received <= 5
        other.sendall(b"!")
        shared.fill(buffer[:1], time.monotonic() + 60.0)
        assert bytes(buffer[:1]) == b"!"
        other.shutdown(socket.SHUT_WR)
        with pytest.raises(PartnerUnreachable, match="ended"):
            shared.fill(buffer, time.monotonic() + 60.0)


class Counted(socket.socket):
    """Counts how often it was read."""

    def __init__(self, taken: socket.socket) -> None:
        super().__init__(fileno=taken.detach())
        self.received, self.arrived = 0, threading.Event()

    def recv_into(self, *arguments: Any) -> int:
        count = super().recv_into(*arguments)
        self.received += 1
        return count
