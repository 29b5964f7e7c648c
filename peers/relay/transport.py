"""Streams to partners: directly if that works, and otherwise through a relay at which the partner has a place."""

from __future__ import annotations

import asyncio

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.relay.circuits import circuits
from p2p_elastic.peers.relay.places import Places
from p2p_elastic.peers.relay.service import Relay
from p2p_elastic.peers.transport.interfaces import Access, DirectConnections, Handler, Stream, Transport
from p2p_elastic.protocol.records import PeerRecord

DIRECT_SECONDS = 1.0  # that a direct way gets, if there is one through a relay
HIDDEN_SECONDS, HIDDEN_MAX = 300.0, 256  # so long no direct way to a peer is tried again


class RelayedTransport:
    """`Transport` over another one and, if that does not lead to a peer, through relays.

    Args:
        inner: opens and serves streams between peers that are connected.
        places: at relays, of this peer; through it streams come, too.
        relay: what this peer does for others.

    Attributes:
        places, relay: as given.
    """

    def __init__(self, inner: Transport, places: Places, relay: Relay) -> None:
        self._inner, self.places, self.relay = inner, places, relay
        self._hidden: dict[str, float] = {}  # peer id -> until when, by the event loop's clock

    @property
    def peer(self) -> str:
        """The peer id of this end."""
        return self._inner.peer

    @property
    def direct(self) -> DirectConnections:
        """Connections beside the streams."""
        return self._inner.direct

    @property
    def access(self) -> Access:
        """Who may take part."""
        return self._inner.access

    async def open(self, record: PeerRecord) -> Stream:
        """Open a stream to a peer.

        Args:
            record: the peer, its addresses, and the relays at which it has a place.

        Returns:
            The stream.

        Raises:
            PartnerUnreachable: if the peer cannot be reached.
        """
        ways = [way for way in circuits(record.peer, record.places) if way.relay != self.peer]
        if not ways:
            return await self._inner.open(record)
        now = asyncio.get_running_loop().time()
        if self._hidden.pop(record.peer, now) <= now:
            try:
                return await wait_for(self._inner.open(record), DIRECT_SECONDS)
            except (PartnerUnreachable, asyncio.TimeoutError):
                pass  # as others find, too, or it would have no place
        stream = await self.places.reach(record.peer, ways)
        self._hidden[record.peer] = now + HIDDEN_SECONDS
        forget_oldest(self._hidden, HIDDEN_MAX)
        return stream

    async def serve(self, handler: Handler) -> None:
        """From now on, call a handler for each exchange stream that another peer opens, itself or through a relay.

        Args:
            handler: gets the stream, which is closed when it returns.
        """
        self.places.handler = handler
        await self._inner.serve(handler)

    async def close(self) -> None:
        """Stop serving and cut every stream."""
        self.places.handler = None
        await self._inner.close()
