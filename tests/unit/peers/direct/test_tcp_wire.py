"""Direct connections over TCP on loopback: who gets one, who does not, and what travels over it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest
import torch

from p2p_elastic.errors import ConfigError, ExchangeTimeout, PartnerUnreachable
from p2p_elastic.peers.direct import sealing
from p2p_elastic.peers.direct.connection import DirectConnection
from p2p_elastic.peers.direct.expected import Expected
from p2p_elastic.peers.direct.sealing import TAG_BYTES, Agreed
from p2p_elastic.peers.direct.tcp_wire import GREETING_SECONDS, GREETINGS_PER_HOST, DirectPort, TcpWire
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Vectors
from p2p_elastic.protocol.framing import CHUNK_ELEMENTS
from p2p_elastic.protocol.messages import Direct

TOKEN, OTHER_TOKEN = "0" * 31 + "1", "0" * 31 + "2"
SECRET, OTHER_SECRET = "a" * 64, "b" * 64
LOOPBACK = "127.0.0.1"
GAP = 10.0
CHUNK = 4 * CHUNK_ELEMENTS + TAG_BYTES


class Two(NamedTuple):
    """A wire that dials and one that listens."""

    dials: TcpWire
    listens: TcpWire

    def agreed(self, **listener: object) -> Agreed:
        """What both ends have told each other."""
        told = {"secret": SECRET, "aes": self.listens.aes, "token": TOKEN, "port": self.listens.port, "dials": False}
        dialler = Direct(secret=OTHER_SECRET, aes=self.dials.aes, token=OTHER_TOKEN, dials=True)
        return Agreed(dialler, Direct.model_validate({**told, **listener}))

    def expect(self, streams: int = 1) -> Expected[DirectConnection]:
        """The end that listens awaits the other one."""
        expected = self.listens.expect("dialler", TOKEN)
        expected.agree(self.agreed(), streams)
        return expected

    async def connected(self, streams: int = 1) -> tuple[list[DirectConnection], list[DirectConnection]]:
        """Connections as the end that dials and the one that listens have them."""
        expected = self.expect(streams)
        dialled = await self.dials.dial("listener", [LOOPBACK], self.agreed(), streams)
        arrived = await expected.all_here()
        self.listens.forget(expected)
        return dialled, arrived


@contextlib.asynccontextmanager
async def two(aes: tuple[bool, bool] = (True, True)) -> AsyncIterator[Two]:
    both = Two(*(TcpWire(aes=fast) for fast in aes))
    await both.listens.listen(LOOPBACK, DirectPort(0))
    try:
        yield both
    finally:
        await both.listens.close()


def run(test: Callable[[Two], Awaitable[None]], aes: tuple[bool, bool] = (True, True)) -> None:
    async def main() -> None:
        async with two(aes) as both:
            await test(both)

    asyncio.run(asyncio.wait_for(main(), 30.0))


def close(*ends: list[DirectConnection]) -> None:
    for end in ends:
        for one in end:
            one.close()


@pytest.mark.parametrize("aes", [(True, True), (True, False)], ids=["AES-GCM", "ChaCha20"])
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("codec", ["none", "float16"])
def test_vectors_travel_both_ways_in_place(streams: int, codec: str, aes: tuple[bool, bool]) -> None:
    async def test(both: Two) -> None:
        dialled, arrived = await both.connected(streams)
        vectors = [Vectors.moving(torch.arange(300_001.0) * factor, codec) for factor in (1 / 128, 3 / 128)]

        async def transfer(end: list[DirectConnection], vector: Vectors) -> None:
            outgoing = [Outgoing(vector, lane, streams) for lane in range(streams)]
            incoming = [Incoming(vector, lane, streams, outgoing[lane]) for lane in range(streams)]
            await asyncio.gather(*(c.transfer(outgoing[i], incoming[i], GAP) for i, c in enumerate(end)))
            assert sum(o.nbytes for o in outgoing) == vector.wire_bytes // 2 - 12 * 5  # no headers

        await asyncio.gather(transfer(dialled, vectors[0]), transfer(arrived, vectors[1]))
        torch.testing.assert_close(vectors[0].mine, -vectors[1].mine, rtol=0, atol=0)
        torch.testing.assert_close(vectors[0].mine, torch.arange(300_001.0) / 64, rtol=2e-3, atol=1e-4)
        close(dialled, arrived)

    run(test, aes)


def test_a_connection_has_one_name_at_both_ends_and_serves_again() -> None:
    async def test(both: Two) -> None:
        dialled, arrived = await both.connected(2)
        assert [c.name for c in dialled] == [c.name for c in arrived]
        assert len({c.name for c in dialled}) == 2
        out = torch.empty(70_000)
        for turn in (1.0, 2.0):
            sending, filling = Vectors.sending(torch.full((70_000,), turn)), Vectors.into(out)
            sent = dialled[0].transfer(Outgoing(sending), None, GAP)
            await asyncio.gather(sent, arrived[0].transfer(None, Incoming(filling), GAP))
            assert bool((out == turn).all())
            assert dialled[0].usable
            assert arrived[0].usable
        close(dialled)
        assert not dialled[0].usable
        assert not arrived[0].usable  # it sees that the other end is gone
        close(arrived)

    run(test)


def test_an_end_in_the_middle_is_seen_at_the_other_end() -> None:
    async def test(both: Two) -> None:
        dialled, arrived = await both.connected()
        filling = arrived[0].transfer(None, Incoming(Vectors.into(torch.empty(70_000))), GAP)
        task = asyncio.ensure_future(filling)
        dialled[0].abort()
        with pytest.raises(PartnerUnreachable):
            await task

    run(test)


def test_silence_is_too_late_and_giving_up_leaves_no_thread() -> None:
    async def test(both: Two) -> None:
        dialled, arrived = await both.connected()
        with pytest.raises(ExchangeTimeout):
            await arrived[0].transfer(None, Incoming(Vectors.into(torch.empty(70_000))), 0.05)
        close(dialled)

    run(test)


def test_a_partner_that_reads_late_is_waited_for_while_it_sends() -> None:
    elements = 4_000_000  # more than kernels keep for a reader that does not come

    async def test(both: Two) -> None:
        (mine,), (theirs,) = await both.connected()
        vectors = Vectors(torch.zeros(elements), torch.zeros(elements))
        moving = asyncio.ensure_future(mine.transfer(Outgoing(vectors), Incoming(vectors), 0.2))
        for header, chunk in Outgoing(Vectors.sending(torch.ones(elements))).pieces(headers=False):
            await asyncio.get_running_loop().run_in_executor(None, theirs.send_now, header, chunk)
            await asyncio.sleep(0.01)  # all together more than 0.2 s, in which nothing is read at that end
        assert not moving.done()
        await theirs.transfer(None, Incoming(Vectors.into(torch.ones(elements))), GAP)
        await moving
        assert torch.equal(vectors.theirs, torch.ones(elements))
        close([mine], [theirs])

    run(test)


# ---------------------------------------------------------------- strangers


def said(wire: TcpWire, words: bytes) -> bytes:
    """What the listener answers to these words; empty if it hangs up."""
    with socket.create_connection((LOOPBACK, wire.port or 0), timeout=5.0) as plain:
        try:
            plain.sendall(words)
            return plain.recv(TAG_BYTES)
        except ConnectionError:
            return b""


def greeting(agreed: Agreed, number: int = 0, token: str | None = None) -> bytes:
    """What a dialler shows, by what it believes."""
    shown = bytes.fromhex(token or agreed.listener.token) + bytes([number])
    proof = bytearray(TAG_BYTES)
    agreed.seals(number)[0].seal(b"", proof, shown)
    return shown + bytes(proof)


def test_a_stranger_is_turned_away_whatever_it_shows_and_the_partner_is_not() -> None:
    async def test(both: Two) -> None:
        async def answer(words: bytes) -> bytes:
            return await asyncio.to_thread(said, both.listens, words)

        expected, right = both.expect(2), both.agreed()
        wrong_secret = greeting(both.agreed(secret="c" * 64))
        turned_away = {
            "not awaited": [greeting(right, token=OTHER_TOKEN), greeting(right, 2), greeting(right, 255)],
            "no partner": [wrong_secret, greeting(right)[:-1] + b"\0", greeting(right)[:17] + greeting(right, 1)[17:]],
        }
        for why, shown in turned_away.items():
            assert [await answer(words) for words in shown] == [b""] * 3
            assert both.listens.refused[why] == 3
        assert len(await answer(greeting(right))) == TAG_BYTES
        assert await answer(greeting(right)) == b""  # each number is good once, also for who overheard it
        assert len(await answer(greeting(right, 1))) == TAG_BYTES
        close(await expected.all_here())
        both.listens.forget(expected)

    run(test)


def test_a_partner_that_is_awaited_cannot_pass_for_another_one() -> None:
    async def test(both: Two) -> None:
        here, there = both.agreed(), both.agreed(token=OTHER_TOKEN, secret="d" * 64)
        awaited = [both.listens.expect(name, one.listener.token) for name, one in (("here", here), ("there", there))]
        for expected, agreed in zip(awaited, (here, there), strict=True):
            expected.agree(agreed, 1)
        assert await asyncio.to_thread(said, both.listens, greeting(here, token=OTHER_TOKEN)) == b""
        assert len(await asyncio.to_thread(said, both.listens, greeting(there))) == TAG_BYTES
        for expected in awaited:
            both.listens.forget(expected)

    run(test)


def test_nobody_is_heard_while_nobody_is_awaited() -> None:
    async def test(both: Two) -> None:
        assert await asyncio.to_thread(said, both.listens, greeting(both.agreed())) == b""
        assert both.listens.refused == {"nobody is awaited": 1}

    run(test)


def test_those_that_say_nothing_have_few_places_and_a_second() -> None:
    async def test(both: Two) -> None:
        expected = both.expect()
        began = time.monotonic()
        loop, where = asyncio.get_running_loop(), (LOOPBACK, both.listens.port or 0)
        silent = [await asyncio.to_thread(socket.create_connection, where) for _ in range(GREETINGS_PER_HOST + 10)]
        for one in silent:
            one.setblocking(False)
            assert await loop.sock_recv(one, 1) == b""
            one.close()
        assert time.monotonic() - began < GREETING_SECONDS + 5.0
        assert both.listens.refused["too many at once"] >= 10
        dialled = await both.dials.dial("listener", [LOOPBACK], both.agreed(), 1)  # there is room again
        close(dialled, await expected.all_here())
        both.listens.forget(expected)

    run(test)


def test_what_is_no_greeting_is_turned_away() -> None:
    async def test(both: Two) -> None:
        expected = both.expect()
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 600):
            assert await asyncio.to_thread(said, both.listens, words) == b""
        assert both.listens.refused == {"not awaited": 2}
        both.listens.forget(expected)

    run(test)


# ---------------------------------------------------------------- dialling


def test_a_dialler_that_comes_before_the_answer_waits_for_it() -> None:
    async def test(both: Two) -> None:
        expected = both.listens.expect("dialler", TOKEN)
        dialling = asyncio.ensure_future(both.dials.dial("listener", [LOOPBACK], both.agreed(), 2))
        await asyncio.to_thread(said, both.listens, b"\0" * 33)  # by now the listener has heard the dialler
        expected.agree(both.agreed(), 2)
        close(await dialling, await expected.all_here())
        both.listens.forget(expected)

    run(test)


def test_a_listener_with_another_secret_is_not_the_partner() -> None:
    async def test(both: Two) -> None:
        both.expect()
        with pytest.raises(PartnerUnreachable, match="not connected directly"):
            await both.dials.dial("listener", [LOOPBACK], both.agreed(secret="c" * 64), 1)

    run(test)


def test_who_only_repeats_what_it_hears_is_not_the_partner() -> None:
    async def test(both: Two) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.read(100))[-TAG_BYTES:])
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(echo, LOOPBACK, 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(PartnerUnreachable, match="is no partner's"):
                await both.dials.dial("listener", [LOOPBACK], both.agreed(port=port), 1)

    run(test)


def test_the_host_that_answers_is_found_among_several() -> None:
    async def test(both: Two) -> None:
        expected = both.expect(2)
        hosts = ["127.0.0.2", "no-such-host.invalid", LOOPBACK]
        dialled = await both.dials.dial("listener", hosts, both.agreed(), 2)
        close(dialled, await expected.all_here())

    run(test)


@pytest.mark.parametrize("hosts", [[], [LOOPBACK]])
def test_nobody_there_is_said(hosts: list[str]) -> None:
    async def test(both: Two) -> None:
        await both.listens.close()
        with pytest.raises(PartnerUnreachable):
            await both.dials.dial("listener", hosts, both.agreed(), 1)

    run(test)


def test_a_dialler_that_is_turned_away_hears_it() -> None:
    async def test(both: Two) -> None:
        both.expect()
        with pytest.raises(PartnerUnreachable):
            await both.dials.dial("listener", [LOOPBACK], both.agreed(token=OTHER_TOKEN), 1)

    run(test)


def test_dialling_is_given_up_without_leaving_anything() -> None:
    async def test(both: Two) -> None:
        with socket.create_server((LOOPBACK, 0)) as mute:  # it takes a connection, and says nothing
            agreed = both.agreed(port=mute.getsockname()[1])
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(both.dials.dial("listener", [LOOPBACK], agreed, 2), 0.2)

    run(test)


def test_a_port_that_is_taken_is_refused_if_it_was_asked_for_and_another_one_found_if_not() -> None:
    async def test(both: Two) -> None:
        taken, wire = both.listens.port, TcpWire()
        with pytest.raises(ConfigError, match=f"direct-port: got {taken}; in use"):
            await wire.listen(LOOPBACK, DirectPort(taken))
        await wire.listen(LOOPBACK, DirectPort(), taken or 0)
        assert wire.port not in (None, taken)
        await wire.close()

    run(test)


# ---------------------------------------------------------------- what somebody between the two does


Change = Callable[[bytes], bytes]


def doubled(data: bytes) -> bytes:
    return data[:CHUNK] + data[:CHUNK] + data[2 * CHUNK :]


def swapped(data: bytes) -> bytes:
    return data[CHUNK : 2 * CHUNK] + data[:CHUNK] + data[2 * CHUNK :]


def flipped(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


@pytest.mark.parametrize("change", [doubled, swapped, flipped], ids=lambda change: change.__name__)
def test_what_was_changed_on_its_way_breaks_the_connection_and_blames_nobody(change: Change) -> None:
    async def test(both: Two) -> None:
        (sends, _), (opens, unused) = both.agreed().seals(0), both.agreed().seals(0)
        here, there = socket.socketpair()
        sealed = [memoryview(bytearray(CHUNK)) for _ in range(3)]
        for one in sealed:
            sends.seal(bytes(CHUNK - TAG_BYTES), one)
        receiver = DirectConnection("name", "partner", there, unused, opens)
        filling = Vectors.into(torch.empty(3 * CHUNK_ELEMENTS))
        with here:
            sending = asyncio.to_thread(here.sendall, change(b"".join(sealed)))
            receiving = receiver.transfer(None, Incoming(filling), GAP)
            _, failed = await asyncio.gather(sending, receiving, return_exceptions=True)
        assert isinstance(failed, PartnerUnreachable)
        assert "changed on its way" in str(failed)

    run(test)


def test_a_connection_whose_key_is_worn_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(both: Two) -> None:
        dialled, arrived = await both.connected()
        for chunks, usable in ((1, True), (2, False)):
            vectors = (
                Vectors.sending(torch.ones(chunks * CHUNK_ELEMENTS)),
                Vectors.into(torch.empty(chunks * CHUNK_ELEMENTS)),
            )
            sent = dialled[0].transfer(Outgoing(vectors[0]), None, GAP)
            await asyncio.gather(sent, arrived[0].transfer(None, Incoming(vectors[1]), GAP))
            assert dialled[0].usable == arrived[0].usable == usable
        close(dialled, arrived)

    monkeypatch.setattr(sealing, "CHUNKS_MAX", 4)  # a proof and three chunks
    run(test)
