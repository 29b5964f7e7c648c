"""A private run of live peers: who was invited takes part, and nobody else, also when the founder is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from helpers.swarm import Member, run_members, tiny_model

from p2p_elastic.errors import ConfigError, DirectoryError, PartnerUnreachable
from p2p_elastic.node.run_finder import known_run
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.admission.tickets import Root
from p2p_elastic.peers.direct.tcp_wire import DirectPort
from p2p_elastic.peers.discovery.dht_keys import members_key
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.roles import Role
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule

DEADLINE, LOOPBACK, DAY, RUN = 60.0, "127.0.0.1", 86_400, "lab"
RELAY = "/libp2p/circuit/relay/0.2.0/hop"  # what a relay serves (circuit relay v2)


class Swarm:
    """Networks that were opened; the first is the founder's."""

    def __init__(self) -> None:
        self.networks: list[LiveNetwork] = []

    async def founds(self) -> LiveNetwork:
        network = LiveNetwork(Identity.generate(), ())
        network.access.enter(Root(RUN, network.identity.peer))
        return await self._open(network)

    async def joins(self, by: LiveNetwork, role: Role = Role.TRAINER) -> LiveNetwork:
        """With an invite of another member."""
        invite = by.access.invite(role, DAY, by.host.addresses)
        network = LiveNetwork(Identity.generate(), by.host.addresses)
        network.access.enter(invite.root, invite.chain_for(network.identity))
        return await self._open(network)

    async def stranger(self, near: LiveNetwork, root: Root | None = None) -> LiveNetwork:
        """Without one; with a `root` it says that it founded that run itself."""
        network = LiveNetwork(Identity.generate(), near.host.addresses)
        if root is not None:
            network.access.enter(root._replace(founder=network.identity.peer))
        return await self._open(network)

    async def _open(self, network: LiveNetwork) -> LiveNetwork:
        self.networks.append(network)
        await network.open(LOOPBACK, 0, DirectPort())
        return network


def member(network: LiveNetwork, seed: int) -> Member:
    model = tiny_model(seed)
    peer = Peer(
        vector=ParameterVector(model),
        policy=Policy(elastic(0.3), Schedule(probability=0.1)),
        transport=network.transport,
        directory=network.directory,
        context=RunContext(run=RUN, announce_seconds=1.0, refresh_seconds=0.3),
        seed=seed,
    )
    return Member(peer, model, step_seconds=0.005)


@contextlib.asynccontextmanager
async def swarm() -> AsyncIterator[Swarm]:
    opened = Swarm()
    try:
        yield opened
    finally:
        for network in opened.networks:
            await network.close()


def live(scenario: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        async with swarm() as opened:
            await scenario(opened)

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def completed(one: Member) -> int:
    return one.peer.exchanges().by_outcome.get(Outcome.COMPLETED, 0)


def test_who_was_invited_exchanges_also_while_the_founder_is_away() -> None:
    async def scenario(opened: Swarm) -> None:
        founder = await opened.founds()
        issuer = await opened.joins(founder, Role.ISSUER)
        assert await issuer.directory.attach()
        await founder.close()
        guest = await opened.joins(issuer)
        assert await guest.directory.attach()
        members = [member(network, i) for i, network in enumerate((issuer, guest))]
        for network in (issuer, guest):
            await network.stay_attached()
        await run_members(members, steps=300, settle_seconds=10.0)
        assert min(map(completed, members)) > 5
        assert guest.access.allows(issuer.identity.peer, Role.ISSUER)
        assert members[0].peer.streams_refused() == {}

    live(scenario)


def test_a_stranger_gets_no_word_into_a_private_run_and_none_out() -> None:
    async def scenario(opened: Swarm) -> None:
        founder = await opened.founds()
        one = member(founder, 0)
        serving = asyncio.ensure_future(one.peer.run())
        record = PeerRecord(peer=founder.identity.peer, run=RUN, schema_hash="0" * 32, addresses=founder.host.addresses)
        for root in (None, Root(RUN, "")):
            stranger = await opened.stranger(founder, root)
            if root is None:
                assert await stranger.directory.attach()  # a ping is answered
                assert await stranger.is_private()
                with pytest.raises(ConfigError, match="this run is private"):
                    await known_run(stranger, None)
                with contextlib.suppress(DirectoryError):
                    await stranger.dht.put(members_key(RUN), b"{}", 30.0)
                assert await stranger.directory.runs() == ()
                stream = await stranger.transport.open(record)
                with pytest.raises(PartnerUnreachable):
                    await stream.receive_into(memoryview(bytearray(1)))
                await stream.close()
            else:
                assert not await stranger.directory.attach()
                assert "it does not let this peer in: no ticket" in str(stranger.directory.bootstrap()[0].problem)
                with pytest.raises(PartnerUnreachable, match="does not let this peer in"):
                    await stranger.transport.open(record)
            assert stranger.identity.peer not in founder.dht.neighbours
            assert stranger.identity.peer not in await founder.dht.get(members_key(RUN))
        assert one.peer.streams_refused() == {"not admitted": 1}
        serving.cancel()

    live(scenario)


def test_a_revoked_peer_has_no_exchange_and_is_in_nobodys_list() -> None:
    async def scenario(opened: Swarm) -> None:
        founder = await opened.founds()
        networks = [founder, await opened.joins(founder), await opened.joins(founder)]
        for network in networks[1:]:
            assert await network.directory.attach()
            await network.stay_attached()
        members = [member(network, i) for i, network in enumerate(networks)]
        revoked, gone = networks[2].identity.peer, asyncio.Event()
        before: list[int] = []

        async def revoke() -> None:
            while min(map(completed, members)) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            founder.access.revoke(revoked)
            while any(n.access.allows(revoked) for n in networks):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)  # the exchange under way ends
            before.append(completed(members[2]))
            gone.set()

        revoking = asyncio.ensure_future(revoke())
        await run_members(members, steps=900, settle_seconds=10.0)
        await revoking
        assert before == [completed(members[2])]
        assert completed(members[0]) > before[0] // 4
        assert not any(m.peer == revoked and m.state == "alive" for one in members[:2] for m in one.peer.members())

    live(scenario)


def test_an_observer_reads_the_members_and_is_never_chosen() -> None:
    async def scenario(opened: Swarm) -> None:
        founder = await opened.founds()
        observer = await opened.joins(founder, Role.OBSERVER)
        assert await observer.directory.attach()
        own = PeerRecord(peer=observer.identity.peer, run=RUN, schema_hash="0" * 32, step=7)
        await observer.directory.announce(own)
        theirs = own.model_copy(update={"peer": founder.identity.peer})
        await founder.directory.announce(theirs)
        (seen,) = await founder.directory.members()
        assert (seen.peer, seen.weight, seen.drained) == (observer.identity.peer, 0.0, True)
        (seen,) = await observer.directory.members()
        assert (seen.peer, seen.weight, seen.drained) == (founder.identity.peer, 1.0, False)

    live(scenario)


def test_a_peer_relays_nothing_for_strangers() -> None:
    async def scenario(opened: Swarm) -> None:
        founder = await opened.founds()
        stranger = await opened.stranger(founder)
        assert await stranger.directory.attach()
        with pytest.raises(PartnerUnreachable, match="protocols not supported"):
            await stranger.host.open_stream(founder.identity.peer, RELAY)

    live(scenario)
