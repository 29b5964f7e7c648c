"""The DHT as a table of signed records: key -> peer -> bytes, each entry signed by the peer that it is about.

hivemind's DHTNode, on this process's own loop. It keeps no record that is not an entry of a dictionary, under the
signer's own peer id, small and short-lived; so nobody can overwrite, wipe or flood another peer's entry.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import struct
from collections.abc import Mapping
from typing import Any

from p2p_elastic.common.addresses import usable
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import DirectoryError, NetworkError, PartnerUnreachable
from p2p_elastic.peers.transport.identity import SIGNATURE_BYTES, Identity, peer_text, verify
from p2p_elastic.peers.transport.libp2p import Libp2pHost
from p2p_elastic.peers.transport.probing import answering
from p2p_elastic.peers.transport.swarm_clock import AGREE_SECONDS, Reading, SwarmClock, keep_time, reading
from p2p_elastic.protocol.records import RECORD_BYTES_MAX, RECORD_SECONDS_MAX

from hivemind.dht import node as hivemind_node  # isort: skip  # after libp2p.py has silenced it
from hivemind.dht import protocol as hivemind_protocol, routing as hivemind_routing  # isort: skip
from hivemind.dht.crypto import DHTRecord, RecordValidatorBase  # isort: skip
from hivemind.dht.node import DHTNode  # isort: skip
from hivemind.dht.protocol import DHTProtocol  # isort: skip
from hivemind.dht.routing import DHTID  # isort: skip
from hivemind.p2p import PeerID  # isort: skip
from hivemind.proto import dht_pb2  # isort: skip
from hivemind.utils import MSGPackSerializer, auth as hivemind_auth  # isort: skip
from hivemind.utils import timed_storage as hivemind_storage  # isort: skip

log = logging.getLogger(__name__)
DOMAIN = b"p2p-elastic/record/1"
CALL_SECONDS = 5.0  # nothing in hivemind has a deadline
KEYS_PER_SIGNER = 8
SIGNERS_REMEMBERED = 4096
TIMED_MODULES = (hivemind_auth, hivemind_node, hivemind_protocol, hivemind_routing, hivemind_storage)
_time_elsewhere = hivemind_storage.get_dht_time  # hivemind's own


def swarm_time() -> float:
    """Tell the time that the swarm of the calling task counts.

    Returns:
        Seconds since 1970; as hivemind counts them if the task belongs to no swarm.
    """
    clock = SwarmClock.get_current()
    return float(_time_elsewhere()) if clock is None else clock.now()


def tell_hivemind_the_time() -> None:
    """Let hivemind's DHT go by the clock of each swarm; its modules have imported the machine's by name."""
    for module in TIMED_MODULES:
        module.get_dht_time = swarm_time


def _signed_bytes(key: bytes, subkey: bytes, expiration: float, body: bytes) -> bytes:
    return DOMAIN + struct.pack("!HHd", len(key), len(subkey), expiration) + key + subkey + body


@functools.lru_cache(maxsize=8192)  # an unchanged record comes from several nodes, at each refresh
def _is_genuine(key: bytes, subkey: bytes, value: bytes, expiration: float) -> bool:
    try:
        peer, signed = MSGPackSerializer.loads(subkey), MSGPackSerializer.loads(value)
    except Exception:  # noqa: BLE001  # msgpack raises all kinds of errors on garbage
        return False
    if not (isinstance(peer, bytes) and isinstance(signed, bytes) and len(signed) > SIGNATURE_BYTES):
        return False
    signature, body = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    return verify(peer, signature, _signed_bytes(key, peer, expiration, body))


class SignedRecords(RecordValidatorBase):  # type: ignore[misc]  # hivemind has no types
    """Accepts nothing but signed dictionary entries that end soon by a clock; counts what it refuses.

    Args:
        clock: the swarm's.
    """

    def __init__(self, clock: SwarmClock) -> None:
        self._clock = clock
        self.refused = 0
        self._keys: dict[bytes, dict[bytes, float]] = {}

    def validate(self, record: DHTRecord) -> bool:
        """Decide whether the DHT node keeps or believes a record.

        Args:
            record: as it came from another node, or from this one.

        Returns:
            True if it is signed, small and short-lived, and its signer has room for one more key.
        """
        accepted = (
            record.subkey not in DHTProtocol.RESERVED_SUBKEYS
            and len(record.value) <= RECORD_BYTES_MAX
            and record.expiration_time <= self._clock.now() + RECORD_SECONDS_MAX
            and _is_genuine(record.key, record.subkey, record.value, record.expiration_time)
            and self._has_room(record)
        )
        self.refused += not accepted
        return accepted

    def forget(self) -> None:
        """Count the keys of signers anew: the clock changed."""
        self._keys.clear()

    def _has_room(self, record: DHTRecord) -> bool:
        """hivemind stores any number of keys: a signer gets KEYS_PER_SIGNER, an honest one needs three."""
        now = self._clock.now()
        if len(self._keys) > SIGNERS_REMEMBERED:
            self._keys = {s: keys for s, keys in self._keys.items() if max(keys.values()) > now}
        live = {key: end for key, end in self._keys.get(record.subkey, {}).items() if end > now}
        live[record.key] = record.expiration_time
        if len(live) > KEYS_PER_SIGNER:
            return False
        self._keys[record.subkey] = live
        return True


class SignedDHT:
    """Signed entries in the DHT and the way into the swarm, by the host's clock. Survives restarts of the host.

    Args:
        host: the libp2p host, started.
        identity: of this peer; it signs the entries.
    """

    def __init__(self, host: Libp2pHost, identity: Identity) -> None:
        self._host, self._identity = host, identity
        self._clock = host.clock
        self._validator = SignedRecords(host.clock)
        self._node: DHTNode | None = None
        self._expirations: dict[str, float] = {}
        self._own: dict[str, tuple[bytes, float]] = {}  # key -> body, until when (monotonic)
        # Two at once could arrive in the wrong order, and the older one would be refused.
        self._putting = asyncio.Lock()

    async def start(self) -> None:
        """Start the node; it is rebuilt whenever the host is."""
        tell_hivemind_the_time()
        await self._host.on_start(self._build)

    async def _build(self) -> None:
        with self._clock.as_current():
            self._node = await DHTNode.create(
                p2p=self._host.p2p,
                # hivemind's own choice is by Python's global generator. Programs seed it, all peers of a run alike,
                # such as transformers.Trainer: two nodes with one id take each other for themselves.
                node_id=DHTID.generate(self._identity.peer.encode()),
                record_validator=self._validator,
                wait_timeout=2.0,
                cache_refresh_before_expiry=0,
            )

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
        signature = self._identity.sign(_signed_bytes(key_bytes, subkey, expiration, body))
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
        return {peer_text(peer): e.value[SIGNATURE_BYTES:] for peer, e in (await self._entries(key)).items()}

    async def _entries(self, key: str) -> dict[bytes, Any]:
        found = await self._call("get", lambda node: node.get(key, latest=True))
        return found.value if found is not None and isinstance(found.value, dict) else {}

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
            DirectoryError: if the peer is there but is no node of this DHT.
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
        if clock is not None and self.neighbours <= {peer}:
            await self.follow(clock)
        node.blacklist.register_success(peer_id)  # otherwise not asked for a while, for having been silent
        with self._clock.as_current():
            await node.protocol.update_routing_table(node_id, peer_id, responded=True)

    async def _ping(self, node: DHTNode, peer_id: PeerID) -> tuple[Any, Reading | None]:
        request = dht_pb2.PingRequest(peer=node.protocol.node_info, validate=False)
        asked_at = self._clock.monotonic()
        with self._clock.as_current():
            answer = await wait_for(node.protocol.get_stub(peer_id).rpc_ping(request), CALL_SECONDS)
        return answer, reading(answer.dht_time, asked_at, self._clock.monotonic())

    # -- the clock ----------------------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """For ever: go by the clock that most neighbours have."""
        peer = self._identity.peer
        await keep_time(peer, self._clock, lambda: self.neighbours, self.ask_time, self.follow, random.Random(peer))

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
