"""Places at relays, circuits through them, and what their two ends prove; over sockets within this process."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest
import torch

from p2p_elastic.common.addresses import PeerAddress, usable
from p2p_elastic.errors import ConfigError, PartnerUnreachable, RemoteProtocolError
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.peers.relay.circuits import (
    PROTOCOL,
    RELAYED,
    TEXT_BYTES_MAX,
    Verdict,
    Wish,
    circuit_address,
    circuits,
    hear,
    hear_answer,
    say,
)
from p2p_elastic.peers.relay.places import Places
from p2p_elastic.peers.relay.sealed_stream import FRAME_BYTES_MAX, SealedStream, seal_answering, seal_asking
from p2p_elastic.peers.relay.service import CIRCUITS_PER_PEER, Relay
from p2p_elastic.peers.relay.transport import RelayedTransport
from p2p_elastic.peers.transport.everybody import Everybody
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.peers.transport.socket_stream import SocketStream
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Vectors
from p2p_elastic.protocol.records import PeerRecord

SCHEMA, RATE, SECRET = "0" * 32, 1e9, b"what only the two ends know"
OUTSIDE, HOME = "127.0.0.1", "127.0.0.2"  # at the first one something listens
Hearing = Callable[[SocketStream], Awaitable[None]]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 20.0)

    asyncio.run(bounded())


def joined(one: str, other: str) -> tuple[SocketStream, SocketStream]:
    """A stream between two peers: the ends of the first and of the second."""
    ends = socket.socketpair()
    return SocketStream(other, ends[0]), SocketStream(one, ends[1])


class Host:
    """What a peer has of libp2p: streams to those that it dialled or that dialled it."""

    def __init__(self, net: Net, ip: str) -> None:
        self.net, self.identity, self.ip = net, Identity.generate(), ip
        self.connected = set[str]()
        self.handlers: dict[str, Hearing] = {}

    @property
    def peer(self) -> str:
        return self.identity.peer

    async def connect(self, peer: str, addresses: Sequence[PeerAddress]) -> None:
        there = self.net.hosts[peer]
        dialled = there.ip == OUTSIDE and any(a.host.value == OUTSIDE for a in addresses)
        if peer not in self.connected and not dialled:
            raise PartnerUnreachable("timed out", partner=peer)
        self.connected.add(peer)
        there.connected.add(self.peer)

    async def open_stream(self, peer: str, protocol: str) -> SocketStream:
        there = self.net.hosts[peer]
        if peer not in self.connected or protocol not in there.handlers:
            raise PartnerUnreachable("not connected", partner=peer)
        mine, theirs = joined(self.peer, peer)
        theirs.remote = self.ip
        self.net.begin(there.handlers[protocol], theirs)
        return mine

    async def serve(self, protocol: str, handler: Hearing) -> None:
        self.handlers[protocol] = handler


class Inner:
    """The transport below: exchange streams between peers that are connected."""

    direct: Any = None
    access = Everybody()

    def __init__(self, host: Host) -> None:
        self._host, self.peer = host, host.peer

    async def open(self, record: PeerRecord) -> Stream:
        await self._host.connect(record.peer, usable(record.peer, record.addresses))
        return await self._host.open_stream(record.peer, "exchange")

    async def serve(self, handler: Any) -> None:
        await self._host.serve("exchange", handler)

    async def close(self) -> None:
        self._host.handlers.pop("exchange", None)


class Member:
    """A peer with its places, and the relay that it is, if it is one."""

    def __init__(self, net: Net, host: Host, rate: float | None) -> None:
        self.net, self.host, self.changes = net, host, 0
        self.relay = Relay(host, lambda peer: peer not in net.strangers, rate)
        self.places = Places(
            host,
            host.identity,
            Everybody(),
            others=lambda: [m.record for m in net.members if m is not self],
            own=lambda: [net.address(host.ip)],
            changed=self._changed,
            rng=random.Random(0),
        )
        self.transport = RelayedTransport(Inner(host), self.places, self.relay)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def peer(self) -> str:
        return self.host.peer

    @property
    def record(self) -> PeerRecord:
        addresses = (self.net.address(self.host.ip), *self.places.addresses)
        return PeerRecord(peer=self.peer, run="r", schema_hash=SCHEMA, addresses=addresses, relay=self.relay.offered)


class Net:
    """All of them; on leaving, whoever still answers is stopped."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.members: list[Member] = []
        self.strangers = set[str]()
        self._tasks = set[asyncio.Task[None]]()
        self._listening = socket.create_server((OUTSIDE, 0))

    def address(self, ip: str) -> str:
        return f"/ip4/{ip}/tcp/{self._listening.getsockname()[1]}"

    async def add(self, ip: str = HOME, rate: float | None = None) -> Member:
        host = Host(self, ip)
        self.hosts[host.peer] = host
        member = Member(self, host, rate)
        self.members.append(member)
        await member.relay.serve()
        await member.places.serve()
        return member

    async def homes(self, rate: float = RATE) -> tuple[Member, Member, Member]:
        """A relay, and two peers that cannot be dialled; the last one answers, and has a place."""
        members = await self.add(OUTSIDE, rate), await self.add(), await self.add()
        await members[2].transport.serve(echo)
        assert await members[2].places.look()
        return members

    def begin(self, handler: Hearing, stream: SocketStream) -> None:
        async def answer() -> None:
            try:
                await handler(stream)
            finally:
                await stream.close()

        task = asyncio.ensure_future(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Net:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listening.close()


async def echo(stream: Stream) -> None:
    data = bytearray(len(SECRET))
    await stream.receive_into(memoryview(data))
    await stream.send(bytes(data) + stream.partner.encode())
    await stream.receive_into(memoryview(bytearray(1)))  # the end that reads the last word closes first


async def asked(member: Member, relay: Member, wish: Wish, text: str) -> Any:
    await member.host.connect(relay.peer, usable(relay.peer, relay.record.addresses))
    stream = await member.host.open_stream(relay.peer, PROTOCOL)
    try:
        await say(stream, wish, text)
        return await hear_answer(stream)
    finally:
        await stream.close()


async def sealed_pair() -> tuple[SealedStream, SealedStream]:
    one, other = Identity.generate(), Identity.generate()
    asks, answers = joined(one.peer, other.peer)
    return await asyncio.gather(seal_asking(asks, one, other.peer), seal_answering(answers, other, one.peer))


# -- through a relay ---------------------------------------------------------------------------------------------------


def test_two_peers_that_nobody_can_dial_reach_each_other_through_a_relay() -> None:
    async def main() -> None:
        async with Net() as net:
            relay, one, other = await net.homes()
            assert await one.places.look()
            for member in (one, other):
                assert (member.places.reachable, member.places.relays) == (False, (relay.peer,))
                assert member.changes == 1
            stream = await one.transport.open(other.record)
            await stream.send(SECRET)
            answer = bytearray(len(SECRET) + len(one.peer))
            await stream.receive_into(memoryview(answer))
            assert bytes(answer) == SECRET + one.peer.encode()  # who asked, as it has proven there
            assert (stream.partner, stream.relayed) == (other.peer, True)
            status = relay.relay.status()
            assert status is not None
            assert (status.places, status.circuits) == (2, 1)
            assert status.bytes_passed_on > 2 * len(SECRET)
            await stream.close()

    run(main)


def test_a_peer_that_can_be_dialled_gets_no_place() -> None:
    async def main() -> None:
        async with Net() as net:
            await net.add(OUTSIDE, RATE)
            near = await net.add(OUTSIDE)
            assert await near.places.look()
            assert near.places.relays == ()
            assert near.places.reachable is None  # who sees it at a private address says nothing of the world

    run(main)


def test_only_an_address_is_tried_from_which_the_peer_itself_comes() -> None:
    async def main() -> None:
        async with Net() as net:
            relay, liar = await net.add(OUTSIDE, RATE), await net.add()
            listens = net.address(OUTSIDE)
            assert (await asked(liar, relay, Wish.PLACE, listens)).verdict is Verdict.GRANTED
            liar.host.ip = OUTSIDE
            assert (await asked(liar, relay, Wish.PLACE, "nonsense")).verdict is Verdict.GRANTED
            assert await asked(liar, relay, Wish.PLACE, listens) == (Verdict.REACHED, OUTSIDE)

    run(main)


def test_who_is_no_relay_says_only_that_a_peer_cannot_be_dialled() -> None:
    async def main() -> None:
        async with Net() as net:
            plain, hidden = await net.add(OUTSIDE), await net.add()
            assert await hidden.places.look()
            assert (hidden.places.reachable, hidden.places.relays) == (False, ())
            assert (await asked(hidden, plain, Wish.CIRCUIT, plain.peer)).verdict is Verdict.NO_RELAY
            assert plain.relay.status() is None

    run(main)


def test_strangers_are_not_served_and_ask_again_later() -> None:
    async def main() -> None:
        async with Net() as net:
            relay, stranger = await net.add(OUTSIDE, RATE), await net.add()
            net.strangers.add(stranger.peer)
            for wish in Wish:
                assert (await asked(stranger, relay, wish, relay.peer)).verdict is Verdict.REFUSED
            assert not await stranger.places.look()
            assert stranger.places.reachable is None

    run(main)


def test_a_circuit_leads_only_to_who_has_a_place_and_is_there() -> None:
    async def main() -> None:
        async with Net() as net:
            relay, one, other = await net.homes()
            assert (await asked(one, relay, Wish.CIRCUIT, one.peer)).verdict is Verdict.NOT_HERE
            del other.host.handlers[RELAYED]
            with pytest.raises(PartnerUnreachable, match="not_here"):
                await one.transport.open(other.record)
            status = relay.relay.status()
            assert status is not None
            assert (status.places, status.circuits) == (0, 0)

    run(main)


def test_one_peer_has_so_many_circuits_and_no_more() -> None:
    async def main() -> None:
        async with Net() as net:
            relay, one, other = await net.homes()
            streams = [await one.transport.open(other.record) for _ in range(CIRCUITS_PER_PEER)]
            with pytest.raises(PartnerUnreachable, match="too many circuits"):
                await one.transport.open(other.record)
            status = relay.relay.status()
            assert status is not None
            assert status.circuits == CIRCUITS_PER_PEER
            for stream in streams:
                await stream.close()

    run(main)


def test_what_a_relay_passes_on_is_no_more_than_its_rate() -> None:
    async def main() -> None:
        async with Net() as net:
            one, other = (await net.homes(rate=100.0))[1:]
            began = asyncio.get_running_loop().time()
            stream = await one.transport.open(other.record)  # 97 and 64 bytes: the burst of 10 s pays for more
            await stream.send(bytes(890))  # it is passed on whole, and then not a byte more for a while
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.receive_into(memoryview(bytearray(1))), 0.3)
            assert asyncio.get_running_loop().time() - began < 5.0
            stream.abort()

    run(main)


def test_a_stream_from_who_is_no_relay_of_this_peer_is_dropped() -> None:
    async def main() -> None:
        async with Net() as net:
            stranger, other = await net.add(OUTSIDE), await net.add()
            await other.transport.serve(echo)
            await other.host.connect(stranger.peer, usable(stranger.peer, stranger.record.addresses))
            stream = await stranger.host.open_stream(other.peer, RELAYED)
            await say(stream, None, stranger.peer)
            with pytest.raises(PartnerUnreachable):
                await seal_asking(stream, stranger.host.identity, other.peer)
            stream.abort()

    run(main)


# -- the two ends ------------------------------------------------------------------------------------------------------


def test_messages_and_vectors_arrive_whole_whatever_their_size() -> None:
    async def main() -> None:
        one, other = await sealed_pair()
        for size in (0, 1, FRAME_BYTES_MAX, 3 * FRAME_BYTES_MAX + 7):
            sent, came = bytes(i % 251 for i in range(size)), bytearray(size)
            await asyncio.gather(one.send(sent), other.receive_into(memoryview(came)))
            assert bytes(came) == sent
        vectors = [Vectors(torch.rand(300_000), torch.zeros(300_000)) for _ in range(2)]
        moved = []
        for end, both in zip((one, other), vectors, strict=True):
            out = Outgoing(both, 0, 1)
            moved.append(end.transfer(out, Incoming(both, 0, 1, out), 5.0))
        await asyncio.gather(*moved)
        assert torch.equal(vectors[0].theirs, vectors[1].mine)
        assert torch.equal(vectors[1].theirs, vectors[0].mine)
        for end in (one, other):
            await end.close()

    run(main)


def test_a_changed_byte_breaks_the_stream_and_blames_nobody() -> None:
    async def main() -> None:
        one, other = Identity.generate(), Identity.generate()
        (mine, left), (right, theirs) = joined(one.peer, other.peer), joined(one.peer, other.peer)
        sealing = asyncio.gather(seal_asking(mine, one, other.peer), seal_answering(theirs, other, one.peer))
        await pass_on(left, right, 33)
        await pass_on(right, left, 33 + 64)
        await pass_on(left, right, 64)
        sealed = await sealing
        await sealed[0].send(b"move 5")
        await pass_on(left, right, 4 + 6 + 16, change=9)
        with pytest.raises(PartnerUnreachable, match="broke"):
            await sealed[1].receive_into(memoryview(bytearray(6)))
        for end in (*sealed, left, right):
            end.abort()

    run(main)


async def pass_on(source: SocketStream, target: SocketStream, count: int, change: int | None = None) -> None:
    data = bytearray(count)
    await source.receive_into(memoryview(data))
    if change is not None:
        data[change] ^= 1
    await target.send(bytes(data))


def test_a_relay_cannot_answer_for_another() -> None:
    async def main() -> None:
        one, other, relay = (Identity.generate() for _ in range(3))
        mine, theirs = joined(one.peer, other.peer)
        lying = asyncio.ensure_future(seal_answering(theirs, relay, one.peer))
        with pytest.raises(PartnerUnreachable, match="somebody else"):
            await seal_asking(mine, one, other.peer)
        mine.abort()
        with pytest.raises(PartnerUnreachable):
            await lying
        theirs.abort()

    run(main)


def test_a_relay_cannot_ask_for_another() -> None:
    async def main() -> None:
        one, other, relay = (Identity.generate() for _ in range(3))
        mine, theirs = joined(one.peer, other.peer)
        honest = asyncio.ensure_future(seal_answering(theirs, other, one.peer))
        await mine.send(bytes([1]) + bytes(range(32)))
        await mine.receive_into(memoryview(bytearray(33 + 64)))
        await mine.send(relay.sign(b"whatever it likes"))
        with pytest.raises(PartnerUnreachable, match="somebody else"):
            await honest
        for end in (mine, theirs):
            end.abort()

    run(main)


@pytest.mark.parametrize("said", [b"\x01" + (TEXT_BYTES_MAX + 1).to_bytes(2, "big"), b"\x01\x00\x01\xff"])
def test_what_is_too_long_or_no_text_is_refused(said: bytes) -> None:
    async def main() -> None:
        mine, theirs = joined("one", "other")
        await mine.send(said)
        with pytest.raises(RemoteProtocolError):
            await hear(theirs)
        for end in (mine, theirs):
            end.abort()

    run(main)


# -- addresses and options ---------------------------------------------------------------------------------------------


def test_the_address_of_a_place_leads_to_the_relay_and_to_nobody_directly() -> None:
    peer, relay = Identity.generate().peer, Identity.generate().peer
    address = circuit_address(relay, ["/ip4/192.0.2.1/tcp/4001", "/ip4/10.0.0.1/tcp/4001"])
    assert address == f"/ip4/192.0.2.1/tcp/4001/p2p/{relay}/p2p-circuit"
    [way] = circuits(peer, [address, "/ip4/10.0.0.7/tcp/1", "nonsense"])
    assert (way.relay, [a.where for a in way.where]) == (relay, ["/ip4/192.0.2.1/tcp/4001"])
    assert usable(peer, [address]) == ()
    assert circuit_address(relay, ["nonsense"]) is None


def test_the_rate_of_a_relay_is_read_as_other_rates() -> None:
    assert JoinConfig().relay_rate is None
    assert JoinConfig(relay="8Mbit/s").relay_rate == 1e6
    assert (JoinConfig(relay="unlimited").relay_rate or 0.0) > 1e12
    with pytest.raises(ConfigError, match="relay"):
        JoinConfig(relay="fast")
