"""The table of all that a peer answers, and the responder that reads a stream's first message and looks it up there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.peers.session.answers import Answers, table_of
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.deadlines import Deadlines, Waits
from p2p_elastic.peers.session.responder import Responder
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.framing import pack
from p2p_elastic.protocol.messages import Committed, Heard, Inquiry, Message, Verified
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

ID = "0" * 32
RECORD = PeerRecord(peer="asked", run="r", schema_hash="0" * 32)
LIMITS = Limits(streams_per_peer=2, streams_total=3)


async def commit(conversation: Conversation, inquiry: Inquiry) -> None:
    await conversation.send(Committed(id=inquiry.id))


def table(handler: Callable[[Conversation, Inquiry], Awaitable[None]] = commit) -> Answers:
    answers = Answers()
    answers.register(Inquiry, handler)
    return answers


class Asked:
    """A responder in a network, and whoever asks it."""

    def __init__(self, answers: Answers) -> None:
        self.refused: Counter[str] = Counter()
        self.failures: list[type[Exception]] = []  # that the responder did not take for a partner's fault
        self.responder = Responder(answers, LIMITS, self._waits_of, self.refused)
        self.network = SimulatedNetwork()

    def _waits_of(self, peer: str) -> Waits:
        return Deadlines(LIMITS.bounds).of_stranger(peer, 1.0)

    async def serve(self) -> None:
        await self.network.transport("asked").serve(self._answer)

    async def _answer(self, stream: Stream) -> None:
        try:
            await self.responder.answer(stream)
        except ZeroDivisionError as error:
            self.failures.append(type(error))

    async def stream(self, asker: str = "asker") -> Stream:
        return await self.network.transport(asker).open(RECORD)

    async def answer(self, message: Message, due: type, asker: str = "asker") -> Message:
        """What comes back. Raises ExchangeError."""
        stream = await self.stream(asker)
        conversation = Conversation(stream, LIMITS)
        try:
            await conversation.send(message)
            return await conversation.receive((due,), 10.0)
        finally:
            await stream.close()


def asked(answers: Answers, scenario: Callable[[Asked], Awaitable[None]]) -> Asked:
    """After the scenario."""
    one = Asked(answers)

    async def main() -> None:
        await one.serve()
        await scenario(one)
        await asyncio.sleep(30.0)

    run_virtual(main())
    return one


def test_the_handler_that_is_registered_for_a_message_answers_it() -> None:
    async def scenario(one: Asked) -> None:
        assert await one.answer(Inquiry(id=ID), Committed) == Committed(id=ID)

    assert not asked(table(), scenario).refused


@pytest.mark.parametrize("message", [Heard(id=ID), Verified(id=ID)])
def test_a_message_that_nobody_registered_is_refused_and_counted(message: Message) -> None:
    async def scenario(one: Asked) -> None:
        with pytest.raises(ExchangeError):
            await one.answer(message, Committed)
        assert await one.answer(Inquiry(id=ID), Committed) == Committed(id=ID)

    assert asked(table(), scenario).refused == {"RemoteProtocolError": 1}


def test_what_is_no_message_at_all_is_refused() -> None:
    async def scenario(one: Asked) -> None:
        stream = await one.stream()
        await stream.send(b"GET / HTTP/1.1")
        await stream.close()

    assert asked(table(), scenario).refused == {"RemoteProtocolError": 1}


def test_by_an_empty_table_everything_is_refused() -> None:
    async def scenario(one: Asked) -> None:
        with pytest.raises(ExchangeError):
            await one.answer(Inquiry(id=ID), Committed)

    assert asked(Answers(), scenario).refused == {"RemoteProtocolError": 1}


def test_who_says_nothing_is_refused_in_time() -> None:
    async def scenario(one: Asked) -> None:
        await one.stream()
        await asyncio.sleep(LIMITS.header_seconds + 1.0)
        assert one.refused == {"ExchangeTimeout": 1}

    asked(table(), scenario)


def test_a_handler_that_finds_the_partner_wrong_ends_its_stream_only() -> None:
    async def refuse(conversation: Conversation, _inquiry: Inquiry) -> None:
        raise RemoteProtocolError("no", partner=conversation.stream.partner)

    async def scenario(one: Asked) -> None:
        for _ in range(5):  # more than there may be at a time: each gave its place back
            with pytest.raises(ExchangeError):
                await one.answer(Inquiry(id=ID), Committed)

    assert asked(table(refuse), scenario).refused == {"RemoteProtocolError": 5}


def test_a_handler_that_fails_gives_its_place_back_and_hides_nothing() -> None:
    async def fail(_conversation: Conversation, _inquiry: Inquiry) -> None:
        raise ZeroDivisionError

    async def scenario(one: Asked) -> None:
        for _ in range(5):
            with pytest.raises(ExchangeError):
                await one.answer(Inquiry(id=ID), Committed)
        await one.responder.until_told()

    one = asked(table(fail), scenario)
    assert (one.refused, one.failures) == ({}, [ZeroDivisionError] * 5)


def test_a_peer_has_a_few_streams_and_all_together_have_some_more() -> None:
    async def scenario(one: Asked) -> None:
        for asker in ("a", "a", "a", "b", "c"):
            await one.stream(asker)
            await asyncio.sleep(0.1)
        assert one.refused == {"too many streams": 2}  # the third of a, and that of c

    asked(table(), scenario)


def test_a_message_has_one_handler() -> None:
    answers = table()
    with pytest.raises(ValueError, match="Inquiry has a handler"):
        answers.register(Inquiry, commit)


def test_the_table_has_what_the_features_register_in_that_order() -> None:
    async def hear(_conversation: Conversation, _heard: Heard) -> None:
        return

    class One:
        def register(self, answers: Answers) -> None:
            answers.register(Inquiry, commit)

    class Other:
        def register(self, answers: Answers) -> None:
            answers.register(Heard, hear)

    assert table_of([Other(), One()]).kinds == (Heard, Inquiry)


def test_who_leaves_waits_until_exchanges_ended_and_for_nothing_else() -> None:
    begun, ends = asyncio.Event(), asyncio.Event()

    async def exchange(conversation: Conversation, inquiry: Inquiry) -> None:
        conversation.exchanging = inquiry.id == ID
        begun.set()
        await ends.wait()

    async def scenario(one: Asked) -> None:
        other = Conversation(await one.stream(), LIMITS)
        await other.send(Inquiry(id="1" * 32))
        await begun.wait()
        await one.responder.until_told()
        await Conversation(await one.stream(), LIMITS).send(Inquiry(id=ID))
        await asyncio.sleep(1.0)
        waiting = asyncio.ensure_future(one.responder.until_told())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        ends.set()
        await asyncio.wait_for(waiting, 10.0)

    asked(table(exchange), scenario)


def test_the_first_message_may_come_in_pieces() -> None:
    async def scenario(one: Asked) -> None:
        stream, said = await one.stream(), pack(Inquiry(id=ID))
        for byte in said:
            await stream.send(bytes([byte]))
        assert await Conversation(stream, LIMITS).receive((Committed,), 10.0) == Committed(id=ID)
        await stream.close()

    asked(table(), scenario)
