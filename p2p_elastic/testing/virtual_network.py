"""A simulated network: the same `Peer` in virtual time, seeded and repeatable.

Faults live here, as verdicts of the network on each open and each piece sent; production code has none. A run on
`VirtualClockLoop` takes no longer than its computations do, however many simulated hours pass, and fails at once with
`SimulationDeadlock` if everybody waits for ever.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from p2p_elastic.errors import DirectoryError, PartnerUnreachable
from p2p_elastic.peers.direct.connections import Connections, NoConnections
from p2p_elastic.peers.discovery.dht_keys import Shown
from p2p_elastic.peers.discovery.member_shards import MemberShards
from p2p_elastic.peers.discovery.view import view_of
from p2p_elastic.peers.transport.everybody import Everybody
from p2p_elastic.peers.transport.interfaces import Access, DirectConnections, Handler
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.records import PeerRecord, read_record, record_body
from p2p_elastic.testing.faults import Event, Judge, Kind, Verdict
from p2p_elastic.testing.virtual_direct import SimulatedWire
from p2p_elastic.testing.virtual_entries import Entries, Table
from p2p_elastic.testing.virtual_stream import Pipe, SimulatedStream

PASS = Verdict()


@dataclass
class SimulatedNetwork:
    """Everything between the simulated peers.

    Attributes:
        judge: gives the verdict on each event; None: all pass.
        faults: counts the verdicts other than pass, by action.
        handlers: peer id -> the handler of each process with that id; the last one serves.
        records: peer id -> its record, and until when it lives, in virtual seconds.
        entries: what a DHT would hold, by key.
        beyond: peer id -> the entries that it reaches instead, while the DHT is split.
        tasks: those that serve streams.
        streams: peer id -> its open ends of streams, in the order of opening.
        direct: whether vectors travel over direct connections, however small they are.
        wires: peer id -> what dials and listens for these.
        access: who may do what.
    """

    judge: Judge | None = None
    faults: Counter[str] = field(default_factory=Counter)
    handlers: dict[str, list[Handler]] = field(default_factory=dict)
    records: dict[str, tuple[PeerRecord, float]] = field(default_factory=dict)
    entries: Table = field(default_factory=lambda: defaultdict(Entries))
    beyond: dict[str, Table] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    streams: defaultdict[str, dict[SimulatedStream, None]] = field(default_factory=lambda: defaultdict(dict))
    direct: bool = False
    wires: dict[str, SimulatedWire] = field(default_factory=dict)
    access: Access = field(default_factory=Everybody)

    def verdict(self, source: str, target: str, kind: Kind, **about: int) -> Verdict:
        """Ask for the verdict on one event, and count it if it is a fault.

        Args:
            source: as in `Event`.
            target: as in `Event`.
            kind: as in `Event`.
            **about: `nbytes` and `number` of `Event`, of a piece.

        Returns:
            The verdict.
        """
        if self.judge is None:
            return PASS
        now = asyncio.get_running_loop().time()
        verdict = self.judge(Event(source, target, kind, about.get("nbytes", 0), about.get("number", 0), now))
        if verdict.action != "pass":
            self.faults[verdict.action] += 1
        return verdict

    def reached(self, peer: str) -> Table:
        """Find the entries that a peer reads and writes.

        Args:
            peer: its id.

        Returns:
            Those of all, or those beyond a split.
        """
        return self.beyond.get(peer, self.entries)

    def transport(self, peer: str) -> SimulatedTransport:
        """Make the transport of one peer.

        Args:
            peer: its id; several processes may have the same.

        Returns:
            The transport.
        """
        if not self.direct:
            return SimulatedTransport(self, peer, NoConnections())
        wire = SimulatedWire(self, peer)
        return SimulatedTransport(self, peer, Connections(wire, random.Random(f"{peer} direct"), bytes_min=0))

    def directory(self, peer: str, ttl_seconds: float = 60.0) -> SimulatedDirectory:
        """Make the directory of one peer.

        Args:
            peer: its id.
            ttl_seconds: how long its announcements live.

        Returns:
            The directory.
        """
        return SimulatedDirectory(self, peer, ttl_seconds)


class SimulatedTransport:
    """`Transport` over a SimulatedNetwork.

    Args:
        network: the network.
        peer: the id of this end.
        direct: connections beside it.
    """

    def __init__(self, network: SimulatedNetwork, peer: str, direct: DirectConnections) -> None:
        self._network, self.peer, self.direct, self.access = network, peer, direct, network.access
        self._handler: Handler | None = None

    async def open(self, record: PeerRecord) -> SimulatedStream:
        """Open a stream to a peer.

        Args:
            record: the peer; its addresses do not matter.

        Returns:
            The stream.

        Raises:
            PartnerUnreachable: if no peer of that id serves, or the verdict is not pass.
        """
        partner = record.peer
        verdict = self._network.verdict(self.peer, partner, "open")
        await asyncio.sleep(verdict.seconds)
        if verdict.action != "pass" or partner not in self._network.handlers:
            raise PartnerUnreachable("nobody answers there", partner=partner)
        there, back = Pipe(self._network, self.peer, partner), Pipe(self._network, partner, self.peer)
        served = SimulatedStream(self.peer, back, there, self._network.streams[partner])
        task = asyncio.ensure_future(self._serve(partner, served))
        self._network.tasks.add(task)
        task.add_done_callback(self._network.tasks.discard)
        return SimulatedStream(partner, there, back, self._network.streams[self.peer])

    async def _serve(self, partner: str, stream: SimulatedStream) -> None:
        handlers = self._network.handlers.get(partner)
        try:
            if handlers:
                await handlers[-1](stream)
        finally:
            await stream.close()

    async def serve(self, handler: Handler) -> None:
        """From now on, call a handler for each stream that another peer opens.

        Args:
            handler: gets the stream, which is closed when it returns.
        """
        self._handler = handler
        self._network.handlers.setdefault(self.peer, []).append(handler)

    async def close(self) -> None:
        """End serving; if this transport never served, that of every process with this peer id."""
        others = [h for h in self._network.handlers.pop(self.peer, []) if self._handler not in (None, h)]
        if others:
            self._network.handlers[self.peer] = others
        for stream in list(self._network.streams.pop(self.peer, {})):
            stream.abort()


class SimulatedEntries:
    """What a peer reads of the entries of a SimulatedNetwork, as nodes of a DHT would show them.

    Args:
        network: the network.
        peer: the id of who reads.
    """

    def __init__(self, network: SimulatedNetwork, peer: str) -> None:
        self._network, self._peer = network, peer

    async def get(self, key: str) -> Mapping[str, bytes]:
        """Read all entries under a key.

        Args:
            key: where.

        Returns:
            Peer id -> body, of those that have not expired.
        """
        return dict(self._there(key))

    def _there(self, key: str) -> Mapping[str, bytes]:
        return self._network.reached(self._peer)[key].alive(asyncio.get_running_loop().time())

    async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
        """Read a view of the entries under a key.

        Args:
            key: where.
            wanted: peer ids whose entries are wanted in any case.
            most: how many entries are wanted.

        Returns:
            What there is.
        """
        bodies = self._there(key)
        view = view_of(self._peer, bodies, wanted, most, str)
        return Shown({peer: body for peer, body in bodies.items() if peer in view}, len(bodies))


_read = lru_cache(maxsize=2**16)(read_record)  # each entry is read by many


class SimulatedDirectory:
    """`Directory` over a SimulatedNetwork: announcements may be lost, and expire.

    Up to VIEW_MAX members see all of each other. Of more each sees what `MemberShards` reads, as over a DHT.

    Args:
        network: the network.
        peer: the id of this peer.
        ttl_seconds: how long its announcements live.
    """

    def __init__(self, network: SimulatedNetwork, peer: str, ttl_seconds: float) -> None:
        self._network, self._peer, self._ttl_seconds = network, peer, ttl_seconds
        self._announcing = asyncio.Lock()
        self._shards = MemberShards(SimulatedEntries(network, peer), peer)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def announce(self, record: PeerRecord) -> None:
        """Make this peer's record known until it expires.

        Args:
            record: what this peer says of itself.

        Raises:
            DirectoryError: if it is another peer's record, or the verdict is not pass.
        """
        if record.peer != self._peer:
            raise DirectoryError(f"{self._peer} cannot announce {record.peer}")
        async with self._announcing:
            verdict = self._network.verdict(self._peer, "*", "announce")
            await asyncio.sleep(verdict.seconds)
            if verdict.action != "pass":
                raise DirectoryError("the announcement was lost")
            expires = self._now() + self._ttl_seconds
            if self._is_large:
                record = record.model_copy(update={"about": self._shards.count})
            self._network.records[self._peer] = record, expires
            self._put(record, expires)

    @property
    def _is_large(self) -> bool:
        return len(self._network.records) > VIEW_MAX

    def _put(self, record: PeerRecord, expires: float) -> None:
        body = record_body(record)
        for key in self._shards.keys(record.run, body, record.group):
            self._network.reached(self._peer)[key].put(self._peer, body, expires)

    async def own(self, run: str) -> PeerRecord | None:
        """Read the record under this peer's own id.

        Args:
            run: the run in which to look.

        Returns:
            The record; None if there is none, or it expired.
        """
        record, expires = self._network.records.get(self._peer, (None, 0.0))
        return record if record is not None and record.run == run and expires > self._now() else None

    async def withdraw(self) -> None:
        """Replace this peer's record by a goodbye, which expires when the record would have."""
        async with self._announcing:
            known = self._network.records.get(self._peer)
            if known is not None:
                goodbye = known[0].model_copy(update={"left": True, "sequence": known[0].sequence + 1})
                self._network.records[self._peer] = goodbye, known[1]
                self._put(goodbye, known[1])

    def want(self, peers: Collection[str]) -> None:
        """From the next look on, see these members.

        Args:
            peers: their ids.
        """
        self._shards.wanted = tuple(peers)

    def reads(self, peer: str) -> bool:
        """Whether a member would be seen where this peer looks.

        Args:
            peer: its id.

        Returns:
            False if this peer reads another part of a large run.
        """
        return not self._is_large or self._shards.reads(peer)

    @property
    def count(self) -> int:
        """How many members there are, about."""
        return self._shards.count if self._is_large else len(self._network.records)

    @property
    def neighbours(self) -> frozenset[str]:
        """The peers that serve."""
        return frozenset(self._network.handlers)

    async def members(self) -> tuple[PeerRecord, ...]:
        """Read the records of the other peers of this peer's run.

        Returns:
            Those that have not expired and whose verdict is pass; of all runs before this peer announced itself.
        """
        now = self._now()
        own = self._network.records.get(self._peer)
        if own is not None and self._is_large:
            shown = await self._shards.look(own[0].run)
            newest: dict[str, PeerRecord] = {}
            for record in (_read(body) for one in shown for body in one.bodies.values()):
                if record.peer not in newest or record.sequence > newest[record.peer].sequence:
                    newest[record.peer] = record
            listed = [record for peer, record in newest.items() if peer != self._peer]
        else:
            listed = [
                record
                for record, expires in self._network.records.values()
                if expires > now and record.peer != self._peer and (own is None or record.run == own[0].run)
            ]
        return tuple(r for r in listed if self._network.verdict(r.peer, self._peer, "record").action == "pass")
