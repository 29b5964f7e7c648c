"""Direct connections between two ends that nobody can dial: both dial at once, each as a relay sees the other."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from helpers.peer_parts import record

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.direct.connections import Connections, NoConnections
from p2p_elastic.peers.direct.meeting import NO_WAY, OFF, RELAYED, SMALL
from p2p_elastic.peers.direct.sealing import Agreed
from p2p_elastic.peers.direct.setbacks import AGAIN_SECONDS
from p2p_elastic.peers.direct.tcp_wire import DirectPort, TcpWire
from p2p_elastic.peers.transport.interfaces import Meeting
from p2p_elastic.testing.virtual_time import run_virtual

NBYTES, LOOPBACK = 10**6, "127.0.0.1"
OUTSIDE = {"a": "192.0.2.1", "b": "192.0.2.2"}
PORTS = {"a": 31331, "b": 31332}


class Connected:
    def __init__(self, name: str, partner: str) -> None:
        self.name, self.partner, self.usable, self.open = name, partner, True, True

    def close(self) -> None:
        self.open = False

    abort = close


class Router:
    """Lets a packet in once one went out to where it comes from: so two that dial each other at once are connected."""

    def __init__(self) -> None:
        self.out: dict[str, asyncio.Event] = {name: asyncio.Event() for name in PORTS}
        self.works = True


class Wire:
    """Of one end behind such a router."""

    aes, port = True, 4001

    def __init__(self, router: Router, name: str) -> None:
        self._router, self._name, self.own_port = router, name, PORTS[name]
        self.refused = Counter[str]()

    def hosts_of(self, _record: Any) -> tuple[str, ...]:
        return ("192.168.1.2",)

    async def cross(self, partner: str, there: tuple[str, int], agreed: Agreed, *, dials: bool) -> list[Connected]:
        assert there == (OUTSIDE[partner], PORTS[partner])
        assert dials == (self._name == "a")
        self._router.out[self._name].set()
        await self._router.out[partner].wait()
        if not self._router.works:
            await asyncio.Event().wait()
        return [Connected(agreed.listener.token, partner)]


class Two:
    """The peers "a", which asks, and "b"; a relay is between them."""

    def __init__(self, outside: dict[str, str | None] | None = None) -> None:
        self.router, self.outside = Router(), outside or dict(OUTSIDE)
        self.a, self.b = (
            Connections(Wire(self.router, name), outside=lambda name=name: self.outside[name])  # type: ignore[arg-type, misc]
            for name in "ab"
        )

    def meet(self) -> tuple[Meeting, Meeting]:
        asks = self.a.ask(record("b"), 1, NBYTES, relayed=True)
        assert not isinstance(asks, str), asks
        answers = self.b.answer(asks.terms, "a", record("a"), 1, relayed=True)
        assert not isinstance(answers, str), answers
        return asks, answers

    async def connect(self) -> tuple[list[Any], list[Any]]:
        asks, answers = self.meet()
        mine = await asyncio.wait_for(asks.connect(answers.terms, 1), 1.0)
        theirs = await asyncio.wait_for(answers.connect(asks.terms, 1), 1.0)
        for one in (asks, answers):
            one.end(whole=True)
        return list(mine), list(theirs)


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(main())


def test_both_ends_dial_and_the_connection_is_held_for_the_next_time() -> None:
    async def main() -> None:
        two = Two()
        [[mine], [theirs]] = await two.connect()
        assert mine.name == theirs.name
        two.router.works = False  # no further one is dialled
        assert await two.connect() == ([mine], [theirs])
        assert mine.open

    virtually(main)


def test_what_failed_is_left_alone_for_a_while() -> None:
    async def main() -> None:
        two = Two()
        two.router.works = False
        asks, answers = two.meet()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asks.connect(answers.terms, 1), 1.0)
        for one in (asks, answers):
            one.end(whole=False)
        await asyncio.sleep(0.1)
        assert two.a.ask(record("b"), 1, NBYTES, relayed=True) == RELAYED
        assert two.b.answer(asks.terms, "a", record("a"), 1, relayed=True) == RELAYED
        await asyncio.sleep(AGAIN_SECONDS)
        two.router.works = True
        await two.connect()

    virtually(main)


@pytest.mark.parametrize("unseen", ["a", "b"])
def test_who_does_not_know_how_it_is_seen_crosses_with_nobody(unseen: str) -> None:
    async def main() -> None:
        two = Two({**OUTSIDE, unseen: None})
        asks = two.a.ask(record("b"), 1, NBYTES, relayed=True)
        if unseen == "a":
            assert asks == RELAYED
        else:
            assert not isinstance(asks, str)
            assert two.b.answer(asks.terms, "a", record("a"), 1, relayed=True) == RELAYED
            asks.end(whole=False)

    virtually(main)


def test_small_vectors_and_several_streams_stay_with_the_relay() -> None:
    async def main() -> None:
        two = Two()
        assert two.a.ask(record("b"), 1, 1000, relayed=True) == SMALL
        assert two.a.ask(record("b"), 2, NBYTES, relayed=True) == RELAYED
        assert two.b.answer(None, "a", record("a"), 1, relayed=True) == RELAYED
        assert NoConnections().ask(record("b"), 1, NBYTES, relayed=True) == OFF

    virtually(main)


def test_an_answer_that_does_not_cross_is_no_way() -> None:
    async def main() -> None:
        two = Two()
        asks, answers = two.meet()
        with pytest.raises(PartnerUnreachable, match=NO_WAY):
            await asks.connect(answers.terms.model_copy(update={"outside": None}), 1)
        for one in (asks, answers):
            one.end(whole=False)

    virtually(main)


def test_a_router_that_says_no_is_asked_again_until_the_time_is_over() -> None:
    async def main() -> None:
        two, wire = Two(), TcpWire()
        await wire.listen(LOOPBACK, DirectPort())
        asks, answers = two.meet()
        agreed = Agreed(dialler=asks.terms, listener=answers.terms)
        with socket.create_server((LOOPBACK, 0)) as there:
            port = there.getsockname()[1]
        try:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(wire.cross("b", (LOOPBACK, port), agreed, dials=True), 0.25)
            with pytest.raises(PartnerUnreachable, match="IPv4"):
                await wire.cross("b", ("a name", port), agreed, dials=True)
            with socket.create_server((LOOPBACK, 0)) as stranger:
                crossing = asyncio.ensure_future(
                    wire.cross("b", (LOOPBACK, stranger.getsockname()[1]), agreed, dials=False)
                )
                stranger.setblocking(False)
                connected, _ = await asyncio.get_running_loop().sock_accept(stranger)
                with connected, pytest.raises(PartnerUnreachable, match="another token"):
                    connected.send(bytes(17 + 16))
                    await crossing
        finally:
            for one in (asks, answers):
                one.end(whole=False)
            await wire.close()

    asyncio.run(main())
