"""Addresses of peers as multiaddrs: read, checked and spelled in one way. Pure functions; no name is looked up.

Only what p2pd can dial with the options of this package is read. Source of names, codes and values:
github.com/multiformats/multiaddr.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from p2p_elastic.errors import ConfigError

CHARACTERS_MAX = 200  # as in a peer's record
SHOWN_MAX = 80  # characters of a wrong address in the error
EXAMPLE = "a multiaddr such as /ip4/192.168.1.7/tcp/31330/p2p/12D3Koo..."
DIALABLE = (
    "an IP address or a name (/ip4, /ip6, /dns, /dns4, /dns6) with /tcp/PORT, which may be followed by /ws, /wss or "
    "/tls/ws, or with /udp/PORT/quic-v1; or /dnsaddr/NAME"
)
SHAPE = re.compile(
    r"(?:(?:ip4|ip6|dns|dns4|dns6)/(?:tcp(?:/ws|/wss|/tls/ws)?|udp/quic-v1)|dnsaddr)(?:/p2p/p2p-circuit)?(?P<peer>/p2p)?"
)
LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
NAME_MAX = 253
LIBP2P_KEY = b"\x01\x72"  # begins a peer id that is written as CIDv1
IDENTITY_BYTES_MAX, SHA256_BYTES = 42, 32


class Component(NamedTuple):
    """One protocol of an address with its value.

    Attributes:
        protocol: name, such as `ip4` or `tcp`.
        value: as text, in its usual spelling; empty if the protocol has none.
        packed: code and value as bytes.
    """

    protocol: str
    value: str
    packed: bytes

    def __str__(self) -> str:
        return f"/{self.protocol}/{self.value}" if self.value else f"/{self.protocol}"


class PeerAddress(NamedTuple):
    """Where to dial, and the peer that is meant there.

    Attributes:
        parts: the protocols on the way, the host first.
        peer: peer id in base58; empty if the address does not name it.
    """

    parts: tuple[Component, ...]
    peer: str = ""

    @property
    def where(self) -> str:
        """The address without the peer that it leads to."""
        return "".join(map(str, self.parts))

    @property
    def packed(self) -> bytes:
        """`where` in the binary form that p2pd reads."""
        return b"".join(part.packed for part in self.parts)

    @property
    def host(self) -> Component:
        """The first part: an IP address or a name."""
        return self.parts[0]

    @property
    def relayed(self) -> bool:
        """Whether the host is that of a relay."""
        return self.parts[-1].protocol == "p2p-circuit"

    @property
    def tcp_port(self) -> int | None:
        """The port that is dialled over TCP; with a relay the relay's. None for UDP and `/dnsaddr`."""
        return int(self.parts[1].value) if self.parts[1:] and self.parts[1].protocol == "tcp" else None

    def __str__(self) -> str:
        return f"{self.where}/p2p/{self.peer}" if self.peer else self.where


def parse_address(text: str, key: str = "initial-peer") -> PeerAddress:
    """Read an address that names its peer.

    Args:
        text: a multiaddr, as users write it.
        key: option in the error.

    Returns:
        The address, in its usual spelling.

    Raises:
        ConfigError: if it cannot be dialled or names no peer; the message says what is wrong with it.

    Example:
        >>> peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
        >>> address = parse_address(f"/ip4/192.168.1.7/tcp/31330/ipfs/{peer}")
        >>> address.where, address.tcp_port, address.peer == peer
        ('/ip4/192.168.1.7/tcp/31330', 31330, True)
    """
    address = read_address(text, key)
    if not address.peer:
        raise _incomplete(text, key)
    return address


def announced(text: str, peer: str) -> str:
    """Read an address for `--announce`.

    Args:
        text: a multiaddr, with or without the peer id at its end.
        peer: id of this peer.

    Returns:
        The address without the peer id.

    Raises:
        ConfigError: if it cannot be dialled, names another peer, or is too long with the peer id.
    """
    address = read_address(text, "announce")
    if address.peer not in ("", peer):
        raise ConfigError("announce", text, f"it names another peer; this one is {peer}: leave /p2p/{address.peer} out")
    if len(address.where) + len(f"/p2p/{peer}") > CHARACTERS_MAX:
        raise _too_long(text, "announce")
    return address.where


def usable(peer: str, addresses: Sequence[str], *, relayed: bool = False) -> tuple[PeerAddress, ...]:
    """Keep those of a stranger's addresses that can be dialled and lead to `peer`. Never raises.

    Args:
        peer: id of the stranger.
        addresses: multiaddrs that it announced, unchecked.
        relayed: True for those that lead through a relay, instead of the others.

    Returns:
        The good ones in their order, each with the peer id.
    """
    found = []
    for text in addresses:
        try:
            address = read_address(text, "address")
        except ConfigError:
            continue
        if address.peer in ("", peer) and address.relayed == relayed:
            found.append(address._replace(peer=peer))
    return tuple(found)


def read_address(text: str, key: str) -> PeerAddress:
    """Read a multiaddr that can be dialled, with or without a peer id at its end.

    Args:
        text: a multiaddr of at most CHARACTERS_MAX characters.
        key: option in the error.

    Returns:
        The address, in its usual spelling.

    Raises:
        ConfigError: if it cannot be dialled; the message says what is wrong with it.
    """
    if len(text) > CHARACTERS_MAX:
        raise _too_long(text, key)
    if not text.startswith("/"):
        raise ConfigError(key, text, f"not {EXAMPLE} (it must begin with /)")
    parts = list(_parts(text, key))
    match = SHAPE.fullmatch("/".join(part.protocol for part in parts))
    if match is None:
        raise _incomplete(text, key)
    peer = parts.pop().value if match["peer"] else ""
    address = PeerAddress(tuple(parts), peer)
    if len(str(address)) > CHARACTERS_MAX:  # a name spelled in ASCII is longer
        raise _too_long(text, key)
    return address


def host_of(text: str) -> str:
    """The host in a multiaddr.

    Args:
        text: the multiaddr, from anybody.

    Returns:
        An IP address or a name; empty if the multiaddr cannot be dialled.

    Example:
        >>> host_of("/ip4/192.0.2.1/tcp/31330"), host_of("nonsense")
        ('192.0.2.1', '')
    """
    try:
        return read_address(text, "address").host.value
    except ConfigError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host.

    Args:
        host: an IP address or a name.

    Returns:
        True for a loopback address and for `localhost`.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening_host(host: str) -> str:
    """Check an IP address to listen on.

    Args:
        host: IPv4 or IPv6, without a zone.

    Returns:
        The same in its usual spelling.

    Raises:
        ConfigError: if it is no IP address.

    Example:
        >>> listening_host("0:0::1")
        '::1'
    """
    try:
        if "%" in host:
            raise ValueError("zone")
        return str(ipaddress.ip_address(host))
    except ValueError as error:
        raise ConfigError(
            "host", host, "an IP address of this machine, such as 192.168.1.7 or ::1; 0.0.0.0 is all of IPv4"
        ) from error


# -- parts -------------------------------------------------------------------------------------------------------------


def _parts(text: str, key: str) -> Iterator[Component]:
    words = iter(text[1:].rstrip("/").split("/"))
    for word in words:
        protocol = "p2p" if word == "ipfs" else word  # its name until 2019
        if protocol not in PROTOCOLS:
            raise ConfigError(key, text, f"{word[:SHOWN_MAX]!r} cannot be dialled here; what can: {DIALABLE}")
        code, read = PROTOCOLS[protocol]
        if read is None:
            yield Component(protocol, "", _varint(code))
            continue
        value = next(words, "")
        try:
            shown, packed = read(value)
        except ValueError as error:
            raise ConfigError(key, text, f"not {EXAMPLE} (/{word}/{value[:SHOWN_MAX]}: {error})") from error
        yield Component(protocol, shown, _varint(code) + packed)


def _ip4(text: str) -> tuple[str, bytes]:
    return _usable_ip(ipaddress.IPv4Address(text))


def _ip6(text: str) -> tuple[str, bytes]:
    if "%" in text:
        raise ValueError("a zone cannot be dialled")
    return _usable_ip(ipaddress.IPv6Address(text))


def _usable_ip(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[str, bytes]:
    if ip.is_unspecified:
        raise ValueError("it means every address of a machine: give one of them")
    return str(ip), ip.packed


def _port(text: str) -> tuple[str, bytes]:
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not 1 <= int(text) <= 65535:
        raise ValueError("a port from 1 to 65535")
    return str(int(text)), int(text).to_bytes(2, "big")


def _name(text: str) -> tuple[str, bytes]:
    try:
        ascii_name = text.encode("idna").decode().lower()
    except UnicodeError as error:
        raise ValueError("no host name") from error
    if len(ascii_name) > NAME_MAX or not all(map(LABEL.fullmatch, ascii_name.removesuffix(".").split("."))):
        raise ValueError("no host name")
    return ascii_name, _prefixed(ascii_name.encode())


def _peer(text: str) -> tuple[str, bytes]:
    import base58

    peer = _peer_bytes(text)
    code, length = peer[:1], len(peer) - 2
    known = (code == b"\x00" and 1 <= length <= IDENTITY_BYTES_MAX) or (code == b"\x12" and length == SHA256_BYTES)
    if not known or peer[1] != length:
        raise ValueError("no peer id: copy it whole")
    return base58.b58encode(peer).decode(), _prefixed(peer)


def _peer_bytes(text: str) -> bytes:
    """Read a peer id as it is usually written, in base58, or as CIDv1 in base 32, 36 or 58."""
    import base58  # here, so that the doctor can say that it is missing

    if not re.fullmatch(r"[A-Za-z0-9]+", text):
        raise ValueError("no peer id: copy it whole")
    if text.startswith(("1", "Qm")):
        return bytes(base58.b58decode(text))
    base, digits = text[0], text[1:]
    if base == "b":
        cid = base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
    elif base == "k":
        number = int(digits or "0", 36)
        cid = number.to_bytes((number.bit_length() + 7) // 8, "big")
    elif base == "z":
        cid = base58.b58decode(digits)
    else:
        raise ValueError("no peer id: it begins with 12D3Koo, as a rule")
    if not cid.startswith(LIBP2P_KEY):
        raise ValueError("the id of something else than a peer")
    return cid[len(LIBP2P_KEY) :]


def _varint(number: int) -> bytes:
    """Encode a number below 2^14."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


def _prefixed(value: bytes) -> bytes:
    return _varint(len(value)) + value


PROTOCOLS: Mapping[str, tuple[int, Callable[[str], tuple[str, bytes]] | None]] = {
    "ip4": (4, _ip4),
    "ip6": (41, _ip6),
    "dns": (53, _name),
    "dns4": (54, _name),
    "dns6": (55, _name),
    "dnsaddr": (56, _name),
    "tcp": (6, _port),
    "udp": (273, _port),
    "ws": (477, None),
    "wss": (478, None),
    "tls": (448, None),
    "quic-v1": (461, None),
    "p2p": (421, _peer),
    "p2p-circuit": (290, None),
}
"""Name -> code, and how its value is read, to text and bytes; None if it has no value."""


# -- errors ------------------------------------------------------------------------------------------------------------


def _incomplete(text: str, key: str) -> ConfigError:
    return ConfigError(
        key, text, f"incomplete; give {EXAMPLE}, port and peer id included. What can be dialled here: {DIALABLE}"
    )


def _too_long(text: str, key: str) -> ConfigError:
    return ConfigError(key, f"{text[:SHOWN_MAX]}...", f"at most {CHARACTERS_MAX} characters")
