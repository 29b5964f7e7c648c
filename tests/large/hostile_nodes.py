"""Members of a large run of which some are hostile, also as nodes of the DHT: what the others see of the run.

Hostile members announce themselves as all do, say that they have the lowest loss, the centre and a swarm of a million,
and show whoever looks only each other. An entry is kept by the five nodes nearest to its key.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

from p2p_elastic.peers.discovery.dht_keys import Shown
from p2p_elastic.peers.discovery.member_shards import MemberShards
from p2p_elastic.peers.discovery.seen_entries import SeenEntries
from p2p_elastic.peers.discovery.view import view_of
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.testing.virtual_time import run_virtual

ANNOUNCE_SECONDS, LOOK_SECONDS, RECORD_SECONDS, CONTACT_SECONDS = 5.0, 3.0, 60.0, 32.0
KEEPERS, CONTACTS = 5, 32
LIE = b'"loss":0.001,"about":1000000,"centre":{"seated":true}'


class Kept(NamedTuple):
    """An entry."""

    value: bytes
    expiration_time: float


class Nodes:
    """The nodes of the DHT, and what the five nearest to each key keep of it."""

    def __init__(self, peers: int, hostile: float, seed: int) -> None:
        self.names = [f"p{number}" for number in range(peers)]
        self.rng = random.Random(seed)
        self.hostile = frozenset(self.rng.sample(self.names, round(hostile * peers)))
        self.places = {name: self.rng.getrandbits(256) for name in self.names}
        self.entries: defaultdict[str, dict[bytes, Kept]] = defaultdict(dict)
        self.captured: str | None = None
        self._keepers: dict[str, list[bool]] = {}

    def keepers(self, key: str) -> list[bool]:
        """Of each node that keeps a key, whether it is hostile."""
        if key not in self._keepers:
            place = int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")
            nearest = sorted(self.names, key=lambda name: self.places[name] ^ place)[:KEEPERS]
            self._keepers[key] = [name in self.hostile for name in nearest]
        return [True] * KEEPERS if key == self.captured else self._keepers[key]

    def shown(self, key: str, hostile: bool) -> Mapping[bytes, Kept]:
        """What one of them has."""
        now = asyncio.get_running_loop().time()
        entries = self.entries[key]
        for peer in [peer for peer, entry in entries.items() if entry.expiration_time <= now]:
            del entries[peer]
        return {p: e for p, e in entries.items() if p.decode() in self.hostile} if hostile else dict(entries)


class Reader:
    """`Looking` of one member, as `SignedDHT` is: all five nodes at first, then one of them at each look."""

    def __init__(self, nodes: Nodes, peer: str) -> None:
        self._nodes, self._peer = nodes, peer.encode()
        self._seen = SeenEntries[Kept](self._peer, bytes.decode)

    def _all(self, key: str) -> Mapping[bytes, Kept]:
        return {p: e for hostile in self._nodes.keepers(key) for p, e in self._nodes.shown(key, hostile).items()}

    async def get(self, key: str) -> Mapping[str, bytes]:
        return {peer.decode(): entry.value for peer, entry in self._all(key).items()}

    async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
        names = [peer.encode() for peer in wanted]
        if self._seen.under(key) is None:
            found = self._all(key)
            count = len(found)
        else:
            hostile = self._nodes.rng.choice(self._nodes.keepers(key))
            entries = self._nodes.shown(key, hostile)
            chosen = view_of(self._peer, {p: e.value for p, e in entries.items()}, names, most, bytes.decode)
            found = {p: e for p, e in entries.items() if p in chosen}
            count = 10**6 if hostile else len(entries)
        view = self._seen.add(key, found, asyncio.get_running_loop().time(), names, most)
        return Shown({peer.decode(): entry.value for peer, entry in view.items()}, max(count, len(view)))


class Member:
    """Announces itself, looks, and exchanges now and then with somebody whom it sees."""

    def __init__(self, nodes: Nodes, name: str) -> None:
        self.nodes, self.name, self.rng = nodes, name, random.Random(name)
        self.shards = MemberShards(Reader(nodes, name), name)
        self.loss = 1.0 + self.rng.random()
        self.view: set[str] = set()
        self.contacts: list[str] = []

    @property
    def hostile_share(self) -> float:
        """Of its view."""
        return len(self.view & self.nodes.hostile) / max(1, len(self.view))

    @property
    def _body(self) -> bytes:
        if self.name in self.nodes.hostile:
            return b"{%s}" % LIE
        about = f',"about":{self.shards.count}' if self.shards.count > VIEW_MAX else ""
        return f'{{"loss":{self.loss}{about}}}'.encode()

    async def live(self) -> None:
        await asyncio.sleep(self.rng.random() * ANNOUNCE_SECONDS)
        await self.shards.choose("run")
        await asyncio.gather(self._announce(), self._look(), self._exchange())

    async def _announce(self) -> None:
        while True:
            expires = asyncio.get_running_loop().time() + RECORD_SECONDS
            for key in self.shards.keys("run", self._body):
                self.nodes.entries[key][self.name.encode()] = Kept(self._body, expires)
            await asyncio.sleep(ANNOUNCE_SECONDS)

    async def _look(self) -> None:
        while True:
            self.shards.wanted = tuple(self.contacts)
            view = await self.shards.look("run")
            self.view = {peer for one in view for peer in one.bodies} - {self.name}
            await asyncio.sleep(LOOK_SECONDS)

    async def _exchange(self) -> None:
        while True:
            await asyncio.sleep(CONTACT_SECONDS * 2 * self.rng.random())
            if self.view:
                met = self.rng.choice(sorted(self.view))
                self.contacts = [met, *(peer for peer in self.contacts if peer != met)][:CONTACTS]


def in_a_hostile_swarm(test: Callable[[Nodes, Mapping[str, Member]], Awaitable[None]], nodes: Nodes) -> None:
    """Run `test` on members that have begun, in virtual time."""

    async def main() -> None:
        members = {name: Member(nodes, name) for name in nodes.names}
        tasks = [asyncio.ensure_future(member.live()) for member in members.values()]
        try:
            await test(nodes, members)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(main())
