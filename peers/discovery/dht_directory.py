"""The live directory: the members of a run and the runs there are, as signed entries in the DHT."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from p2p_elastic.errors import ConfigError, DirectoryError, PartnerUnreachable
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.discovery.dht_keys import RUNS_KEY, Entries, is_keeper
from p2p_elastic.peers.discovery.explain_address import explain
from p2p_elastic.peers.discovery.member_shards import MemberShards
from p2p_elastic.peers.discovery.reconnect import Seeker
from p2p_elastic.peers.discovery.view import WANTED_MAX
from p2p_elastic.peers.relay.circuits import circuits
from p2p_elastic.peers.transport.identity import Identity, peer_from_text, verify
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.manifest import RunManifest, read_manifest
from p2p_elastic.protocol.records import PeerRecord, PublishedManifest, SignedManifest, read_record, record_body
from p2p_elastic.protocol.roles import Role
from p2p_elastic.status.schema import BootstrapStatus

log = logging.getLogger(__name__)
MANIFEST_SECONDS = 20.0  # between two storings of what lives for RECORD_SECONDS
RECORD_SECONDS = 60.0  # announced every 5: a dead peer is forgotten after a minute; it is suspect long before that
ATTACH_SECONDS_MIN, ATTACH_SECONDS_MAX = 1.0, 30.0
NOT_TRIED = "not tried yet"
ADDRESSES_MAX, ADDRESSES_LENGTH_MAX = 8, 1200  # of this peer in its record: the rest of it needs up to 800 bytes


class Told(NamedTuple):
    """What the network side says of this peer in its record.

    Attributes:
        addresses: under which it may be reached, the best first.
        relay: whether it passes on what others send to each other.
    """

    addresses: tuple[str, ...] = ()
    relay: bool = False


class DHTDirectory:
    """`Directory` over signed DHT entries, plus run manifests and the way into the swarm.

    Args:
        entries: the DHT.
        identity: of this peer.
        initial_peers: peer id -> addresses, from the command line.
        known: peer id -> addresses of further peers, which an earlier life of this peer met.
    """

    def __init__(
        self,
        entries: Entries,
        identity: Identity,
        initial_peers: Mapping[str, tuple[str, ...]],
        known: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        self._entries, self._identity = entries, identity
        self._initial_peers = dict(initial_peers)
        self._problems: dict[str, str | None] = {a: NOT_TRIED for group in initial_peers.values() for a in group}
        self.others: tuple[PeerRecord, ...] = ()  # of the last look
        self._own_record: PeerRecord | None = None
        self._shards = MemberShards(entries, identity.peer)
        self._announcing = asyncio.Lock()  # a goodbye comes after the announcement under way, also after the first
        self._manifest: SignedManifest | None = None
        self._stored: tuple[SignedManifest | None, float] = None, 0.0  # and when it is to be stored again
        self._seen: dict[tuple[str, str], SignedManifest] = {}
        self.refused: Mapping[str, ConfigError] = {}  # runs of the last look that nobody can join, and why
        self._malformed = 0
        self._seeker = Seeker(entries, random.Random(identity.peer))
        self._seeker.seek_too(initial_peers)
        self.remember(known)
        self.told = Told()

    # -- Directory ----------------------------------------------------------------------------------------------------

    async def announce(self, record: PeerRecord) -> None:
        """Store this peer's record for RECORD_SECONDS, and keep the manifest alive if that is this peer's turn.

        Args:
            record: what this peer says of itself; before its addresses come as many of those `told` as fit.

        Raises:
            DirectoryError: if no node of the DHT takes it.
        """
        async with self._announcing:
            await self._announce(record)

    async def _announce(self, record: PeerRecord) -> None:
        if self._own_record is None or self._own_record.run != record.run:
            await self._shards.choose(record.run)
        addresses = (*fitting(self.told.addresses, record.addresses), *record.addresses)
        revoked = "" if self._access is None else self._access.revoked_digest
        about = None if self.count <= VIEW_MAX else self.count
        facts = {"addresses": addresses, "revoked": revoked, "relay": self.told.relay, "about": about}
        self._own_record = record.model_copy(update=facts)
        body = record_body(self._own_record)
        keys = self._shards.keys(record.run, body, record.group)
        await asyncio.gather(*(self._entries.put(key, body, RECORD_SECONDS) for key in keys))
        now, (stored, due) = asyncio.get_running_loop().time(), self._stored
        if self._manifest is not None and (self._manifest is not stored or now >= due) and self._keeps_manifest():
            await self._entries.put(RUNS_KEY, self._manifest.model_dump_json().encode(), RECORD_SECONDS)
            self._stored = self._manifest, now + MANIFEST_SECONDS

    async def own(self, run: str) -> PeerRecord | None:
        """Read the record under this peer's id: of this life or another, or of another process.

        If `members` was called since the last time, as it was then.

        Args:
            run: the run in which to look.

        Returns:
            The record; None if there is none, or it is malformed.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        return next(iter(self._parse(await self._shards.own(run), run)), None)

    async def withdraw(self) -> None:
        """Replace this peer's record by a goodbye, which expires soon after it; nothing before the first announcement.

        Raises:
            DirectoryError: if no node of the DHT takes it.
        """
        async with self._announcing:
            if self._own_record is None:
                return
            goodbye = self._own_record.model_copy(update={"left": True, "sequence": self._own_record.sequence + 1})
            await asyncio.gather(*(self._entries.put(key, record_body(goodbye), 1.0) for key in self._shards.announced))

    async def members(self) -> tuple[PeerRecord, ...]:
        """Read the other members of the run of the last announcement.

        Returns:
            The newest record of each; empty before the first announcement.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        if self._own_record is None:
            return ()
        run = self._own_record.run
        shards = await self._shards.look(run, self._entries.neighbours)
        found = [record for shard in shards for record in self._parse(shard.bodies, run)]
        newest = {r.peer: r for r in sorted(found, key=lambda r: r.sequence)}
        others = tuple(record for peer, record in newest.items() if peer != self._identity.peer)
        self.others = others
        self._seeker.note(others)
        self._hide()
        if self._entries.introductions is not None:
            self._entries.introductions.keep_soon([record for record in others if not record.left])
        return others

    def want(self, peers: Collection[str]) -> None:
        """From the next look on, see these members, however many there are.

        Args:
            peers: their ids; WANTED_MAX at most.
        """
        self._shards.wanted = tuple(peers)[:WANTED_MAX]

    def reads(self, peer: str) -> bool:
        """Whether a member would be seen where this peer looks.

        Args:
            peer: its id.

        Returns:
            False if this peer reads another part of a large run.
        """
        return self._shards.reads(peer)

    @property
    def count(self) -> int:
        """How many members there are about, with this peer, by the last look."""
        return self._shards.count

    @property
    def _access(self) -> AccessList | None:
        return None if self._entries.introductions is None else self._entries.introductions.access

    def _parse(self, entries: Mapping[str, bytes], run: str) -> list[PeerRecord]:
        records = []
        for peer, body in entries.items():
            try:
                record = read_record(body)
            except ValidationError:
                record = None
            if record is None or record.peer != peer or record.run != run:
                self._malformed += 1
                log.info("ignored a malformed record of %s", peer)
                continue
            records.append(record if self._access is None else restricted(record, self._access.role_of(peer)))
        return records

    # -- runs ---------------------------------------------------------------------------------------------------------

    def found(self, manifest: RunManifest) -> None:
        """From the next announcement on, publish a run as its founder.

        Args:
            manifest: what the run trains; signed here.
        """
        signature = self._identity.sign(_manifest_bytes(manifest.model_dump()))
        self._manifest = SignedManifest(manifest=manifest, signature=signature.hex())

    @property
    def manifest(self) -> SignedManifest | None:
        """The run that this peer keeps alive, with its founder's signature; None before it founded or joined one."""
        return self._manifest

    async def come_back(self, manifest: SignedManifest | None, known: Mapping[str, tuple[str, ...]]) -> bool:
        """Resume this peer's place in a run: keep its manifest alive as before, and look once for other peers.

        Args:
            manifest: the run, as it was signed; None if the run has none.
            known: peer id -> addresses of peers of the earlier life.

        Returns:
            True if a peer is there; otherwise `stay_attached` goes on looking.
        """
        self._manifest = manifest
        self.remember(known)
        return await self.attach() or await self.try_remembered()

    def _keeps_manifest(self) -> bool:
        assert self._manifest is not None
        founder = self._manifest.manifest.founder
        others = self.members_seen - {founder}
        return founder == self._identity.peer or is_keeper(self._identity.peer, others, self.count)

    async def runs(self) -> tuple[RunManifest, ...]:
        """Read the runs of this DHT whose manifest was signed by its founder.

        Returns:
            Their manifests. Runs that this version cannot join are in `refused`, with the reason.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        manifests, refused, self._seen = [], {}, {}
        for peer, body in (await self._entries.get(RUNS_KEY)).items():
            published = _signed_by_its_founder(body)
            try:
                if published is None:
                    raise ConfigError("signature", peer, "a manifest that its founder signed")
                manifest = read_manifest(published.manifest)
                self._check_root(manifest)
                if _manifest_bytes(manifest.model_dump()) != _manifest_bytes(published.manifest):
                    raise ConfigError("manifest", peer, "other fields than in this version: update p2p-elastic")
            except ConfigError as error:
                self._malformed += 1
                log.info("ignored a run manifest published by %s: %s", peer, error)
                if published is not None:
                    refused[str(published.manifest.get("run"))] = error
                continue
            self._seen[manifest.run, manifest.founder] = SignedManifest(
                manifest=manifest, signature=published.signature
            )
            manifests.append(manifest)
        self.refused = refused
        return tuple(manifests)

    def _check_root(self, manifest: RunManifest) -> None:
        """A private run is the one that the invite names, by its name and its founder's key; no other is joined."""
        root = None if self._access is None else self._access.root
        if root is not None and (manifest.run, manifest.founder) != root:
            raise ConfigError("run", manifest.run, f"run {root.run!r} of {root.founder}, as the invite says")
        if root is None and manifest.admission != "open":
            raise ConfigError("invite", None, "this run is private: ask one of its members for a line (--invite LINE)")

    def join(self, manifest: RunManifest) -> None:
        """From now on help to keep a run's manifest alive.

        Args:
            manifest: the run; it must have come from the last `runs`.
        """
        self._manifest = self._seen[manifest.run, manifest.founder]

    # -- the way into the swarm ---------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether at least one other peer of the DHT is known to answer."""
        return bool(self.neighbours)

    @property
    def members_seen(self) -> frozenset[str]:
        """The other members of the last look."""
        return frozenset(record.peer for record in self.others if not record.left)

    @property
    def neighbours(self) -> frozenset[str]:
        """The peers in the routing table, each of which answered, and those that say that one of these leads to them.

        Whoever is behind a router answers no question of the DHT. If that leads nowhere a relay says so at once.
        """
        near = self._entries.neighbours
        relays = {*near, self._identity.peer}
        behind = (r.peer for r in self.others if any(way.relay in relays for way in circuits(r.peer, r.places)))
        return near.union(behind)

    def _hide(self) -> None:
        """Leave members that are reached through relays to themselves; unless this is one, and knows nobody else."""
        behind = frozenset(r.peer for r in self.others if circuits(r.peer, r.places))
        here = circuits(self._identity.peer, self.told.addresses)
        hidden = frozenset() if here and self._entries.neighbours <= behind else behind
        self._entries.hide(hidden)
        self._seeker.hidden = hidden

    @property
    def is_first(self) -> bool:
        """Whether no peer of the DHT that is known has a smaller id: of several that could do something, one does."""
        return all(self._identity.peer < other for other in self._entries.neighbours)

    @property
    def ignored(self) -> int:
        """Records that were ignored, by the DHT node or by the directory."""
        return self._entries.refused + self._malformed

    def bootstrap(self) -> tuple[BootstrapStatus, ...]:
        """Tell what came of each initial address.

        Returns:
            One status for each address, in the order of the command line.
        """
        return tuple(BootstrapStatus(address=a, problem=p) for a, p in self._problems.items())

    async def until_attached(self) -> None:
        """Wait, while `stay_attached` runs, until another peer of the DHT answers."""
        while not self.attached:  # hivemind has no event for it  # noqa: ASYNC110
            await asyncio.sleep(0.5)

    async def attach(self) -> bool:
        """Try every initial peer once.

        Returns:
            True if at least one is there.
        """
        met = await asyncio.gather(*(self._meet_initial(p, a) for p, a in self._initial_peers.items()))
        if any(met):
            await self._explore()
        return any(met)

    @property
    def run(self) -> str | None:
        """The run of the last announcement; None before the first."""
        return None if self._own_record is None else self._own_record.run

    @property
    def founder(self) -> str | None:
        """The founder of the run that this peer founded or joined; None while it trains alone until it can join one."""
        return None if self._manifest is None else self._manifest.manifest.founder

    @property
    def ourselves(self) -> Mapping[str, tuple[str, ...]]:
        """This peer's id -> its addresses."""
        return {self._identity.peer: fitting(self.told.addresses)}

    @property
    def known(self) -> Mapping[str, tuple[str, ...]]:
        """Peer id -> addresses of the members of the last hour, the latest first."""
        return self._seeker.known

    def remember(self, addresses: Mapping[str, tuple[str, ...]]) -> int:
        """Look for further peers, which were members once.

        Args:
            addresses: peer id -> addresses.

        Returns:
            How many they are, without this peer.
        """
        others = {peer: those for peer, those in addresses.items() if peer != self._identity.peer}
        self._seeker.remember(others)
        return len(others)

    def forget_remembered(self) -> None:
        """Look for the remembered peers no more."""
        self._seeker.forget_remembered()

    async def try_remembered(self) -> bool:
        """Try the remembered peers until one is there.

        Returns:
            True if one was.
        """
        return await self._seeker.try_remembered()

    async def _meet_initial(self, peer: str, addresses: tuple[str, ...]) -> bool:
        met = False
        for address in addresses:
            self._problems[address] = problem = await self._problem(peer, address)
            met = met or problem is None
        return met

    async def _problem(self, peer: str, address: str) -> str | None:
        try:
            await self._entries.meet(peer, (address,))
        except (PartnerUnreachable, DirectoryError) as error:
            known = self._problems[address]
            if "dial backoff" in str(error) and known not in (None, NOT_TRIED):
                return known  # libp2p will not try again so soon; what it said the last time still holds
            return explain(address, str(error))
        return None

    async def _explore(self) -> None:
        try:
            await self._entries.explore()
        except DirectoryError as error:
            log.info("exploring the DHT: %s", error)

    async def stay_attached(self) -> None:
        """For ever: find the way in while alone, with backoff, and meet known peers that were lost from sight."""
        seeking = asyncio.ensure_future(self._seeker.run())
        try:
            await asyncio.gather(seeking, self._try_initial())
        finally:
            seeking.cancel()

    async def _try_initial(self) -> None:
        """For ever: try the initial peers while alone."""
        pause = ATTACH_SECONDS_MIN
        while True:
            if self.attached or not self._initial_peers:
                pause = ATTACH_SECONDS_MIN
            else:
                await self.attach()
            await asyncio.sleep(pause)
            pause = min(2 * pause, ATTACH_SECONDS_MAX)


def fitting(addresses: tuple[str, ...], beside: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Choose as many of the first addresses as a record has room for.

    Args:
        addresses: the best first.
        beside: what else is among the addresses of the record.

    Returns:
        With those at most ADDRESSES_MAX, of ADDRESSES_LENGTH_MAX characters in all; one that is too long is left out.

    Example:
        >>> fitting(("/ip4/192.0.2.1/tcp/1", "/dns/" + "x" * 1190, "/ip4/192.0.2.2/tcp/1"))
        ('/ip4/192.0.2.1/tcp/1', '/ip4/192.0.2.2/tcp/1')
    """
    chosen: list[str] = []
    for address in addresses[: ADDRESSES_MAX - len(beside)]:
        if sum(map(len, (*chosen, *beside))) + len(address) <= ADDRESSES_LENGTH_MAX:
            chosen.append(address)
    return tuple(chosen)


def restricted(record: PeerRecord, role: int) -> PeerRecord:
    """Leave of a record what the role of its peer allows.

    Args:
        record: of a member.
        role: a `Role`; 0 if it is not admitted.

    Returns:
        The record. An observer is never chosen, and only some roles hold, or are next to hold, the centre variable.
    """
    changes: dict[str, Any] = {} if role >= Role.CENTRE else {"centre": None}
    if role < Role.TRAINER:
        changes |= {"weight": 0.0, "drained": True}
    return record.model_copy(update=changes) if changes else record


def _signed_by_its_founder(body: bytes) -> PublishedManifest | None:
    try:
        entry = PublishedManifest.model_validate_json(body)
        founder = peer_from_text(str(entry.manifest.get("founder")))
        genuine = verify(founder, bytes.fromhex(entry.signature), _manifest_bytes(entry.manifest))
    except ValueError:
        return None
    return entry if genuine else None


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    return b"p2p-elastic/manifest/1" + json.dumps(manifest, sort_keys=True).encode()
