"""What the peer needs of a network: streams to partners, and a directory of them.

Both protocols have a live implementation (`libp2p.py`, `discovery/dht_directory.py`) and a simulated one
(`testing/virtual_network.py`), which pass the same contract tests (`tests/unit/peers/transport/test_interfaces.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from p2p_elastic.common.addresses import PeerAddress
from p2p_elastic.protocol.chunks import Incoming, Outgoing
from p2p_elastic.protocol.messages import Direct
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.roles import Role

S = TypeVar("S", covariant=True)


class Carrier(Protocol):
    """What vectors travel over: a stream, or a direct connection."""

    async def transfer(self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float) -> float:
        """Send all pieces of one side and fill all of the other, at the same time.

        Args:
            outgoing: what to send; None if nothing travels that way.
            incoming: what to fill; None if nothing travels that way.
            gap_seconds: how long one piece may take.

        Returns:
            The longest time that a piece took, in seconds.

        Raises:
            ExchangeTimeout: if a piece took longer than `gap_seconds`.
            RemoteProtocolError: if a chunk was wrong. After an error it can only be aborted.
        """

    def abort(self) -> None:
        """Close at once, dropping what was not handed on. Never raises."""


class Stream(Carrier, Protocol):
    """A full-duplex stream of bytes to one partner, in order, with back-pressure.

    A broken stream raises PartnerUnreachable from `send` and `receive_into`; so does its end. Nothing here has a
    deadline: the caller sets it, and may cancel any call. After a cancelled call the stream can only be aborted.
    """

    relayed: bool
    """Whether it leads through another member."""

    @property
    def partner(self) -> str:
        """The partner's peer id, proven by the transport."""

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`; returns when the next piece may follow.

        Args:
            data: any bytes; not kept after the call.
        """

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill a whole buffer with what the partner sends.

        Args:
            buffer: what to fill; after an error its content means nothing.
        """

    async def close(self) -> None:
        """Close the stream; never raises.

        What the partner has not read may be lost: let the end that reads the last word close first.
        """


class Meeting(Protocol):
    """The way of one exchange to direct connections, at one end. `end` must be called, whatever happens."""

    terms: Direct
    """What the partner is told."""

    async def connect(self, theirs: Direct, streams: int) -> Sequence[Carrier]:
        """Connect, as both ends said.

        Args:
            theirs: what the partner said.
            streams: how many connections.

        Returns:
            As many connections, the same at both ends, in the same order.

        Raises:
            ExchangeError: if there are none; the vectors can still travel over libp2p.
        """

    def end(self, *, whole: bool) -> None:
        """Give the connections back.

        Args:
            whole: whether all that was due came over them; then they are kept for the next time.
        """


class DirectConnections(Protocol):
    """Connects to partners directly, beside the streams of a `Transport`."""

    @property
    def port(self) -> int | None:
        """The TCP port at which this peer is dialled; None: it is not."""

    @property
    def refused(self) -> Mapping[str, int]:
        """Why -> how many connections to that port were turned away."""

    def ask(self, partner: PeerRecord, streams: int, nbytes: int, *, relayed: bool = False) -> Meeting | str:
        """Make ready to ask a partner.

        Args:
            partner: the one to ask.
            streams: how many connections there may be.
            nbytes: what travels each way.
            relayed: whether a relay leads to the partner.

        Returns:
            The way to direct connections; or why there is none.
        """

    def answer(
        self, told: Direct | None, partner: str, record: PeerRecord | None, streams: int, *, relayed: bool = False
    ) -> Meeting | str:
        """Make ready to answer a partner.

        Args:
            told: what it said.
            partner: its peer id, proven.
            record: says where it can be dialled; None if it is not known.
            streams: how many connections.
            relayed: whether a relay leads to the partner.

        Returns:
            The way to direct connections; or why there is none.
        """


class Access(Protocol):
    """Who may take part."""

    def allows(self, peer: str, role: Role = Role.OBSERVER) -> bool:
        """Whether a peer may do something now.

        Args:
            peer: its proven id.
            role: that it needs.

        Returns:
            True for everybody in an open run.
        """


class Introducing(Protocol):
    """Lets this peer and others show each other that they may take part."""

    @property
    def access(self) -> Access:
        """Who may take part."""

    async def ensure(self, peer: str) -> None:
        """See that a connected peer and this one let each other in.

        Args:
            peer: its id.

        Raises:
            NotAdmitted: if one does not.
            PartnerUnreachable: if it does not answer.
        """


Handler = Callable[[Stream], Awaitable[None]]


class Host(Protocol[S]):
    """What opens and serves streams, of the kind `S`, between peers that are connected; any protocol."""

    async def connect(self, peer: str, addresses: Sequence[PeerAddress]) -> None:
        """Connect to a peer.

        Args:
            peer: the peer id, which the host proves.
            addresses: where to dial.

        Raises:
            PartnerUnreachable: if none leads to it.
        """

    async def open_stream(self, peer: str, protocol: str) -> S:
        """Open a stream.

        Args:
            peer: the peer id, which the host proves.
            protocol: that the peer serves.

        Returns:
            The stream.

        Raises:
            PartnerUnreachable: if the peer is not connected or does not serve it.
        """

    async def serve(self, protocol: str, handler: Callable[[S], Awaitable[None]]) -> None:
        """Serve a protocol.

        Args:
            protocol: its name.
            handler: called for each stream.
        """


class Transport(Protocol):
    """Opens streams to partners and serves theirs. A stream that opened does not prove that the partner is there."""

    @property
    def peer(self) -> str:
        """The peer id of this end."""

    @property
    def direct(self) -> DirectConnections:
        """Connections beside the streams."""

    @property
    def access(self) -> Access:
        """Who may take part."""

    async def open(self, record: PeerRecord) -> Stream:
        """Open a stream to a peer.

        Args:
            record: the peer, and the addresses under which it may be reached.

        Returns:
            The stream, for this caller alone to close.

        Raises:
            PartnerUnreachable: if the peer cannot be reached.
        """

    async def serve(self, handler: Handler) -> None:
        """From now on, call a handler for each stream that another peer opens to this one.

        Args:
            handler: gets the stream, which is closed when it returns.
        """

    async def close(self) -> None:
        """Stop serving and cut every stream."""


class Directory(Protocol):
    """Lists the peers of the run. What it returns was checked: each record was signed by the peer that it is about."""

    async def announce(self, record: PeerRecord) -> None:
        """Make this peer's record known until it expires.

        Args:
            record: what this peer says of itself; it replaces the one before.

        Raises:
            DirectoryError: if the record could not be stored; try again later.
        """

    async def own(self, run: str) -> PeerRecord | None:
        """Read the record under this peer's own id, whichever process announced it.

        Args:
            run: the run in which to look.

        Returns:
            The record; None if there is none, or it expired.

        Raises:
            DirectoryError: if the directory does not answer.
        """

    async def withdraw(self) -> None:
        """Take this peer's record back: it leaves the run.

        Raises:
            DirectoryError: if the directory does not answer; then the record expires by itself.
        """

    def want(self, peers: Collection[str]) -> None:
        """From the next look on, see these members, however many there are.

        Args:
            peers: their ids, those that matter most first; not all of them, if they are many.
        """

    def reads(self, peer: str) -> bool:
        """Whether a member would be seen where this peer looks, if it is there.

        Args:
            peer: its id.

        Returns:
            False if this peer reads another part of a large run.
        """

    @property
    def count(self) -> int:
        """How many members there are about, with this peer, by the last look: `members` may be some of them."""

    @property
    def neighbours(self) -> frozenset[str]:
        """The peers that answered this one's directory lately: whoever announces itself need not be there."""

    async def members(self) -> tuple[PeerRecord, ...]:
        """Read the records of the other peers of this peer's run.

        Returns:
            Those that have not expired, in any order.

        Raises:
            DirectoryError: if the directory does not answer.
        """
