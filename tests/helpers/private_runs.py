"""Peers of a private run, with no network or over a simulated one."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

from p2p_elastic.common.addresses import PeerAddress
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.admission.invites import Invite
from p2p_elastic.peers.admission.tickets import Root
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import Stream, Transport
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.roles import Role
from p2p_elastic.testing.virtual_network import SimulatedNetwork

DAY = 86_400
ADDRESSES = ("/ip4/192.0.2.1/tcp/31330",)


class Time:
    """A clock that stands until it is put on."""

    def __init__(self, seconds: float = 2e9) -> None:
        self.seconds, self.monotonic = seconds, 0.0
        self.clock = SwarmClock(lambda: seconds, lambda: self.monotonic)

    def passes(self, seconds: float) -> None:
        self.monotonic += seconds


class Member:
    """A peer with its access list. Without an invite it is the founder."""

    def __init__(self, time: Time, invite: Invite | None = None, identity: Identity | None = None) -> None:
        self.identity = identity or Identity.generate()
        self.access = AccessList(self.identity, time.clock)
        if invite is None:
            self.access.enter(Root("lab", self.peer))
        else:
            self.access.enter(invite.root, invite.chain_for(self.identity))

    @property
    def peer(self) -> str:
        return self.identity.peer

    def invites(
        self, time: Time, role: Role = Role.TRAINER, seconds: int = DAY, identity: Identity | None = None
    ) -> Member:
        """A peer that uses an invite of this one."""
        return Member(time, self.access.invite(role, seconds, ADDRESSES), identity)

    def admits(self, other: Member) -> None:
        """The other shows its chain to this one."""
        self.access.admit(other.peer, other.access.chain)


class VirtualHost:
    """`Host` over a simulated network of its own: it serves one protocol."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def connect(self, peer: str, addresses: Sequence[PeerAddress]) -> None:
        """Nothing: all are connected."""

    async def open_stream(self, peer: str, protocol: str) -> Stream:
        return await self._transport.open(record_of(peer))

    async def serve(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        await self._transport.serve(handler)


def record_of(peer: str, revoked: str = "") -> PeerRecord:
    return PeerRecord(peer=peer, run="lab", schema_hash="0" * 32, revoked=revoked)


async def introducing(network: SimulatedNetwork, member: Member) -> Introductions:
    """Serves the introductions of a member."""
    introductions = Introductions(
        VirtualHost(network.transport(member.peer)), member.access, random.Random(member.peer)
    )
    await introductions.serve()
    return introductions
