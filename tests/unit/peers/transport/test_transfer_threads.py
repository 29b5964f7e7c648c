"""Sockets that threads use, and what ends them."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable
from p2p_elastic.peers.transport.transfer_threads import Heard, SharedSocket, fill_from, send_some


def test_sockets_stay_open_while_somebody_uses_them_and_close_then() -> None:
    one, other = socket.socketpair()
    sockets = SharedSocket(one)
    with sockets.in_use():
        sockets.close()
        assert sockets.ended
        assert one.fileno() >= 0
    assert one.fileno() < 0
    other.close()


def test_an_abort_wakes_a_thread_that_waits() -> None:
    one, other = socket.socketpair()
    one.settimeout(60.0)
    sockets, failed = SharedSocket(one), list[Exception]()

    def wait() -> None:
        try:
            fill_from(one, memoryview(bytearray(1)), time.monotonic() + 60.0, "partner", Heard())
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
        buffer = memoryview(bytearray(4))
        with pytest.raises(ExchangeTimeout):
            fill_from(one, buffer, time.monotonic() + 60.0, "partner", Heard())
        other.sendall(b"ab")
        with pytest.raises(ExchangeTimeout):  # some of it came, not all by then
            fill_from(one, buffer, time.monotonic() - 1.0, "partner", Heard())
        other.sendall(b"cdef")
        fill_from(one, buffer, time.monotonic() + 60.0, "partner", Heard())
        assert bytes(buffer) == b"cdef"
        other.shutdown(socket.SHUT_WR)
        with pytest.raises(PartnerUnreachable, match="ended"):
            fill_from(one, buffer, time.monotonic() + 60.0, "partner", Heard())


def test_a_sender_waits_while_the_partner_sends_and_no_longer() -> None:
    heard, tried = Heard(), list[bytes]()

    def send(data: bytes) -> int:
        tried.append(data)
        if len(tried) == 3:
            return 2
        raise TimeoutError

    heard.at = time.monotonic()
    assert send_some(send, b"abc", 60.0, "partner", heard) == 2
    assert tried == 3 * [b"abc"]  # the same bytes: TLS takes no others
    heard.at -= 61.0
    with pytest.raises(ExchangeTimeout, match="within 60 s"):
        send_some(send, b"abc", 60.0, "partner", heard)
    assert len(tried) == 4
