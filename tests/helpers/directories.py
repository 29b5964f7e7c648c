"""Directories of several peers over one table that stands for the DHT."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.discovery.dht_directory import (
    RECORD_SECONDS,
    RUNS_KEY,
    DHTDirectory,
    Told,
)
from p2p_elastic.peers.discovery.dht_keys import Shown
from p2p_elastic.peers.discovery.view import view_of
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import Directory
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.protocol.records import PeerRecord

SCHEMA = "0" * 32
REFUSED = "dial backoff\n  * [{}] dial tcp4: connect: connection refused"


class Around:
    """`Directory` that passes all on to another one; what is around it changes some of that."""

    def __init__(self, directory: Directory) -> None:
        self.inner = directory

    def want(self, peers: Collection[str]) -> None:
        self.inner.want(peers)

    def reads(self, peer: str) -> bool:
        return self.inner.reads(peer)

    @property
    def count(self) -> int:
        return self.inner.count

    @property
    def neighbours(self) -> frozenset[str]:
        return self.inner.neighbours

    async def announce(self, record: PeerRecord) -> None:
        await self.inner.announce(record)

    async def own(self, run: str) -> PeerRecord | None:
        return await self.inner.own(run)

    async def withdraw(self) -> None:
        await self.inner.withdraw()

    async def members(self) -> tuple[PeerRecord, ...]:
        return await self.inner.members()


@dataclass
class Table:
    """What all nodes of the DHT hold together: key -> peer -> (body, when it expires)."""

    entries: dict[str, dict[str, tuple[bytes, float]]] = field(default_factory=lambda: defaultdict(dict))
    dead: set[str] = field(default_factory=set)  # they answer nobody
    cut: set[frozenset[str]] = field(default_factory=set)  # pairs between which nothing arrives

    def put(self, key: str, peer: str, body: bytes, seconds: float = RECORD_SECONDS) -> None:
        self.entries[key][peer] = body, asyncio.get_running_loop().time() + seconds

    def get(self, key: str) -> dict[str, bytes]:
        now = asyncio.get_running_loop().time()
        return {peer: body for peer, (body, expires) in self.entries[key].items() if expires > now}


class Node:
    """`Entries` of one peer; `met` says when it tried to meet whom."""

    def __init__(self, table: Table, peer: str) -> None:
        self._table, self._peer = table, peer
        self.links: set[str] = set()
        self.hidden: frozenset[str] = frozenset()
        self.met: list[tuple[float, str, tuple[str, ...]]] = []
        self.explored = 0
        self.refused = 0
        self.introductions: Introductions | None = None
        self.on_neighbours: Callable[[], None] = lambda: None
        self.before_get: Callable[[], Awaitable[None]] | None = None

    async def put(self, key: str, body: bytes, seconds: float) -> None:
        self._table.put(key, self._peer, body, seconds)

    async def get(self, key: str) -> Mapping[str, bytes]:
        if self.before_get is not None:
            await self.before_get()
        return self._table.get(key)

    async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
        bodies = await self.get(key)
        names, own = {peer.encode(): body for peer, body in bodies.items()}, self._peer.encode()
        view = view_of(own, names, [peer.encode() for peer in wanted], most, bytes.decode)
        return Shown({peer.decode(): names[peer] for peer in view}, len(bodies))

    async def meet(self, peer: str, addresses: tuple[str, ...]) -> None:
        self.met.append((asyncio.get_running_loop().time(), peer, addresses))
        if frozenset({peer, self._peer}) in self._table.cut:
            await asyncio.sleep(5.0)
            raise PartnerUnreachable("timed out after 5 s", partner=peer)
        if peer in self._table.dead:
            raise PartnerUnreachable(REFUSED.format(addresses[0].split("/p2p/")[0]), partner=peer)
        self.links.add(peer)

    async def explore(self) -> None:
        self.explored += 1

    def hide(self, peers: frozenset[str]) -> None:
        self.hidden = peers
        self.links -= peers

    @property
    def neighbours(self) -> frozenset[str]:
        self.on_neighbours()
        return frozenset(self.links)


@dataclass
class Fixture:
    """One peer: its identity, its node and its directory."""

    identity: Identity
    node: Node
    directory: DHTDirectory
    sequence: int = 0

    @property
    def peer(self) -> str:
        return self.identity.peer

    async def announce(self, run: str = "run", **facts: Any) -> None:
        self.sequence += 1
        record = PeerRecord(peer=self.peer, run=run, schema_hash=SCHEMA, sequence=self.sequence, **facts)
        await self.directory.announce(record)

    async def members(self) -> dict[str, PeerRecord]:
        return {record.peer: record for record in await self.directory.members()}

    async def all_members(self) -> dict[str, PeerRecord]:
        """Those of both shards that are read in turns."""
        for _ in range(2):
            found = await self.members()
        return found

    async def take_part(self) -> None:
        while True:
            await self.announce()
            await self.directory.members()
            await asyncio.sleep(5.0)


def join(table: Table, *initial: str) -> Fixture:
    """A peer of this DHT, given the addresses of these peers."""
    identity = Identity.generate()
    node = Node(table, identity.peer)
    given_peers = {peer: (address_of(peer),) for peer in initial}
    directory = DHTDirectory(node, identity, given_peers)
    directory.told = Told((address_of(identity.peer),))
    return Fixture(identity, node, directory)


def address_of(peer: str) -> str:
    return f"/ip4/10.0.0.7/tcp/4001/p2p/{peer}"


def manifest_of(founder: str, **changes: Any) -> RunManifest:
    values: dict[str, Any] = {
        "run": "run",
        "founder": founder,
        "task": "digits",
        "schema_hash": SCHEMA,
        "rule": "elastic-gossip",
        "moving_rate": 0.5,
        "period": 8,
        "probability": None,
        "codec": "none",
        "batch_size": 32,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "init_seed": 0,
    }
    return RunManifest(**{**values, **changes})


def publish(table: Table, founder: Fixture, **changes: Any) -> None:
    """A manifest that its founder signed, whatever it says."""
    values = {**manifest_of(founder.peer).model_dump(), **changes}
    signature = founder.identity.sign(b"p2p-elastic/manifest/1" + json.dumps(values, sort_keys=True).encode()).hex()
    table.put(RUNS_KEY, founder.peer, json.dumps({"manifest": values, "signature": signature}).encode())
