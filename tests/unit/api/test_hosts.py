"""Which `Host` header is answered: a page of another site may let its own name lead to a peer (DNS rebinding)."""

from __future__ import annotations

import socket

import pytest
from helpers.asking import ask, served

from p2p_elastic.api.hosts import is_answered

NAMES = ("peer", "train.example")


@pytest.mark.parametrize(
    ("header", "answered"),
    [
        ("127.0.0.1:8870", True),
        ("192.168.1.7", True),
        ("203.0.113.5:80", True),  # a port forward: no name, so nobody else's
        ("[::1]:8870", True),
        ("[2001:DB8::1]", True),
        ("[fe80::1%eth0]:8870", True),
        ("localhost:8870", True),
        ("LocalHost.", True),
        ("peer:8870", True),
        ("PEER.:8870", True),
        ("train.example", True),
        ("", True),  # HTTP/1.0
        ("evil.example", False),
        ("evil.example:8870", False),
        ("x.train.example", False),
        ("train.example.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1,evil.example", False),
        ("0x7f.1", False),  # browsers send addresses in the usual form
        ("peer:x", False),
        ("peer..", False),
        ("::1", False),
        ("[::1", False),
        ("[evil.example]", False),
        ("user@localhost", False),
        (":8870", False),
        (".", False),
        (" ", False),
    ],
)
def test_only_addresses_localhost_and_names_that_were_allowed_are_answered(header: str, answered: bool) -> None:
    assert is_answered(header, NAMES) is answered


READS = ["/", "/swarm", "/docs", "/openapi.json", "/health", "/metrics", "/v1/peers", "/v1/events"]


@pytest.mark.parametrize("path", READS)
def test_a_foreign_host_learns_nothing_but_how_to_allow_it(path: str) -> None:
    answer = ask(path, headers={"Host": "evil.example:8870"})
    assert answer.status_code == 421
    (detail,) = answer.json().values()
    assert "'evil.example'" in detail
    assert "--http-allow-host" in detail
    assert ask(path, headers={"Host": "evil.example:8870"}, hosts=("Evil.Example",)).status_code == 200


def test_a_foreign_host_can_change_nothing_with_the_token_either() -> None:
    headers = {"Host": "evil.example", "Authorization": "Bearer 0123456789abcdef"}
    answer = ask("/v1/drain", method="POST", headers=headers, token="0123456789abcdef")
    assert answer.status_code == 421


def test_an_address_to_listen_on_that_is_no_name_allows_none() -> None:
    for served_host in ("::", "0.0.0.0", ""):
        assert ask("/health", headers={"Host": ":1"}, hosts=(served_host,)).status_code == 421


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
    ],
)
def test_over_a_socket(request_head: bytes, status: bytes) -> None:
    with served() as url, socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=5) as client:
        client.sendall(request_head)
        assert client.recv(12).split()[1] == status
