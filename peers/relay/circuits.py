"""What peers and relays say to each other, and the addresses of peers that are reached through a relay.

peer -> relay      PLACE, its own addresses: dial me, or keep a place for me
peer -> relay      CIRCUIT, a peer id: lead me to it
relay -> peer      a verdict, and why
relay -> target    a peer id: it is led to you; from then on the relay passes on what comes, both ways
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from p2p_elastic.common.addresses import PeerAddress, read_address, usable
from p2p_elastic.errors import ConfigError, RemoteProtocolError
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.messages import printable

PROTOCOL, RELAYED = "/p2p-elastic/relay/1", "/p2p-elastic/relayed/1"
CIRCUIT = "/p2p-circuit"
CIRCUITS_MAX = 3  # of one record that are tried
TEXT_BYTES_MAX = 2048
HEAD = struct.Struct("!BH")


class Wish(enum.IntEnum):
    """What a peer asks a relay for."""

    PLACE, CIRCUIT = 1, 2


class Verdict(enum.IntEnum):
    """What comes of it."""

    REFUSED = 0
    GRANTED = 1
    REACHED = 2  # the peer can be dialled: it needs no place
    NO_RELAY = 3  # the peer cannot be dialled, and there is no place here
    NOT_HERE = 4  # whom it should lead to has no place


class Answer(NamedTuple):
    """What a relay answers.

    Attributes:
        verdict: what comes of the wish.
        text: why; for a place, the IP address at which the relay sees the peer.
    """

    verdict: Verdict
    text: str


class Circuit(NamedTuple):
    """A way to a peer through a relay.

    Attributes:
        relay: its peer id.
        where: its addresses.
    """

    relay: str
    where: tuple[PeerAddress, ...]


def circuits(peer: str, addresses: Sequence[str]) -> tuple[Circuit, ...]:
    """Find the relays through which a peer says that it is reached.

    Args:
        peer: its id.
        addresses: multiaddrs that it announced, unchecked.

    Returns:
        CIRCUITS_MAX of them at most.

    Example:
        >>> peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
        >>> relay = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
        >>> found = circuits(peer, ["/ip4/10.0.0.7/tcp/1", f"/ip4/192.0.2.1/tcp/4001/p2p/{relay}/p2p-circuit"])
        >>> found[0].relay == relay, found[0].where[0].where
        (True, '/ip4/192.0.2.1/tcp/4001')
    """
    found = []
    for address in usable(peer, [text for text in addresses if CIRCUIT in text], relayed=True):  # most have none
        relay = address.parts[-2].value
        found.append(Circuit(relay, (PeerAddress(address.parts[:-2], relay),)))
    return tuple(found[:CIRCUITS_MAX])


def circuit_address(relay: str, addresses: Sequence[str]) -> str | None:
    """Write the address of whoever has a place at a relay.

    Args:
        relay: its peer id.
        addresses: multiaddrs that it announced, unchecked.

    Returns:
        A multiaddr without the peer id at its end; None if the relay has no address.
    """
    direct = usable(relay, addresses)
    if not direct:
        return None
    try:
        return str(read_address(f"{direct[0].where}/p2p/{relay}{CIRCUIT}", "relay"))
    except ConfigError:  # too long
        return None


async def say(stream: Stream, what: Wish | Verdict | None, text: str) -> None:
    """Send a wish, a verdict or a peer id.

    Args:
        stream: to the other end.
        what: the wish or verdict; None: a peer id.
        text: what belongs to it; what is too long of it is left out.

    Raises:
        PartnerUnreachable: if the stream broke.
    """
    body = text.encode()[:TEXT_BYTES_MAX]
    await stream.send(HEAD.pack(what or 0, len(body)) + body)


async def hear(stream: Stream) -> tuple[int, str]:
    """Receive what `say` sent. Its length is checked before there is memory for it.

    Args:
        stream: from the other end.

    Returns:
        The number of a wish or verdict, and the text.

    Raises:
        PartnerUnreachable: if the stream broke.
        RemoteProtocolError: if it is too long, or no text.
    """
    head = bytearray(HEAD.size)
    await stream.receive_into(memoryview(head))
    what, length = HEAD.unpack(head)
    if length > TEXT_BYTES_MAX:
        raise RemoteProtocolError(f"{length} bytes where at most {TEXT_BYTES_MAX} may come", partner=stream.partner)
    body = bytearray(length)
    await stream.receive_into(memoryview(body))
    try:
        return what, body.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("no text", partner=stream.partner) from error


async def hear_answer(stream: Stream) -> Answer:
    """Receive a relay's answer.

    Args:
        stream: from the relay.

    Returns:
        The answer; its text can be shown.

    Raises:
        PartnerUnreachable: if the stream broke.
        RemoteProtocolError: if it is none.
    """
    what, text = await hear(stream)
    try:
        return Answer(Verdict(what), printable(text))
    except ValueError as error:
        raise RemoteProtocolError(f"an unknown verdict: {what}", partner=stream.partner) from error
