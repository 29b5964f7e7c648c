from __future__ import annotations

import pytest

from p2p_elastic.common.addresses import usable
from p2p_elastic.common.page_address import PAGES_MAX, is_page, page_addresses

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
OWN = [
    "/ip4/127.0.0.1/tcp/31330",
    "/ip4/192.0.2.1/tcp/31330",
    "/ip4/192.0.2.1/udp/31330/quic-v1",
    "/ip6/::1/tcp/31330",
    "/ip6/2001:db8::1/tcp/31330",
    f"/ip4/198.51.100.1/tcp/1/p2p/{PEER}/p2p-circuit",
    "/dns/peer.example/tcp/31330",
    "nonsense",
]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", ()),
        ("::1", ()),
        ("localhost", ()),
        ("0.0.0.0", ("/ip4/192.0.2.1/tcp/8765/http",)),
        ("::", ("/ip4/192.0.2.1/tcp/8765/http", "/ip6/2001:db8::1/tcp/8765/http")),
        ("192.168.1.7", ("/ip4/192.168.1.7/tcp/8765/http",)),
        ("2001:DB8:0::7", ("/ip6/2001:db8::7/tcp/8765/http",)),
        ("Peer.Example", ("/dns/peer.example/tcp/8765/http",)),
        ("fe80::1%eth0", ()),
    ],
)
def test_a_page_is_told_where_others_can_reach_it(host: str, expected: tuple[str, ...]) -> None:
    assert page_addresses(host, 8765, OWN) == expected


def test_a_peer_with_many_addresses_tells_few_pages() -> None:
    assert len(page_addresses("0.0.0.0", 8765, [f"/ip4/192.0.2.{i}/tcp/1" for i in range(1, 9)])) == PAGES_MAX


def test_nobody_dials_a_page() -> None:
    page = page_addresses("192.0.2.1", 8765, [])[0]
    assert is_page(page)
    assert [str(address) for address in usable(PEER, (page, OWN[1]))] == [f"{OWN[1]}/p2p/{PEER}"]
    assert not any(map(is_page, OWN))
