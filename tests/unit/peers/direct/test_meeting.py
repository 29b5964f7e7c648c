"""How two peers come to direct connections: who dials, what is used again, and what happens if it does not work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from helpers.peer_parts import record

from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.peers.direct.connections import Connections, NoConnections
from p2p_elastic.peers.direct.idle import IDLE_MAX, IDLE_SECONDS
from p2p_elastic.peers.direct.meeting import FAILED, NO_WAY, OFF, PARTNER_OFF, SMALL
from p2p_elastic.peers.direct.setbacks import AGAIN_SECONDS
from p2p_elastic.peers.transport.interfaces import Carrier, Meeting
from p2p_elastic.protocol.limits import LANES_MAX
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NBYTES = 10**6


def dialling(source: str) -> Callable[[Event], Verdict]:
    """That peer cannot dial anybody."""
    return lambda event: Verdict("cut") if event.kind == "connect" and event.source == source else Verdict()


class Two:
    """The peers "a", which asks, and "b"."""

    def __init__(self, judge: Callable[[Event], Verdict] = lambda _event: Verdict()) -> None:
        self.network = SimulatedNetwork(judge, direct=True)
        self.transports = [self.network.transport(name) for name in "ab"]
        self.a, self.b = (one.direct for one in self.transports)

    def meet(self, streams: int = 1) -> tuple[Meeting, Meeting]:
        """Both ends, as Offer and Accept make them."""
        asks = self.a.ask(record("b"), streams, NBYTES)
        assert not isinstance(asks, str), asks
        answers = self.b.answer(asks.terms, "a", record("a"), streams)
        assert not isinstance(answers, str), answers
        return asks, answers

    async def connect(self, streams: int = 1, *, whole: bool = True) -> tuple[str, ...]:
        """One exchange over direct connections; the names of these."""
        asks, answers = self.meet(streams)
        mine = await asyncio.wait_for(asks.connect(answers.terms, streams), 1.0)
        theirs = await asyncio.wait_for(answers.connect(asks.terms, streams), 1.0)
        assert names(mine) == names(theirs)
        for one in (asks, answers):
            one.end(whole=whole)
        return names(mine)

    async def fail(self) -> None:
        """One exchange for which nobody is connected."""
        asks, answers = self.meet()
        with pytest.raises((ExchangeError, asyncio.TimeoutError)):
            await asyncio.wait_for(asks.connect(answers.terms, 1), 1.0)
        for one in (asks, answers):
            one.end(whole=False)
        await asyncio.sleep(0.1)

    def dialled(self) -> list[str]:
        """Who may dial in the next exchange, by what the end that asks says."""
        asks = self.a.ask(record("b"), 1, NBYTES)
        assert not isinstance(asks, str)
        asks.end(whole=False)
        return ["a"] * asks.terms.dials + ["b"] * (asks.terms.port is not None)


def names(connections: Sequence[Carrier]) -> tuple[str, ...]:
    return tuple(one.name for one in connections)  # type: ignore[attr-defined]


def run(test: Callable[[Two], Awaitable[None]], two: Two | None = None) -> None:
    async def main() -> None:
        await test(two or Two())

    run_virtual(main())


def test_the_end_that_asks_dials_and_the_connections_serve_again() -> None:
    async def test(two: Two) -> None:
        first = await two.connect(2)
        assert len(set(first)) == 2
        assert await two.connect(2) == first
        assert len(await two.connect(1)) == 1
        assert len(await two.connect(4)) == 4  # more than there are: all anew

    run(test)


def test_connections_that_vectors_broke_off_on_are_not_used_again_and_rest_for_a_while() -> None:
    async def test(two: Two) -> None:
        first = await two.connect(whole=False)
        assert two.a.ask(record("b"), 1, NBYTES) == FAILED
        await asyncio.sleep(AGAIN_SECONDS)
        assert await two.connect(whole=False) != first
        await asyncio.sleep(AGAIN_SECONDS)
        assert two.a.ask(record("b"), 1, NBYTES) == FAILED  # for longer this time
        await asyncio.sleep(AGAIN_SECONDS)
        await two.connect()

    run(test)


def test_an_end_that_cannot_dial_is_dialled() -> None:
    async def test(two: Two) -> None:
        assert two.dialled() == ["a"]
        await two.fail()
        assert two.dialled() == ["b"]
        first = await two.connect()
        assert await two.connect() == first
        await asyncio.sleep(AGAIN_SECONDS)
        assert two.dialled() == ["a"]

    run(test, Two(dialling("a")))


def test_two_that_cannot_dial_each_other_do_not_go_on_trying() -> None:
    async def test(two: Two) -> None:
        await two.fail()
        await two.fail()
        asks = two.a.ask(record("b"), 1, NBYTES)
        assert not isinstance(asks, str)
        assert two.b.answer(asks.terms, "a", record("a"), 1) == NO_WAY
        asks.end(whole=False)

    run(test, Two(lambda event: Verdict("cut") if event.kind == "connect" else Verdict()))


def test_a_dial_that_hangs_is_given_up_and_counts_as_failed() -> None:
    async def test(two: Two) -> None:
        await two.fail()
        assert two.dialled() == ["b"]
        await two.fail()  # the other one hangs, too, and is cancelled as the exchange goes on without it
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    run(test, Two(lambda event: Verdict("silence") if event.kind == "connect" else Verdict()))


def test_a_peer_whose_addresses_are_not_known_is_not_dialled() -> None:
    async def test(two: Two) -> None:
        await two.fail()
        asks = two.a.ask(record("b"), 1, NBYTES)
        assert not isinstance(asks, str)
        assert two.b.answer(asks.terms, "a", None, 1) == NO_WAY
        asks.end(whole=False)

    run(test, Two(dialling("a")))


def test_a_connection_whose_other_end_is_gone_is_not_used() -> None:
    async def test(two: Two) -> None:
        first = await two.connect()
        await two.transports[1].close()  # its process ends
        assert await two.connect() != first

    run(test)


def test_idle_connections_end_and_are_few() -> None:
    async def test(two: Two) -> None:
        first = await two.connect()
        await asyncio.sleep(IDLE_SECONDS)
        assert await two.connect() != first
        for _ in range(5):
            both = [two.meet(LANES_MAX) for _ in range(2)]  # those of the first are not idle during the second
            for asks, answers in both:
                await asks.connect(answers.terms, LANES_MAX)
                await answers.connect(asks.terms, LANES_MAX)
            for one in (end for ends in both for end in ends):
                one.end(whole=True)
        assert len(two.network.streams["a"]) <= IDLE_MAX

    run(test)


def test_crossing_exchanges_do_not_share_a_connection() -> None:
    async def test(two: Two) -> None:
        first = await two.connect()
        asks = two.b.ask(record("a"), 1, NBYTES)
        assert not isinstance(asks, str)
        assert asks.terms.held == first
        assert await two.connect() != first
        asks.end(whole=False)  # declined: it is free again
        assert len(await two.connect(2)) == 2  # both serve, in whatever order

    run(test)


def test_there_may_be_none_for_several_reasons() -> None:
    async def test(two: Two) -> None:
        live = two.a
        assert isinstance(live, Connections)
        assert Connections(two.network.wires["a"]).ask(record("b"), 1, 1000) == SMALL
        assert live.answer(None, "b", record("b"), 1) == PARTNER_OFF
        assert NoConnections().ask(record("b"), 1, NBYTES) == NoConnections().answer(None, "b", None, 1) == OFF

    run(test)


def test_an_answer_that_makes_no_sense_is_the_partners_fault() -> None:
    async def test(two: Two) -> None:
        for changes in ({"held": ("0" * 32,)}, {"port": None, "dials": True}, {"port": None}):
            asks, answers = two.meet()
            with pytest.raises(RemoteProtocolError):
                await asks.connect(answers.terms.model_copy(update=changes), 1)
            for one in (asks, answers):
                one.end(whole=False)

    run(test)


def test_tokens_differ_from_exchange_to_exchange() -> None:
    async def test(two: Two) -> None:
        tokens = set()
        for _ in range(10):
            for one in two.meet():
                tokens.add(one.terms.token)
                one.end(whole=False)
        assert len(tokens) == 20

    run(test)
