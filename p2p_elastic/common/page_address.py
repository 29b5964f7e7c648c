"""Where a member shows its page, told among the multiaddrs of its record: `/ip4/192.0.2.1/tcp/8765/http`.

Peers leave what they cannot dial out, earlier versions too; only the page makes a link of it. Pure functions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from p2p_elastic.common.addresses import is_loopback, read_address
from p2p_elastic.errors import ConfigError

PAGES_MAX = 2  # of one peer: an address for IPv4 and one for IPv6, or of two networks
END = "/http"


def page_addresses(host: str, port: int, own: Iterable[str]) -> tuple[str, ...]:
    """Tell where others find a page.

    Args:
        host: on which it listens: an IP address, 0.0.0.0 or :: for all, or a name.
        port: TCP port on which it listens.
        own: multiaddrs of this peer, for their hosts if it listens on all.

    Returns:
        At most PAGES_MAX multiaddrs; none if only this machine can reach it.

    Example:
        >>> page_addresses("0.0.0.0", 8765, ["/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/1"])
        ('/ip4/192.0.2.1/tcp/8765/http',)
        >>> page_addresses("127.0.0.1", 8765, ["/ip4/192.0.2.1/tcp/1"])
        ()
    """
    hosts = _reachable(host, own) if host in ("0.0.0.0", "::") else [host]  # noqa: S104
    found = (f"/{_protocol(each)}/{each}/tcp/{port}" for each in hosts if not is_loopback(each))
    good = dict.fromkeys(f"{where}{END}" for text in found if (where := _spelled(text)))
    return tuple(good)[:PAGES_MAX]


def is_page(text: str) -> bool:
    """Whether a multiaddr is that of a page, so nothing to dial.

    Args:
        text: the multiaddr, from anybody.

    Returns:
        True if it ends as one.
    """
    return text.endswith(END)


def _reachable(host: str, own: Iterable[str]) -> Iterator[str]:
    """The IP addresses of this peer itself; of one that listens on IPv4 alone only those."""
    for text in own:
        try:
            address = read_address(text, "address")
        except ConfigError:
            continue
        wanted = address.host.protocol == "ip4" or (host == "::" and address.host.protocol == "ip6")
        if wanted and not address.relayed:
            yield address.host.value


def _protocol(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"


def _spelled(text: str) -> str:
    """The address in its usual spelling; empty if nobody can use it, such as one of IPv6 with a zone."""
    try:
        return read_address(text, "http-host").where
    except ConfigError:
        return ""
