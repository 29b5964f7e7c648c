"""What the peer needs of a network: streams to partners, and a directory of them.

Both protocols have a live implementation (`libp2p.py`, `discovery/dht_directory.py`) and a simulated one
(`testing/virtual_network.py`), which pass the same contract tests (`tests/unit/peers/transport/test_interfaces.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from p2p_elastic.protocol.chunks import Incoming, Outgoing
from p2p_elastic.protocol.records import PeerRecord


class Stream(Protocol):
    """A full-duplex stream of bytes to one partner, in order, with back-pressure.

    A broken stream raises PartnerUnreachable from `send` and `receive_into`; so does its end. Nothing here has a
    deadline: the caller sets it, and may cancel any call. After a cancelled call the stream can only be aborted.
    """

    @property
    def partner(self) -> str:
        """The partner's peer id, proven by the transport."""

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`; returns when the next piece may follow. `data` is not kept."""

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill the whole `buffer`."""

    async def transfer(self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float) -> float:
        """Send all pieces of the one, fill all of the other, at the same time; the longest that a piece took, in
        seconds.

        Raises:
            ExchangeTimeout: a piece took longer than `gap_seconds`.
            RemoteProtocolError: a chunk was wrong. Then, too, the stream can only be aborted.
        """

    async def close(self) -> None:
        """Close; never raises. What the partner has not read may be lost: let who reads the last word close first."""

    def abort(self) -> None:
        """Close at once, dropping what was not handed on. Never raises."""


Handler = Callable[[Stream], Awaitable[None]]


class Transport(Protocol):
    """Opens streams to partners and serves theirs. A stream that opened does not prove that the partner is there."""

    @property
    def peer(self) -> str:
        """Our own peer id."""

    async def open(self, record: PeerRecord) -> Stream:
        """A stream to that peer. Raises PartnerUnreachable."""

    async def serve(self, handler: Handler) -> None:
        """From now on, call `handler` for each stream opened to us; it is closed when the handler returns."""

    async def close(self) -> None:
        """Stop serving and cut every stream."""


class Directory(Protocol):
    """Who is in the run. What it returns was checked: each record was signed by the peer that it is about."""

    async def announce(self, record: PeerRecord) -> None:
        """Make our record known until it expires. Raises DirectoryError."""

    async def own(self, run: str) -> PeerRecord | None:
        """The record in that run under our own peer id, whichever process announced it. Raises DirectoryError."""

    async def withdraw(self) -> None:
        """Take our record back. Raises DirectoryError."""

    async def members(self) -> tuple[PeerRecord, ...]:
        """The records of the other peers of our run that have not expired. Raises DirectoryError."""
