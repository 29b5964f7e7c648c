"""Direct connections over TLS on loopback: who gets one, who does not, and what travels over it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest
import torch

from p2p_elastic.errors import ConfigError, ExchangeTimeout, PartnerUnreachable, RemoteProtocolError
from p2p_elastic.peers.direct.certificate import Certificate, decoded
from p2p_elastic.peers.direct.connection import TlsConnection
from p2p_elastic.peers.direct.tls_wire import HANDSHAKE_SECONDS, HANDSHAKES_PER_HOST, DirectPort, TlsWire
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Vectors
from p2p_elastic.protocol.messages import Direct

TOKEN, OTHER_TOKEN = "0" * 31 + "1", "0" * 31 + "2"
LOOPBACK = "127.0.0.1"
GAP = 10.0


class Two(NamedTuple):
    """A wire that dials and one that listens."""

    dials: TlsWire
    listens: TlsWire

    def told(self, token: str = TOKEN) -> Direct:
        """What the end that listens tells the other."""
        return Direct(certificate=self.listens.certificate, token=token, port=self.listens.port, dials=False)

    def tells(self) -> Direct:
        """What the end that dials tells the other."""
        return Direct(certificate=self.dials.certificate, token=OTHER_TOKEN, dials=True)

    async def connected(self, streams: int = 1) -> tuple[list[TlsConnection], list[TlsConnection]]:
        """Connections as the end that dials and the one that listens have them."""
        expected = self.listens.expect("dialler", self.tells(), TOKEN, streams)
        dialled = await self.dials.dial("listener", [LOOPBACK], self.told(), streams)
        arrived = await self.listens.arrived(expected)
        self.listens.forget(expected)
        return dialled, arrived


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[Two]:
    both = Two(TlsWire(), TlsWire())
    await both.listens.listen(LOOPBACK, DirectPort(0))
    try:
        yield both
    finally:
        await both.listens.close()


def run(test: Callable[[Two], Awaitable[None]]) -> None:
    async def main() -> None:
        async with two() as both:
            await test(both)

    asyncio.run(asyncio.wait_for(main(), 30.0))


def close(*ends: list[TlsConnection]) -> None:
    for end in ends:
        for one in end:
            one.close()


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("codec", ["none", "float16"])
def test_vectors_travel_both_ways_in_place(streams: int, codec: str) -> None:
    async def test(both: Two) -> None:
        dialled, arrived = await both.connected(streams)
        vectors = [Vectors.moving(torch.arange(300_001.0) * factor, codec) for factor in (1 / 128, 3 / 128)]

        async def transfer(end: list[TlsConnection], vector: Vectors) -> None:
            outgoing = [Outgoing(vector, lane, streams) for lane in range(streams)]
            incoming = [Incoming(vector, lane, streams, outgoing[lane]) for lane in range(streams)]
            await asyncio.gather(*(c.transfer(outgoing[i], incoming[i], GAP) for i, c in enumerate(end)))
            assert sum(o.nbytes for o in outgoing) == vector.wire_bytes // 2 - 12 * 5  # no headers

        await asyncio.gather(transfer(dialled, vectors[0]), transfer(arrived, vectors[1]))
        torch.testing.assert_close(vectors[0].mine, -vectors[1].mine, rtol=0, atol=0)
        torch.testing.assert_close(vectors[0].mine, torch.arange(300_001.0) / 64, rtol=2e-3, atol=1e-4)
        close(dialled, arrived)

    run(test)


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


# ---------------------------------------------------------------- strangers


def greeting(wire: TlsWire, certificate: Certificate | None, listener: Direct, shown: bytes) -> bytes:
    """What the listener answers to somebody with this certificate who shows this first; empty if it hangs up."""
    if certificate is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context = certificate.dialling(decoded(listener.certificate))
    with socket.create_connection((LOOPBACK, wire.port or 0), timeout=5.0) as plain:
        try:
            with context.wrap_socket(plain) as tls:
                tls.sendall(shown)
                return tls.recv(1)
        except OSError:  # TLS refuses
            return b""


async def greeted(both: Two, certificate: Certificate | None, token: str, number: int = 0) -> bytes:
    shown = bytes.fromhex(token) + bytes([number])
    return await asyncio.to_thread(greeting, both.listens, certificate, both.told(), shown)


def test_a_stranger_is_turned_away_whatever_it_shows_and_the_partner_is_not() -> None:
    async def test(both: Two) -> None:
        partner, stranger = Certificate(), Certificate()
        tells = both.tells().model_copy(update={"certificate": partner.text})
        expected = both.listens.expect("partner", tells, TOKEN, 1)
        assert await greeted(both, None, TOKEN) == b""  # without a certificate
        assert await greeted(both, stranger, TOKEN) == b""  # with one that nobody knows
        assert await greeted(both, partner, OTHER_TOKEN) == b""  # the token of another exchange
        assert await greeted(both, partner, TOKEN, 7) == b""  # a connection that was not agreed
        assert both.listens.refused.total() == 4
        assert await greeted(both, partner, TOKEN, 0) == b"\x01"
        assert await greeted(both, partner, TOKEN, 0) == b""  # a token is good once
        assert await greeted(both, partner, TOKEN, 1) == b"\x01"
        close(await both.listens.arrived(expected))
        both.listens.forget(expected)

    run(test)


def test_a_partner_that_is_awaited_cannot_pass_for_another_one() -> None:
    async def test(both: Two) -> None:
        here, there = Certificate(), Certificate()
        awaited = [
            both.listens.expect(name, both.tells().model_copy(update={"certificate": one.text}), token, 1)
            for name, one, token in (("here", here, TOKEN), ("there", there, OTHER_TOKEN))
        ]
        assert await greeted(both, here, OTHER_TOKEN) == b""
        assert await greeted(both, there, OTHER_TOKEN) == b"\x01"
        for one in awaited:
            both.listens.forget(one)

    run(test)


def test_nobody_is_heard_while_nobody_is_awaited() -> None:
    async def test(both: Two) -> None:
        assert await greeted(both, Certificate(), TOKEN) == b""
        assert both.listens.refused == {"nobody is awaited": 1}

    run(test)


def test_those_that_say_nothing_have_few_places_and_a_second() -> None:
    async def test(both: Two) -> None:
        expected = both.listens.expect("partner", both.tells(), TOKEN, 1)
        began = time.monotonic()
        loop, where = asyncio.get_running_loop(), (LOOPBACK, both.listens.port or 0)
        silent = [await asyncio.to_thread(socket.create_connection, where) for _ in range(HANDSHAKES_PER_HOST + 10)]
        for one in silent:
            one.setblocking(False)
            assert await loop.sock_recv(one, 1) == b""
            one.close()
        assert time.monotonic() - began < HANDSHAKE_SECONDS + 5.0
        assert both.listens.refused["too many at once"] >= 10
        dialled = await both.dials.dial("listener", [LOOPBACK], both.told(), 1)  # there is room again
        close(dialled, await both.listens.arrived(expected))
        both.listens.forget(expected)

    run(test)


def test_what_is_no_tls_is_turned_away() -> None:
    async def test(both: Two) -> None:
        expected = both.listens.expect("partner", both.tells(), TOKEN, 1)
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 600, b"\0"):
            reader, writer = await asyncio.open_connection(LOOPBACK, both.listens.port)
            writer.write(words)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()  # an alert at most, and the end
            writer.close()
        both.listens.forget(expected)

    run(test)


# ---------------------------------------------------------------- dialling


def test_a_listener_with_another_certificate_is_not_the_partner() -> None:
    async def test(both: Two) -> None:
        both.listens.expect("dialler", both.tells(), TOKEN, 1)
        told = both.told().model_copy(update={"certificate": Certificate().text})
        with pytest.raises(PartnerUnreachable, match="not connected directly"):
            await both.dials.dial("listener", [LOOPBACK], told, 1)

    run(test)


def test_the_host_that_answers_is_found_among_several() -> None:
    async def test(both: Two) -> None:
        expected = both.listens.expect("dialler", both.tells(), TOKEN, 2)
        hosts = ["127.0.0.2", "no-such-host.invalid", LOOPBACK]
        dialled = await both.dials.dial("listener", hosts, both.told(), 2)
        close(dialled, await both.listens.arrived(expected))

    run(test)


@pytest.mark.parametrize("hosts", [[], [LOOPBACK]])
def test_nobody_there_is_said(hosts: list[str]) -> None:
    async def test(both: Two) -> None:
        await both.listens.close()
        with pytest.raises(PartnerUnreachable):
            await both.dials.dial("listener", hosts, both.told(), 1)

    run(test)


def test_a_dialler_that_is_turned_away_hears_it() -> None:
    async def test(both: Two) -> None:
        both.listens.expect("dialler", both.tells(), OTHER_TOKEN, 1)
        with pytest.raises(PartnerUnreachable):
            await both.dials.dial("listener", [LOOPBACK], both.told(TOKEN), 1)

    run(test)


def test_dialling_is_given_up_without_leaving_anything() -> None:
    async def test(both: Two) -> None:
        with socket.create_server((LOOPBACK, 0)) as mute:  # it takes a connection, and says nothing
            told = both.told().model_copy(update={"port": mute.getsockname()[1]})
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(both.dials.dial("listener", [LOOPBACK], told, 2), 0.2)

    run(test)


def test_a_port_that_is_taken_is_refused_if_it_was_asked_for_and_another_one_found_if_not() -> None:
    async def test(both: Two) -> None:
        taken, wire = both.listens.port, TlsWire()
        with pytest.raises(ConfigError, match=f"direct-port: got {taken}; in use"):
            await wire.listen(LOOPBACK, DirectPort(taken))
        await wire.listen(LOOPBACK, DirectPort(), taken or 0)
        assert wire.port not in (None, taken)
        await wire.close()

    run(test)


@pytest.mark.parametrize("certificate", ["A" * 40, "A" * 41, "QUJD" * 20])
def test_what_is_no_certificate_is_the_partners_fault(certificate: str) -> None:
    async def test(both: Two) -> None:
        told = both.told().model_copy(update={"certificate": certificate})
        with pytest.raises(RemoteProtocolError):
            both.listens.expect("partner", told, TOKEN, 1)
        with pytest.raises(RemoteProtocolError):
            await both.dials.dial("partner", [LOOPBACK], told, 1)

    run(test)
