"""The DHT as a table of signed records: key -> peer -> bytes, each entry signed by the peer that it is about.

The node runs on this process's own loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping
from typing import Any

from p2p_elastic.common.addresses import usable
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import DirectoryError, NetworkError, NotAdmitted, PartnerUnreachable
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.discovery.dht_keys import Shown
from p2p_elastic.peers.discovery.dht_node import Node, prepare_hivemind
from p2p_elastic.peers.discovery.seen_entries import SeenEntries
from p2p_elastic.peers.discovery.signed_records import SignedRecords, chain_and_body, signed_bytes, with_chain
from p2p_elastic.peers.discovery.view import WANTED_MAX
from p2p_elastic.peers.transport.identity import SIGNATURE_BYTES, Identity, peer_from_text, peer_text
from p2p_elastic.peers.transport.libp2p import Libp2pHost
from p2p_elastic.peers.transport.probing import answering
from p2p_elastic.peers.transport.swarm_clock import AGREE_SECONDS, Reading, keep_time, reading
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.records import RECORD_SECONDS_MAX
from p2p_elastic.protocol.roles import Role

from hivemind.dht.routing import DHTID  # isort: skip  # after libp2p.py has silenced it
from hivemind.p2p import PeerID  # isort: skip
from hivemind.proto import dht_pb2  # isort: skip

log = logging.getLogger(__name__)
CALL_SECONDS = 5.0  # nothing in hivemind has a deadline
READ_NODES = 5  # that a record is looked for at; it is stored at as many


class SignedDHT:
    """Signed entries in the DHT and the way into the swarm, by the host's clock. Survives restarts of the host.

    Args:
        host: the libp2p host, started.
        identity: of this peer; it signs the entries.
        introductions: by which this peer and others let each other in; None: the run is open.

    Attributes:
        introductions: those.
    """

    def __init__(self, host: Libp2pHost, identity: Identity, introductions: Introductions | None = None) -> None:
        self._host, self._identity = host, identity
        rng = random.Random(identity.peer)
        self.introductions = introductions or Introductions(host, AccessList(identity, host.clock), rng)
        self._clock, self._access = host.clock, self.introductions.access
        self._validator = SignedRecords(host.clock, self._access)
        self._node: Node | None = None
        self._expirations: dict[str, float] = {}
        self._own: dict[str, tuple[bytes, float]] = {}  # key -> body, until when (monotonic)
        self._seen = SeenEntries[Any](identity.peer_bytes)
        self._rng = rng
        self._hidden: frozenset[str] = frozenset()
        # Two at once could arrive in the wrong order, and the older one would be refused.
        self._putting = asyncio.Lock()

    async def start(self) -> None:
        """Start the node; it is rebuilt whenever the host is."""
        prepare_hivemind()
        await self._host.on_start(self._build)

    async def _build(self) -> None:
        with self._clock.as_current():
            self._node = await Node.create(
                p2p=self._host.p2p,
                # hivemind's own choice is by Python's global generator. Programs seed it, all peers of a run alike,
                # such as transformers.Trainer: two nodes with one id take each other for themselves.
                node_id=DHTID.generate(self._identity.peer.encode()),
                record_validator=self._validator,
                wait_timeout=2.0,
                cache_refresh_before_expiry=0,
                cache_locally=False,  # all reads are of the latest
                cache_nearest=0,  # who stores a record stores it wherever it is looked for
            )
        self._node.protocol.introductions = self.introductions
        self._node.protocol.hide(self._hidden)

    @property
    def refused(self) -> int:
        """Records that were refused: unsigned, foreign, too large or too long-lived."""
        return self._validator.refused

    @property
    def neighbours(self) -> frozenset[str]:
        """The peers in the routing table of this node."""
        if self._node is None:
            return frozenset()
        # tuple() copies in one go: the training thread asks too, for the status.
        return frozenset(map(str, tuple(self._node.protocol.routing_table.peer_id_to_uid)))

    def hide(self, peers: frozenset[str]) -> None:
        """Leave peers that others cannot dial out of the routing table: nobody is to store or look for anything there.

        Args:
            peers: their ids; others that were left out so far may come back.
        """
        self._hidden = peers
        if self._node is not None:
            self._node.protocol.hide(peers)

    async def put(self, key: str, body: bytes, seconds: float) -> None:
        """Store this peer's entry under a key; it replaces an earlier one.

        Args:
            key: where.
            body: what to store; with the signature at most RECORD_BYTES_MAX.
            seconds: how long it lives, at most RECORD_SECONDS_MAX.

        Raises:
            DirectoryError: if no node takes it.
        """
        async with self._putting:
            self._own[key] = body, self._clock.monotonic() + seconds
            await self._put(key, body, seconds)

    async def _put(self, key: str, body: bytes, seconds: float) -> None:
        now, last = self._clock.now(), self._expirations.get(key, 0.0)
        # An entry is only replaced by one that expires later. But no node has one from before the clock was put back.
        expiration = max(now + seconds, last + 0.001 if last < now + RECORD_SECONDS_MAX else 0.0)
        key_bytes = DHTID.generate(source=key).to_bytes()
        subkey = self._identity.peer_bytes
        if self._access.private:
            body = with_chain(self._access.chain, body)
        signature = self._identity.sign(signed_bytes(key_bytes, subkey, expiration, body))
        stored = await self._call(
            "store",
            lambda node: node.store(key=key, subkey=subkey, value=signature + body, expiration_time=expiration),
        )
        # hivemind reports what the last node said, and one that has this very record from another node already says no.
        if not stored and not await self._holds(key, subkey, expiration):
            raise DirectoryError(f"no node of the DHT took this peer's record under {key}")
        self._expirations[key] = expiration

    async def _holds(self, key: str, subkey: bytes, expiration: float) -> bool:
        entry = (await self._entries(key)).get(subkey)
        return entry is not None and entry.expiration_time >= expiration

    async def get(self, key: str) -> Mapping[str, bytes]:
        """Read all entries under a key.

        Args:
            key: where.

        Returns:
            Peer id -> body.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        return self._bodies(await self._entries(key))

    async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
        """Read the entries under a key again, from one node: what was seen before stays until it expires.

        Args:
            key: where.
            wanted: peer ids whose entries are wanted in any case.
            most: how many entries are wanted; of more than that a sample is shown.

        Returns:
            Peer id -> body, and how many entries there are.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        names, seen = [peer_from_text(peer) for peer in wanted][:WANTED_MAX], self._seen.under(key)
        if seen is None:
            found = await self._entries(key)
            count = len(found)
        else:
            asked = names if len(seen) >= most else []  # otherwise all are shown
            known = {subkey: entry.expiration_time for subkey, entry in seen.items()}
            found, count = await self._call("look", lambda node: node.look(key, self._rng, asked, most, known))
        view = self._seen.add(key, found, self._clock.now(), names, most)
        return Shown(self._bodies(view), max(count, len(view)))

    async def _entries(self, key: str) -> dict[bytes, Any]:
        found = await self._call("get", lambda node: node.get(key, latest=True, beam_size=READ_NODES))
        return found.value if found is not None and isinstance(found.value, dict) else {}

    def _bodies(self, entries: Mapping[bytes, Any]) -> dict[str, bytes]:
        """What members stored, without those that are not admitted any more."""
        found = {peer_text(peer): entry.value[SIGNATURE_BYTES:] for peer, entry in entries.items()}
        if not self._access.private:
            return found
        return {peer: chain_and_body(body)[1] for peer, body in found.items() if self._access.allows(peer)}

    async def _call(self, name: str, call: Any) -> Any:
        if self._node is None:
            raise DirectoryError("the DHT node is not running")
        try:
            with self._clock.as_current():
                return await wait_for(call(self._node), CALL_SECONDS)
        except asyncio.TimeoutError as error:
            raise DirectoryError(f"{name}: no answer from the DHT within {CALL_SECONDS:g} s") from error
        except (OSError, NetworkError, ValueError) as error:
            raise DirectoryError(f"{name}: {error}") from error

    async def meet(self, peer: str, addresses: tuple[str, ...]) -> None:
        """Connect to a peer and take each other into the routing tables; follow its clock if no other peer is known.

        Args:
            peer: the peer id.
            addresses: multiaddrs to dial.

        Raises:
            PartnerUnreachable: if none leads to the peer, with what libp2p says; or if the peer is silent.
            DirectoryError: if the peer is there but is no node of this DHT, or one of the two is not admitted.
        """
        await self._host.connect(peer, await answering(usable(peer, addresses)))
        if self._node is None:
            raise DirectoryError("the DHT node is not running")
        node, peer_id = self._node, PeerID.from_base58(peer)
        try:
            answer, clock = await self._ping(node, peer_id)
            node_id = DHTID.from_bytes(answer.peer.node_id)
        except asyncio.TimeoutError as error:
            raise PartnerUnreachable("connected, but the peer is silent: is it stopped?", partner=peer) from error
        except Exception as error:
            # hivemind lets errors of the daemon, of the remote handler and of protobuf through.
            raise DirectoryError(f"connected, but it is no p2p-elastic peer: {error}") from error
        before = self._clock.reading
        if clock is not None and self.neighbours <= {peer}:  # first: tickets end by the swarm's clock
            await self.follow(clock)
        try:
            await self.introductions.ensure(peer)
        except NotAdmitted:
            await self.follow(before)
            raise
        node.blacklist.register_success(peer_id)  # otherwise not asked for a while, for having been silent
        with self._clock.as_current():
            await node.protocol.update_routing_table(node_id, peer_id, responded=True)

    async def _ping(self, node: Node, peer_id: PeerID) -> tuple[Any, Reading | None]:
        request = dht_pb2.PingRequest(peer=node.protocol.node_info, validate=False)
        asked_at = self._clock.monotonic()
        with self._clock.as_current():
            answer = await wait_for(node.protocol.get_stub(peer_id).rpc_ping(request), CALL_SECONDS)
        return answer, reading(answer.dht_time, asked_at, self._clock.monotonic())

    # -- the clock ----------------------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """For ever: go by the clock that most neighbours have."""
        peer = self._identity.peer
        await keep_time(peer, self._clock, self._voters, self.ask_time, self.follow, random.Random(peer))

    def _voters(self) -> frozenset[str]:
        return frozenset(peer for peer in self.neighbours if self._access.allows(peer, Role.TRAINER))

    async def ask_time(self, peer: str) -> Reading | None:
        """Read a neighbour's clock.

        Args:
            peer: the peer id.

        Returns:
            What it shows; None if the neighbour does not answer.
        """
        if self._node is None:
            return None
        try:
            return (await self._ping(self._node, PeerID.from_base58(peer)))[1]
        except Exception as error:  # noqa: BLE001  # see `meet`
            log.debug("asking %s for the time: %r", peer, error)
            return None

    async def follow(self, clock: Reading) -> None:
        """Go by another clock from now on.

        What this node stores is of the old time and is dropped; the peer's own entries are stored anew at once.

        Args:
            clock: a reading of that clock.
        """
        async with self._putting:
            ahead = clock.base - self._clock.reading.base
            self._clock.follow(clock)
            if abs(ahead) <= AGREE_SECONDS + clock.doubt:
                return
            log.warning("the swarm's clock is %+.1f s from this peer's: going by the swarm's", ahead)
            self._validator.forget()
            self._seen.clear()
            if self._node is not None:
                self._node.blacklist.clear()
                self._node.protocol.storage.clear()
                self._node.protocol.cache.clear()
        await self._put_again()

    async def _put_again(self) -> None:
        for key in tuple(self._own):
            try:
                async with self._putting:
                    body, end = self._own[key]
                    if end > self._clock.monotonic():
                        await self._put(key, body, end - self._clock.monotonic())
            except DirectoryError as error:  # the next announcement does it
                log.info("storing this peer's records anew: %s", error)

    async def explore(self) -> None:
        """Fill the routing table from the neighbours' own.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        await self._call("explore", lambda node: node.find_nearest_nodes([node.node_id]))

    async def close(self) -> None:
        """Stop answering. The host is closed by its owner."""
        node, self._node = self._node, None
        if node is None:
            return
        try:
            await wait_for(node.shutdown(), 1.0)  # hangs if p2pd is dead
        except (asyncio.TimeoutError, OSError) as error:
            log.debug("the DHT node did not shut down: %s", error)
