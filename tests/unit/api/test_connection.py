"""Clients of the real server that are slow, silent or too many."""

from __future__ import annotations

import itertools
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
from helpers.asking import served
from helpers.statuses import status_of

from p2p_elastic.api import connection
from p2p_elastic.api.events_stream import Streams
from p2p_elastic.status.schema import MemberStatus, PeerStatus

pytestmark = pytest.mark.processes

WHOLE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = WHOLE[:-4]
PUT = b"PUT /v1/weight HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
TOKEN = "t" * 16


@contextmanager
def connected(url: str, receive_bytes: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as client:
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(5)
        client.connect((httpx.URL(url).host, httpx.URL(url).port))
        yield client


def until_cut(client: socket.socket) -> bytes:
    """All that comes before the server closes; TimeoutError where it does not."""
    got = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            got += piece
    return got


def test_silent_clients_keep_nobody_else_out_and_are_not_kept_themselves() -> None:
    with ExitStack() as clients, served() as url:
        opened = []
        for index in range(connection.CONNECTIONS_MAX + 20):
            opened.append(clients.enter_context(connected(url)))
            opened[-1].sendall(HALF if index % 2 else b"")
        assert httpx.get(f"{url}/health").status_code == 200
        assert [until_cut(client) for client in opened[:20]] == [b""] * 20
        opened[-1].sendall(WHOLE[len(HALF) :])  # one that came late enough
        assert opened[-1].recv(15) == b"HTTP/1.1 200 OK"


def quick() -> Streams:
    return Streams(poll_seconds=0.005, progress_seconds=0.005)


def progress(url: str, count: int) -> Iterator[str]:
    """So many rows of a stream, for each of which the server waits 5 ms."""
    with httpx.stream("GET", f"{url}/v1/events", timeout=5) as answer:
        yield from itertools.islice((row for row in answer.iter_lines() if row.startswith("data: ")), count)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (HALF, b""),
        (PUT % TOKEN.encode() + b'Content-Length: 15\r\n\r\n{"weight"', b""),
        (PUT % TOKEN.encode() + b"Transfer-Encoding: chunked\r\n\r\n5\r\n", b""),
        (PUT % b"wrong" + b"Content-Length: 15\r\n\r\n{", b"HTTP/1.1 401"),
    ],
    ids=["nothing", "head", "body", "chunk", "unread body"],
)
def test_a_request_that_does_not_arrive_is_given_up(
    sent: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.5)
    with served(token=TOKEN) as url, connected(url) as client:
        client.sendall(sent)
        assert until_cut(client)[:12] == answer
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_so_is_the_second_request_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered() -> PeerStatus:
        monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.1)  # from the first answer on
        return status_of()

    with served(answered) as url, connected(url) as client:
        client.sendall(WHOLE.replace(b"/health", b"/v1/status"))
        got = b""
        while not got.endswith(b"}"):
            piece = client.recv(65536)
            assert piece
            got += piece
        client.sendall(HALF)
        assert until_cut(client) == b""


def test_an_answer_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.1)
    member = MemberStatus(peer="B" * 100_000, addresses=(), state="alive", step=1, loss=1.0, age_seconds=1)
    many = status_of(members=(member,) * 120)  # more than sockets hold, and soon written
    with served(lambda: many, streams=quick()) as url, connected(url, receive_bytes=4096) as client:
        client.sendall(WHOLE.replace(b"/health", b"/v1/status"))
        assert len(list(progress(url, 100))) == 100
        head, _, body = until_cut(client).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    assert len(body) < int(length[1])


def test_a_stream_outlives_every_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    with served(streams=quick()) as url:
        assert len(list(progress(url, 200))) == 200


def test_where_all_are_busy_the_newest_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_MAX", 2)
    with ExitStack() as clients, served() as url:
        rows = [
            clients.enter_context(httpx.stream("GET", f"{url}/v1/events", timeout=5)).iter_lines() for _ in range(2)
        ]
        assert [next(row) for row in rows] == ["retry: 2000"] * 2
        with connected(url) as client:
            assert until_cut(client) == b""
        assert [next(row) for row in rows] == [""] * 2
