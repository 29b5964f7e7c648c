"""The stream over a real socket: messages, transfers in threads, and every way in which those can end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable, RemoteProtocolError
from p2p_elastic.peers.transport.socket_stream import SocketStream
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Vectors

LARGE = 3_000_000  # elements; more than kernels keep for a reader that does not come


def pair() -> tuple[SocketStream, SocketStream]:
    one, other = socket.socketpair()
    return SocketStream("b", one), SocketStream("a", other)


def both(act: Callable[[SocketStream, SocketStream], Awaitable[Any]]) -> Any:
    """Run `act` with the two ends of a stream, and see that no thread is left at work in it."""

    async def main() -> Any:
        a, b = pair()
        try:
            return await asyncio.wait_for(act(a, b), 30.0)
        finally:
            a.abort()
            b.abort()
            assert a.socket.fileno() == b.socket.fileno() == -1

    return asyncio.run(main())


def ends(vectors: Vectors) -> tuple[Outgoing, Incoming]:
    outgoing = Outgoing(vectors)
    return outgoing, Incoming(vectors, after=outgoing)


def test_messages_then_vectors_then_messages_arrive_in_order() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        mine, theirs = torch.full((LARGE,), 1.0), torch.full((LARGE,), 3.0)
        for _ in range(2):
            buffer = bytearray(5)
            await a.send(b"hello")
            await b.receive_into(memoryview(buffer))
            assert buffer == b"hello"
            moving, back = Vectors.moving(mine), Vectors.moving(theirs)
            longest = await asyncio.gather(a.transfer(*ends(moving), 5.0), b.transfer(*ends(back), 5.0))
            assert all(0.0 < seconds < 5.0 for seconds in longest)
            assert torch.equal(mine, -theirs)

    both(act)


def test_one_way_needs_nothing_from_the_other() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        out = torch.empty(LARGE)
        outgoing, incoming = Outgoing(Vectors.sending(torch.arange(LARGE).float())), Incoming(Vectors.into(out))
        await asyncio.gather(a.transfer(outgoing, None, 5.0), b.transfer(None, incoming, 5.0))
        assert torch.equal(out, torch.arange(LARGE).float())

    both(act)


def test_who_waits_for_a_stream_that_is_given_up_hears_of_it_at_once() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        waiting = asyncio.ensure_future(a.receive_into(memoryview(bytearray(5))))
        sending = asyncio.ensure_future(a.send(bytes(100_000_000)))
        await asyncio.sleep(0)  # both are in the event loop's hands
        a.abort()
        for task in (waiting, sending):
            with pytest.raises(PartnerUnreachable):
                await task

    both(act)


def test_what_was_received_before_the_socket_was_ours_comes_first() -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        a, b = SocketStream("b", one), SocketStream("a", other, rest=b"early ")
        await a.send(b"late")
        buffer = bytearray(10)
        await b.receive_into(memoryview(buffer))
        assert buffer == b"early late"
        a.abort()
        b.abort()

    asyncio.run(main())


class Filled(asyncio.StreamReader):
    """A reader that says when it has more than it asks for: nothing was read of it yet."""

    def __init__(self) -> None:
        super().__init__()
        self.full, self.fed = asyncio.Event(), 0

    def feed_data(self, data: bytes) -> None:
        super().feed_data(data)
        self.fed += len(data)
        if self.fed >= 200_000:
            self.full.set()


def test_a_socket_is_taken_over_from_a_reader_that_is_full() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[SocketStream] = loop.create_future()
        filled = Filled()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await filled.full.wait()
            accepted.set_result(await SocketStream.take_over("a", reader, writer))

        server = await loop.create_server(lambda: asyncio.StreamReaderProtocol(filled, accept), "127.0.0.1", 0)
        _, port = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        data = bytes(range(256)) * 4096
        writer.write(data)
        stream, buffer = await accepted, bytearray(len(data))
        await stream.receive_into(memoryview(buffer))
        assert buffer == data
        await stream.send(b"x")
        writer.close()
        stream.abort()
        server.close()

    asyncio.run(main())


def test_a_partner_that_stops_reading_is_too_late() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        with pytest.raises(ExchangeTimeout, match=r"within 0\.05 s"):
            await a.transfer(Outgoing(Vectors.sending(torch.zeros(LARGE))), None, 0.05)

    both(act)


def test_a_partner_that_reads_late_is_waited_for_while_it_sends() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        vectors = Vectors(torch.zeros(LARGE), torch.zeros(LARGE))
        moving = asyncio.ensure_future(a.transfer(Outgoing(vectors), Incoming(vectors), 0.2))
        for header, chunk in Outgoing(Vectors.sending(torch.ones(LARGE))).pieces():
            await b.send(bytes(header) + bytes(chunk))
            await asyncio.sleep(0.01)  # all together more than 0.2 s, in which `b` reads nothing
        assert not moving.done()
        await b.transfer(None, Incoming(Vectors.into(torch.ones(LARGE))), 5.0)
        await moving
        assert torch.equal(vectors.theirs, torch.ones(LARGE))

    both(act)


def test_a_partner_that_sends_nothing_is_too_late() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        with pytest.raises(ExchangeTimeout):
            await a.transfer(*ends(Vectors.moving(torch.zeros(10))), 0.05)

    both(act)


def test_a_partner_that_goes_away_ends_it_at_once() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        transfer = asyncio.ensure_future(a.transfer(*ends(Vectors.moving(torch.zeros(LARGE))), 20.0))
        buffer = bytearray(1000)
        await b.receive_into(memoryview(buffer))
        b.abort()
        with pytest.raises(PartnerUnreachable, match="the stream (ended|broke)"):
            await transfer

    both(act)


def test_a_wrong_chunk_ends_both_directions() -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        transfer = asyncio.ensure_future(a.transfer(*ends(Vectors.moving(torch.zeros(LARGE))), 20.0))
        await b.send(b"\xff" * 100)
        with pytest.raises(RemoteProtocolError, match="4294967295 bytes"):
            await transfer

    both(act)


@pytest.mark.parametrize("how", ["cancel", "abort"])
def test_it_can_be_given_up_and_leaves_no_thread_behind(how: str) -> None:
    async def act(a: SocketStream, b: SocketStream) -> None:
        transfer = asyncio.ensure_future(a.transfer(*ends(Vectors.moving(torch.zeros(LARGE))), 20.0))
        buffer = bytearray(1000)
        await b.receive_into(memoryview(buffer))  # it is under way
        if how == "cancel":
            transfer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await transfer
        else:
            a.abort()
            with pytest.raises(PartnerUnreachable):
                await transfer
        assert a.socket.fileno() == -1

    both(act)


def test_many_streams_transfer_at_the_same_time() -> None:
    async def main() -> None:
        pairs = [pair() for _ in range(40)]
        vectors = [(torch.full((100_000,), float(i)), torch.zeros(100_000)) for i in range(len(pairs))]
        transfers = [
            end.transfer(*ends(Vectors.moving(vector)), 20.0)
            for streams, two in zip(pairs, vectors, strict=True)
            for end, vector in zip(streams, two, strict=True)
        ]
        await asyncio.wait_for(asyncio.gather(*transfers), 30.0)
        assert all(bool((theirs == float(i)).all()) for i, (_, theirs) in enumerate(vectors))
        for streams in pairs:
            for end in streams:
                end.abort()

    asyncio.run(main())
    assert threading.active_count() < 200
