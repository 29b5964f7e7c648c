"""A private run: invites, introductions, tickets in the directory, put together as `LiveNetwork` does."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from helpers.directories import Around
from helpers.private_runs import ADDRESSES, DAY

from p2p_elastic.errors import NotAdmitted, PartnerUnreachable
from p2p_elastic.peers.admission.access_list import AccessList, AccessMemory
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.admission.invites import Invite
from p2p_elastic.peers.admission.tickets import Root
from p2p_elastic.peers.discovery.dht_directory import restricted
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import Directory, Handler, Stream, Transport
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.roles import Role
from p2p_elastic.testing.faults import Judge
from p2p_elastic.testing.virtual_network import SimulatedNetwork

RUN = "chaos"
CLOCK = 1_700_000_000  # seconds since 1970, when a run begins


_KEYS: dict[str, Identity] = {}  # peer id -> its identity, of those that were named here


@cache
def member(label: str) -> str:
    """The peer id that goes with a label, the same in every run."""
    identity = Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label.encode()).digest()))
    _KEYS[identity.peer] = identity
    return identity.peer


def clock() -> SwarmClock:
    """The swarm's, which peers follow whatever their machines say."""
    loop = asyncio.get_running_loop()
    return SwarmClock(lambda: CLOCK + loop.time(), loop.time)


class PrivateRun:
    """What the peers of a private run have in common.

    Attributes:
        network: over which they introduce themselves.
        chains: peer id -> the tickets that its record carries.
    """

    def __init__(self, founder: str, issuer: str, judge: Judge) -> None:
        self.network, self.chains = SimulatedNetwork(judge=judge), dict[str, bytes]()
        self._root, self._issuer = Root(RUN, founder), issuer
        self._invites: dict[str, Invite] = {}

    def _invite(self, peer: str, role: Role) -> Invite:
        """The line for that peer; another life of it is given the same one. Every second line names its peer."""
        if peer not in self._invites:
            desk = AccessList(_KEYS[self._root.founder], clock())
            desk.enter(self._root)
            named = peer if len(self._invites) % 2 else None
            self._invites[peer] = desk.invite(Role.ISSUER if peer == self._issuer else role, DAY, ADDRESSES, named)
        return self._invites[peer]

    def access(self, peer: str, role: Role, memory: AccessMemory | None) -> AccessList:
        """The access list of a life: with what the one before it left, or with an invite."""
        access = AccessList(_KEYS[peer], clock())
        if memory is not None:
            access.recall(memory)
        elif peer == self._root.founder:
            access.enter(self._root)
        else:
            access.enter(self._root, self._invite(peer, role).chain_for(_KEYS[peer]))
        return access


class AdmittedTransport:
    """`Transport` that introduces its peer first, as `Libp2pTransport` does."""

    def __init__(self, transport: Transport, beside: Transport, introductions: Introductions) -> None:
        self._transport, self._beside, self._introductions = transport, beside, introductions
        self.peer, self.direct, self.access = transport.peer, transport.direct, introductions.access

    async def serve(self, handler: Handler) -> None:
        await self._introductions.serve()
        await self._transport.serve(handler)

    async def close(self) -> None:
        await self._transport.close()
        await self._beside.close()

    async def open(self, record: PeerRecord) -> Stream:
        try:
            await self._introductions.ensure(record.peer)
        except NotAdmitted as error:
            raise PartnerUnreachable(str(error), partner=record.peer) from error
        return await self._transport.open(record)


class AdmittedDirectory(Around):
    """`Directory` whose records carry tickets, as those of `DHTDirectory` do."""

    def __init__(self, directory: Directory, run: PrivateRun, introductions: Introductions) -> None:
        super().__init__(directory)
        self._chains, self._introductions = run.chains, introductions

    async def announce(self, record: PeerRecord) -> None:
        access = self._introductions.access
        await super().announce(record.model_copy(update={"revoked": access.revoked_digest}))
        self._chains[record.peer] = access.chain

    async def members(self) -> tuple[PeerRecord, ...]:
        access = self._introductions.access
        known = [r for r in await super().members() if access.knows(r.peer, self._chains.get(r.peer, b""))]
        admitted = [r for r in known if access.allows(r.peer)]
        self._introductions.keep_soon([r for r in admitted if not r.left])
        return tuple(restricted(r, access.role_of(r.peer)) for r in admitted)
