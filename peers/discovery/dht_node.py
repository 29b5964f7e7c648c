"""hivemind's DHT node, on the swarm's clock, with fewer bytes for what every peer does every few seconds.

In a private run it answers nobody but members, and takes nobody else into its routing table.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import struct
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.errors import NotAdmitted, PartnerUnreachable
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.discovery.view import view_of
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.limits import VIEW_MAX

import p2p_elastic.peers.transport.libp2p  # noqa: F401  # isort: skip  # silences hivemind
from hivemind.dht import node as hivemind_node  # isort: skip
from hivemind.dht import protocol as hivemind_protocol, routing as hivemind_routing  # isort: skip
from hivemind.dht.node import DHTNode  # isort: skip
from hivemind.dht.protocol import DHTProtocol  # isort: skip
from hivemind.dht.routing import DHTID  # isort: skip
from hivemind.dht.storage import DictionaryDHTValue  # isort: skip
from hivemind.p2p import P2PContext, PeerID  # isort: skip
from hivemind.proto import dht_pb2  # isort: skip
from hivemind.utils import MSGPackSerializer, ValueWithExpiration, auth as hivemind_auth  # isort: skip
from hivemind.utils import timed_storage as hivemind_storage  # isort: skip

log = logging.getLogger(__name__)
PLACES_SECONDS = 30.0
COUNT_MAX = 10**6
KNOWN, DIGEST_BYTES = b"known:", 4  # no peer id begins so: an earlier version takes it for one that it has no entry of
KEYS_MAX = 64  # whose places are remembered
TIMED_MODULES = (hivemind_auth, hivemind_node, hivemind_protocol, hivemind_routing, hivemind_storage)
_NOTHING = dht_pb2.FindResult(type=dht_pb2.NOT_FOUND)
_time_elsewhere = hivemind_storage.get_dht_time  # hivemind's own


def swarm_time() -> float:
    """Tell the time that the swarm of the calling task counts.

    Returns:
        Seconds since 1970; as hivemind counts them if the task belongs to no swarm.
    """
    clock = SwarmClock.get_current()
    return float(_time_elsewhere()) if clock is None else clock.now()


def prepare_hivemind() -> None:
    """Let hivemind's DHT go by the clock of each swarm, and ask who is admitted; its modules import both by name."""
    for module in TIMED_MODULES:
        module.get_dht_time = swarm_time
    hivemind_node.DHTProtocol = MembersOnly


class MembersOnly(DHTProtocol):  # type: ignore[misc]  # hivemind has no types
    """hivemind's calls between nodes, each only once the two peers have shown each other their tickets.

    A stranger's ping is answered, with the time, and forgotten: a newcomer needs the time to show its ticket.

    Attributes:
        introductions: of this peer; nobody is answered before it is set.
        hidden: peers that others cannot call: they are in no routing table, so nothing is stored there.
    """

    introductions: Introductions | None = None
    hidden: frozenset[str] = frozenset()

    async def update_routing_table(self, node_id: DHTID | None, peer_id: PeerID, responded: bool = True) -> None:
        """Note that a node answered, or did not, as hivemind does; one that others cannot call is not noted.

        Args:
            node_id: of the node; None: not known.
            peer_id: of its peer.
            responded: whether it answered.
        """
        if not responded or str(peer_id) not in self.hidden:
            await super().update_routing_table(node_id, peer_id, responded=responded)

    def hide(self, peers: frozenset[str]) -> None:
        """From now on, leave peers out of the routing table.

        Args:
            peers: their ids; others that were left out so far may come back.
        """
        self.hidden = peers
        for peer, node in list(self.routing_table.peer_id_to_uid.items()):
            if str(peer) in peers:
                del self.routing_table[node]

    async def rpc_ping(self, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        """Answer a ping; hivemind calls this.

        Args:
            request: of the other node.
            context: has its proven peer id.

        Returns:
            The answer.
        """
        if not self._admitted(context):
            request = dht_pb2.PingRequest()
        return await super().rpc_ping(request, context)

    async def rpc_store(self, request: dht_pb2.StoreRequest, context: P2PContext) -> dht_pb2.StoreResponse:
        """Store what a member sends; hivemind calls this.

        Args:
            request: of the other node.
            context: has its proven peer id.

        Returns:
            The answer.

        Raises:
            NotAdmitted: if it is no member; hivemind tells it so.
        """
        self._check(context)
        return await super().rpc_store(request, context)

    async def rpc_find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        """Give a member what is stored here; hivemind calls this.

        Args:
            request: of the other node.
            context: has its proven peer id.

        Returns:
            The answer.

        Raises:
            NotAdmitted: if it is no member; hivemind tells it so.
        """
        self._check(context)
        return await super().rpc_find(request, context)

    async def rpc_look(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        """Show a member what is stored here under one key, or its view of it; hivemind calls this.

        Args:
            request: the key, how many entries are wanted (4 bytes), the subkeys that are wanted in any case, and, after
                KNOWN, digests of entries that are known.
            context: has its proven peer id.

        Returns:
            The other entries, without nodes that are near; the second result's `expiration_time` is how many there are.

        Raises:
            NotAdmitted: if it is no member; hivemind tells it so.
        """
        self._check(context)
        if request.peer:
            self._pinging = asyncio.ensure_future(self.rpc_ping(dht_pb2.PingRequest(peer=request.peer), context))
        place, most, *others = request.keys
        wanted = [one for one in others if not one.startswith(KNOWN)]
        known = next((one.removeprefix(KNOWN) for one in others if one.startswith(KNOWN)), b"")
        stored = self.storage.get(DHTID.from_bytes(place))
        if stored is None or not isinstance(stored.value, DictionaryDHTValue):
            return dht_pb2.FindResponse(results=[_NOTHING, _NOTHING], peer=self.node_info)
        shown = shown_of(stored.value, context.remote_id.to_bytes(), wanted, int.from_bytes(most, "big"), known)
        dictionary = {"value": self.serializer.dumps(shown), "expiration_time": stored.expiration_time}
        found = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, **dictionary)
        count = dht_pb2.FindResult(type=dht_pb2.NOT_FOUND, expiration_time=float(len(stored.value)))
        return dht_pb2.FindResponse(results=[found, count], peer=self.node_info)

    async def call_look(
        self, peer: PeerID, place: DHTID, wanted: Collection[bytes], most: int, known: bytes = b""
    ) -> Looked | None:
        """Look at what another node has under a key.

        Args:
            peer: the node.
            place: where.
            wanted: subkeys that are wanted in any case.
            most: how many entries are wanted.
            known: digests of entries that are not to be sent again.

        Returns:
            What it has; None if there was no answer, or a wrong one.
        """
        looked: Looked | None = await self._introduced(peer, self._call_look, place, wanted, most, known)
        return looked

    async def _call_look(
        self, peer: PeerID, place: DHTID, wanted: Collection[bytes], most: int, known: bytes
    ) -> Looked | None:
        keys = [place.to_bytes(), most.to_bytes(4, "big"), *wanted, *([KNOWN + known] if known else [])]
        request = dht_pb2.FindRequest(keys=keys, peer=self.node_info)
        try:
            async with self.rpc_semaphore:
                response = await self.get_stub(peer).rpc_look(request, timeout=self.wait_timeout)
            if response.peer and response.peer.node_id:
                await self.update_routing_table(DHTID.from_bytes(response.peer.node_id), peer, responded=True)
            found, count = response.results
            if found.type == dht_pb2.NOT_FOUND:
                return Looked(DictionaryDHTValue(), 0)
            entries = self.serializer.loads(found.value)
            if not isinstance(entries, DictionaryDHTValue) or not self._validate_dictionary(keys[0], entries):
                return None
            return Looked(entries, max(len(entries), min(int(count.expiration_time), COUNT_MAX)))
        except Exception as error:  # noqa: BLE001  # hivemind and msgpack let all kinds of errors through
            log.debug("looking at %s: %r", peer, error)
            table = self.routing_table.get(peer_id=peer)
            await self.update_routing_table(table, peer, responded=False)
            return None

    async def call_store(self, peer: PeerID, *arguments: Any, **options: Any) -> Any:
        """Store at another node, as hivemind does.

        Args:
            peer: the node.
            arguments, options: hivemind's.

        Returns:
            For each record whether it was stored; None if there was no answer.
        """
        return await self._introduced(peer, super().call_store, *arguments, **options)

    async def call_find(self, peer: PeerID, *arguments: Any) -> Any:
        """Read at another node, as hivemind does.

        Args:
            peer: the node.
            arguments: hivemind's.

        Returns:
            What it has; None if there was no answer.
        """
        return await self._introduced(peer, super().call_find, *arguments)

    async def _introduced(self, peer: PeerID, call: Any, *arguments: Any, **options: Any) -> Any:
        introductions = self.introductions
        if introductions is None:
            return None
        try:
            await introductions.ensure(str(peer))
        except (NotAdmitted, PartnerUnreachable):
            await self.update_routing_table(self.routing_table.get(peer_id=peer), peer, responded=False)
            return None
        answer = await call(peer, *arguments, **options)
        if answer is None:
            introductions.forget(str(peer))
        return answer

    def _admitted(self, context: P2PContext) -> bool:
        return self.introductions is not None and self.introductions.access.allows(str(context.remote_id))

    def _check(self, context: P2PContext) -> None:
        if not self._admitted(context):
            raise NotAdmitted("this run is private: show a ticket first")


class Looked(NamedTuple):
    """What a node has under a key.

    Attributes:
        entries: those that it shows.
        in_all: how many it has, as it says.
    """

    entries: Any
    in_all: int


def digest_of(subkey: bytes, expiration: float) -> bytes:
    """Name an entry of a key: by whom, and which.

    Args:
        subkey: of the entry.
        expiration: until when it lives, which differs with each announcement.

    Returns:
        DIGEST_BYTES.
    """
    return hashlib.blake2b(subkey + struct.pack(">d", expiration), digest_size=DIGEST_BYTES).digest()


def shown_of(entries: Any, asker: bytes, wanted: Collection[bytes], most: int, known: bytes = b"") -> Any:
    """Choose of a dictionary what somebody is shown.

    Args:
        entries: a DictionaryDHTValue.
        asker: peer id.
        wanted: subkeys that are wanted in any case.
        most: how many are wanted.
        known: digests of those that are not to be shown again, one after the other.

    Returns:
        Another one, or the same if all are shown.
    """
    bodies = {subkey: entry.value for subkey, entry in entries.items()}
    view = view_of(asker, bodies, wanted, max(1, min(most, VIEW_MAX)))
    if len(view) == len(bodies) and not known:
        return entries
    shown, told = DictionaryDHTValue(), {known[at : at + DIGEST_BYTES] for at in range(0, len(known), DIGEST_BYTES)}
    for subkey, entry in entries.items():
        if subkey in view and digest_of(subkey, entry.expiration_time) not in told:
            shown.store(subkey, entry.value, entry.expiration_time)
    return shown


MembersOnly.__name__ = DHTProtocol.__name__  # calls are named after it


class Node(DHTNode):  # type: ignore[misc]  # hivemind has no types
    """A DHT node that remembers where the records of a key are, stores there without reading, and reads from one node.

    hivemind looks for the nodes nearest to a key each time that it stores something there, and each of those that it
    asks answers with all that it has under the key. Here it asks for the nodes nearest to the key beside, where nobody
    stores anything, and again only after PLACES_SECONDS or once other nodes are the nearest that are known here.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._places: dict[DHTID, _Places] = {}

    async def find_nearest_nodes(self, queries: Collection[DHTID], *arguments: Any, **options: Any) -> Any:
        """Find the nearest nodes, as hivemind does; as said above if a record is to be stored there.

        Args:
            queries: ids to be near to.
            arguments, options: hivemind's.

        Returns:
            Query -> node -> peer id, if there is no callback.
        """
        found = options.get("found_callback")
        if found is None:
            return await super().find_nearest_nodes(queries, *arguments, **options)
        for key in queries:
            nearest = await self._nearest(key)
            options["node_to_peer_id"].update(nearest)
            await found(key, list(nearest), set())
        return {}

    async def look(
        self, key: str, rng: random.Random, wanted: Collection[bytes], most: int, known: Mapping[bytes, float]
    ) -> tuple[dict[bytes, Any], int]:
        """Read what one of the nodes shows that the records of a key are stored at, and what is here.

        Args:
            key: where.
            rng: draws which one; if it does not answer, another one is asked.
            wanted: subkeys that are wanted in any case.
            most: how many entries are wanted.
            known: subkey -> expiration, of the entries that were read before.

        Returns:
            Subkey -> value and expiration, of those that are new; and how many entries there are.
        """
        digests = b"".join(digest_of(*entry) for entry in known.items())
        place = DHTID.generate(source=key)
        nearest = list((await self._nearest(place)).values())
        first, spare = nearest[: self.num_replicas], nearest[self.num_replicas :]
        here = self.protocol.storage.get(place)
        mine = here.value if here is not None and isinstance(here.value, DictionaryDHTValue) else DictionaryDHTValue()
        found, count = DictionaryDHTValue(), len(mine)
        answers = [shown_of(mine, self.peer_id.to_bytes(), wanted, most, digests)]
        for peer in (*rng.sample(first, len(first)), *spare):
            looked = (
                None if peer in self.blacklist else await self.protocol.call_look(peer, place, wanted, most, digests)
            )
            if looked is not None:
                self.blacklist.register_success(peer)
                answers.append(looked.entries)
                count = max(count, looked.in_all)
                break
            if peer not in self.blacklist:
                self.blacklist.register_failure(peer)
        for entries in answers:
            for subkey, entry in entries.items():
                found.store(subkey, entry.value, entry.expiration_time)
        loads = MSGPackSerializer.loads
        return {s: ValueWithExpiration(loads(e.value), e.expiration_time) for s, e in found.items()}, count

    async def _nearest(self, key: DHTID) -> dict[DHTID, PeerID]:
        now, table = asyncio.get_running_loop().time(), self.protocol.routing_table
        known = tuple(node for node, _ in table.get_nearest_neighbors(key, self.num_replicas, exclude=self.node_id))
        places = self._places.pop(key, None)
        if places is None or places.known != known or now > places.until:
            beside, spare = DHTID(int(key) ^ 1), 2 * self.num_replicas  # some of them may not answer
            options = {"k_nearest": spare, "beam_size": spare, "exclude_self": True}
            nearest = (await super().find_nearest_nodes([beside], **options))[beside]
            places = _Places(nearest, known, now + PLACES_SECONDS)
        self._places[key] = places
        forget_oldest(self._places, KEYS_MAX)
        return places.nearest


class _Places(NamedTuple):
    """The nodes nearest to a key; those of them that were known here then; and until when that is good."""

    nearest: dict[DHTID, PeerID]
    known: tuple[DHTID, ...]
    until: float
