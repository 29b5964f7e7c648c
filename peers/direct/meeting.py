"""How two peers come to direct connections for one exchange, by what each tells the other; without sockets.

    asks                                           answers
      held: connections from earlier, idle       ->
                                                  <- held: those to be used, if enough of them are here
      dials, or a port at which it is dialled    ->
                                                  <- a port, or dials itself

The end that asks dials, unless that failed lately; then it is dialled. Whatever fails, the vectors go over libp2p.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeVar

from p2p_elastic.errors import ExchangeError, PartnerUnreachable, RemoteProtocolError
from p2p_elastic.peers.direct.expected import Expected
from p2p_elastic.peers.direct.idle import Connection, IdleConnections
from p2p_elastic.peers.direct.sealing import Agreed
from p2p_elastic.peers.direct.setbacks import Setbacks
from p2p_elastic.protocol.messages import Direct
from p2p_elastic.protocol.records import PeerRecord

S = TypeVar("S")
BYTES_MIN = 2**18  # one way; what is smaller goes over libp2p
OFF, SMALL, FAILED, PARTNER_OFF, NO_WAY = "off", "small", "failed lately", "partner", "no way to dial"
RELAYED = "relayed"
"""Why vectors go over libp2p."""


class Wire(Protocol[S]):
    """Dials, and is dialled: over TCP, or simulated. `S`: a connection."""

    aes: bool
    """Whether AES is fast here."""
    port: int | None
    """At which it is dialled; None: it is not."""
    refused: Counter[str]
    """Why -> how many that were not awaited were turned away."""
    own_port: int | None
    """From which it dials if both ends do; None: it cannot."""

    def hosts_of(self, record: PeerRecord) -> Sequence[str]:
        """Find where a peer may be dialled.

        Args:
            record: the peer's.

        Returns:
            Hosts; none if it cannot be.
        """

    def expect(self, partner: str, token: str) -> Expected[S]:
        """Await a partner's connections, until `forget`.

        Args:
            partner: its peer id.
            token: what it shows.

        Returns:
            What is awaited.
        """

    def forget(self, expected: Expected[S]) -> None:
        """Await these connections no more.

        Args:
            expected: as `expect` gave it.
        """

    async def dial(self, partner: str, hosts: Sequence[str], agreed: Agreed, streams: int) -> Sequence[Connection]:
        """Connect to a partner; without an end of its own.

        Args:
            partner: its peer id.
            hosts: where it may be.
            agreed: what both ends told.
            streams: how many.

        Returns:
            The connections.

        Raises:
            ExchangeError: if there are none.
        """

    async def cross(self, partner: str, there: tuple[str, int], agreed: Agreed, *, dials: bool) -> Sequence[Connection]:
        """Connect to a partner that does the same at this moment; without an end of its own.

        Args:
            partner: its peer id.
            there: the IP address and port at which its router lets it out.
            agreed: what both ends told.
            dials: whether this end is the dialler of `agreed`.

        Returns:
            The only connection.

        Raises:
            ExchangeError: if there is none.
        """


class Kept:
    """What meetings of all partners share.

    Args:
        wire: makes connections.
        rng: for tokens and secrets; unpredictable, but in a simulation.
    """

    def __init__(self, wire: Wire[S], rng: random.Random) -> None:
        self.wire, self._rng = wire, rng
        self.idle, self.setbacks = IdleConnections(), Setbacks()

    def terms(self, *, port: int | None, dials: bool, held: Sequence[Connection], outside: str | None = None) -> Direct:
        """Draw a token and a secret for one meeting.

        Args:
            port: at which this end is dialled; None: it is not.
            dials: whether it dials.
            held: connections that could be, or are, used again.
            outside: the IP address at which this end is seen, if both dial.

        Returns:
            What the partner is told.
        """
        token, secret = f"{self._rng.getrandbits(128):032x}", f"{self._rng.getrandbits(256):064x}"
        names = tuple(one.name for one in held)
        return Direct(
            token=token, secret=secret, aes=self.wire.aes, port=port, dials=dials, outside=outside, held=names
        )


class _Meeting:
    """What both ends have in common."""

    def __init__(self, kept: Kept, partner: str, record: PeerRecord | None) -> None:
        self._kept, self._partner, self._hosts = kept, partner, () if record is None else kept.wire.hosts_of(record)
        self._held: list[Connection] = []
        self._used: list[Connection] = []
        self._expected: Expected[Any] | None = None
        self._ended = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _dial(self, agreed: Agreed, streams: int) -> list[Connection]:
        return await self._noted(self._kept.wire.dial(self._partner, self._hosts, agreed, streams))

    async def _cross(self, theirs: Direct, agreed: Agreed, *, dials: bool) -> list[Connection]:
        if theirs.outside is None or theirs.port is None:
            raise PartnerUnreachable(NO_WAY, partner=self._partner)
        there = theirs.outside, theirs.port
        return await self._noted(self._kept.wire.cross(self._partner, there, agreed, dials=dials))

    async def _noted(self, connecting: Awaitable[Sequence[Connection]]) -> list[Connection]:
        kept = self._kept
        try:
            found = await connecting
        except (ExchangeError, asyncio.CancelledError):  # given up, as a rule, since it takes too long
            kept.setbacks.failed(self._partner, "dial", self._now())
            raise
        kept.setbacks.worked(self._partner, "dial")
        return list(found)

    def _use(self, connections: list[Connection]) -> list[Connection]:
        self._used = connections
        return connections

    def _use_held(self, names: Sequence[str], streams: int) -> list[Connection]:
        chosen = [one for one in self._held if one.name in names]
        if len(chosen) != streams or len(names) != streams:
            raise RemoteProtocolError("answered with connections that are not here", partner=self._partner)
        self._held = [one for one in self._held if one not in chosen]
        return self._use(chosen)

    def end(self, *, whole: bool) -> None:
        """Give the connections back.

        Args:
            whole: whether all that was due came over those that were used; if not, they are closed.
        """
        if self._ended:
            return
        self._ended = True
        if self._expected is not None:
            self._kept.wire.forget(self._expected)
        if self._used and whole:
            self._kept.setbacks.worked(self._partner, "transfer")
        elif self._used:
            self._kept.setbacks.failed(self._partner, "transfer", self._now())
        for one in (*self._held, *(self._used if whole else ())):
            self._kept.idle.keep(one)
        for one in () if whole else self._used:
            one.abort()


class Asking(_Meeting):
    """At the end that asks.

    Args:
        kept: by this peer.
        record: of the partner.
        streams: how many connections at most.
        outside: the IP address at which this end is seen, if a relay leads to the partner: then both dial.
    """

    def __init__(self, kept: Kept, record: PeerRecord, streams: int, outside: str | None = None) -> None:
        super().__init__(kept, record.peer, record)
        self._held = kept.idle.take(record.peer, streams)
        if outside is not None:
            self.terms = kept.terms(port=kept.wire.own_port, dials=True, held=self._held, outside=outside)
            return
        dials = bool(self._hosts) and not kept.setbacks.lately(record.peer, "dial", self._now())
        self.terms = kept.terms(port=None if dials else kept.wire.port, dials=dials, held=self._held)
        if self.terms.port is not None:  # the partner may dial before its answer is heard
            self._expected = kept.wire.expect(record.peer, self.terms.token)

    async def connect(self, theirs: Direct, streams: int) -> list[Connection]:
        """Connect, as `Meeting.connect` says.

        Args:
            theirs: what the partner answered.
            streams: how many connections.

        Returns:
            The connections.

        Raises:
            ExchangeError: if there are none.
        """
        if theirs.held:
            return self._use_held(theirs.held, streams)
        if self.terms.outside is not None:
            return self._use(await self._cross(theirs, Agreed(dialler=self.terms, listener=theirs), dials=True))
        if theirs.dials and self._expected is not None:
            self._expected.agree(Agreed(dialler=theirs, listener=self.terms), streams)
            return self._use(await self._expected.all_here())
        if theirs.port is None or not self.terms.dials:
            raise RemoteProtocolError("answered with no way to connect directly", partner=self._partner)
        return self._use(await self._dial(Agreed(dialler=self.terms, listener=theirs), streams))


class Answering(_Meeting):
    """At the end that answers. Raises PartnerUnreachable if there is no way.

    Args:
        kept: by this peer.
        told: what the partner says.
        partner: its peer id.
        record: says where it can be dialled; None if it is not known.
        streams: how many connections.
        outside: the IP address at which this end is seen, if a relay leads to the partner: then both dial.
    """

    def __init__(
        self,
        kept: Kept,
        told: Direct,
        partner: str,
        record: PeerRecord | None,
        streams: int,
        outside: str | None = None,
    ) -> None:
        super().__init__(kept, partner, record)
        self._dialling: asyncio.Task[list[Connection]] | None = None
        self._held = kept.idle.take(partner, streams, told.held)
        if len(self._held) == streams:
            self.terms = kept.terms(port=None, dials=False, held=self._held)
            return
        for one in self._held:
            kept.idle.keep(one)
        self._held = []
        lately = kept.setbacks.lately(partner, "dial", self._now())
        if told.outside is not None and outside is not None and not lately:
            self.terms = kept.terms(port=kept.wire.own_port, dials=True, held=(), outside=outside)
            agreed = Agreed(dialler=told, listener=self.terms)
            self._dialling = asyncio.ensure_future(self._cross(told, agreed, dials=False))
        elif told.outside is not None or outside is not None:
            raise PartnerUnreachable(RELAYED, partner=partner)
        elif told.dials and kept.wire.port is not None:
            self.terms = kept.terms(port=kept.wire.port, dials=False, held=())
            self._expected = kept.wire.expect(partner, self.terms.token)
            self._expected.agree(Agreed(dialler=told, listener=self.terms), streams)
        elif told.port is None or not self._hosts or lately:
            raise PartnerUnreachable(NO_WAY, partner=partner)
        else:
            self.terms = kept.terms(port=None, dials=True, held=())
            self._dialling = asyncio.ensure_future(self._dial(Agreed(dialler=self.terms, listener=told), streams))

    async def connect(self, _theirs: Direct, streams: int) -> list[Connection]:
        """Connect, as `Meeting.connect` says: the partner has said that all connections are there.

        Args:
            streams: how many connections.

        Returns:
            The connections.

        Raises:
            ExchangeError: if there are none.
        """
        if self._held:
            return self._use_held([one.name for one in self._held], streams)
        if self._dialling is not None:
            return self._use(await self._dialling)
        assert self._expected is not None, "an answer names a way"
        return self._use(await self._expected.all_here())

    def end(self, *, whole: bool) -> None:
        """Give the connections back.

        Args:
            whole: whether all that was due came over those that were used; if not, they are closed.
        """
        super().end(whole=whole)
        if self._dialling is not None and not self._used:
            self._dialling.cancel()
            self._dialling.add_done_callback(_close_unused)


def _close_unused(dialling: asyncio.Task[list[Connection]]) -> None:
    if not dialling.cancelled() and dialling.exception() is None:
        for one in dialling.result():
            one.close()
