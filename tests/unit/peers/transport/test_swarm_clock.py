"""The swarm's clock: who follows whom, what a liar can do, and what hivemind goes by."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import itertools
import math
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.peers.discovery import dht_node as dht
from p2p_elastic.peers.discovery.dht_node import prepare_hivemind, swarm_time
from p2p_elastic.peers.discovery.live_network import LiveNetwork, NetworkThread
from p2p_elastic.peers.discovery.signed_dht import SignedDHT
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.libp2p import Libp2pHost
from p2p_elastic.peers.transport.swarm_clock import Reading, SwarmClock, keep_time, reading, to_follow
from p2p_elastic.testing.virtual_time import run_virtual

pytestmark = pytest.mark.processes

HOUR = 3600.0
checked = settings(max_examples=200)


# ---------------------------------------------------------------- one clock


def test_a_jump_of_the_machines_clock_after_the_start_changes_nothing() -> None:
    machine, passed = [1e9], [5.0]
    clock = SwarmClock(lambda: machine[0], lambda: passed[0])
    machine[0] += HOUR
    passed[0] += 10.0
    assert clock.now() == 1e9 + 10.0


def test_who_follows_a_clock_shows_what_it_shows_and_knows_how_far_that_is() -> None:
    passed = [5.0]
    clock = SwarmClock(lambda: 1e9, lambda: passed[0])
    other = reading(1e9 + HOUR + 0.5, asked_at=5.0, answered_at=6.0)
    assert other == Reading(1e9 + HOUR - 5.0, doubt=0.5)
    clock.follow(other)
    passed[0] = 7.0
    assert clock.now() == 1e9 + HOUR + 2.0
    assert clock.ahead_of_machine == HOUR


@pytest.mark.parametrize("shown", [0.0, -1.0, math.nan, math.inf, 1e300])
def test_an_answer_that_shows_no_time_is_no_clock(shown: float) -> None:
    assert reading(shown, 0.0, 0.1) is None


# ---------------------------------------------------------------- who follows whom


def clocks(**bases: float) -> dict[str, Reading]:
    return {peer: Reading(base) for peer, base in bases.items()}


def test_of_two_exactly_one_follows() -> None:
    a, b = Reading(0.0), Reading(HOUR)
    assert to_follow("a", a, {"b": b}) is None
    assert to_follow("b", b, {"a": a}) == a


def test_who_is_outvoted_follows_and_the_others_stay() -> None:
    around = clocks(x=HOUR, y=HOUR + 0.1)
    assert to_follow("a", Reading(0.0), around) in around.values()
    assert to_follow("x", Reading(HOUR), clocks(a=0.0, y=HOUR + 0.1)) is None


@given(lie=st.floats(-1e9, 1e9), liar=st.text("ace", min_size=1, max_size=3), agreeing=st.sampled_from([1, 2, 5]))
@checked
def test_a_peer_that_agrees_with_another_is_not_led_astray_by_a_single_one(
    lie: float, liar: str, agreeing: int
) -> None:
    around = {f"honest {i}": Reading(0.3 * (-1) ** i) for i in range(agreeing)} | {liar: Reading(lie)}
    followed = to_follow("me", Reading(0.0), around)
    assert followed is None


def test_clocks_that_differ_by_less_than_it_took_to_ask_are_the_same() -> None:
    assert to_follow("b", Reading(0.0), {"a": Reading(3.0, doubt=2.5)}) is None


def test_alone_everybody_keeps_its_own() -> None:
    assert to_follow("a", Reading(0.0), {}) is None


class World:
    """Peers that ask each other for the time, in virtual time."""

    def __init__(
        self, bases: dict[str, float], links: dict[str, set[str]], liars: frozenset[str] = frozenset()
    ) -> None:
        self.clocks = {peer: SwarmClock(lambda b=base: b, lambda: 0.0) for peer, base in bases.items()}  # type: ignore[misc]
        self.links, self.liars = links, liars
        self.followed = dict.fromkeys(bases, 0)
        self._rng = random.Random(0)

    async def live(self, seconds: float) -> None:
        lives = [asyncio.ensure_future(self._live(peer)) for peer in self.clocks if peer not in self.liars]
        await asyncio.sleep(seconds)
        for life in lives:
            life.cancel()

    async def _live(self, peer: str) -> None:
        clock = self.clocks[peer]

        async def ask(other: str) -> Reading | None:
            await asyncio.sleep(self._rng.uniform(0.001, 0.1))
            if other in self.liars:
                return Reading(self._rng.uniform(-1e6, 1e6))
            return self.clocks[other].reading

        async def follow(better: Reading) -> None:
            self.followed[peer] += 1
            clock.follow(better)

        await keep_time(peer, clock, lambda: frozenset(self.links[peer]), ask, follow, random.Random(peer))

    def spread(self) -> float:
        bases = [clock.reading.base for peer, clock in self.clocks.items() if peer not in self.liars]
        return max(bases) - min(bases)


def everybody(peers: list[str]) -> dict[str, set[str]]:
    return {peer: set(peers) - {peer} for peer in peers}


@given(sides=st.lists(st.integers(0, 2), min_size=2, max_size=9), seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_islands_with_clocks_of_their_own_that_meet_end_with_one(sides: list[int], seed: int) -> None:
    names = [f"p{i}" for i in range(len(sides))]
    random.Random(seed).shuffle(names)
    world = World({n: HOUR * s for n, s in zip(names, sides, strict=True)}, everybody(names))
    run_virtual(world.live(60.0))
    assert world.spread() < 1.0
    most = max(sides.count(side) for side in sides)
    assert world.clocks[names[0]].reading.base in {HOUR * s for s in sides if sides.count(s) == most}


@pytest.mark.parametrize("seed", range(5))
def test_peers_that_see_only_some_of_the_others_end_with_one_clock_too(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"p{i:02}" for i in range(30)]
    links: dict[str, set[str]] = {name: set() for name in names}
    for i, name in enumerate(names):
        for other in (names[i - 1], *rng.sample(names, 4)):
            if other != name:
                links[name].add(other)
                links[other].add(name)
    world = World({name: HOUR * rng.randint(-2, 2) for name in names}, links)
    run_virtual(world.live(600.0))
    assert world.spread() < 1.0


def test_two_sides_that_only_see_each_other_do_not_change_places_for_ever() -> None:
    left, right = [f"l{i}" for i in range(4)], [f"r{i}" for i in range(4)]
    links = {name: set(right) for name in left} | {name: set(left) for name in right}
    world = World(dict.fromkeys(left, 0.0) | dict.fromkeys(right, HOUR), links)
    run_virtual(world.live(120.0))
    assert world.spread() < 1.0


def test_a_liar_moves_nobody_in_an_established_swarm() -> None:
    names = ["a liar", "b", "c", "d"]
    world = World(dict.fromkeys(names, 0.0), everybody(names), frozenset({"a liar"}))
    run_virtual(world.live(600.0))
    assert set(world.followed.values()) == {0}


def test_peers_that_do_not_answer_have_no_vote() -> None:
    async def main() -> None:
        clock = SwarmClock(lambda: 0.0, lambda: 0.0)

        async def ask(peer: str) -> Reading | None:
            return None

        async def follow(better: Reading) -> None:
            raise AssertionError

        life = asyncio.ensure_future(
            keep_time("b", clock, lambda: frozenset({"a", "c"}), ask, follow, random.Random(0))
        )
        await asyncio.sleep(100.0)
        assert not life.done()

    run_virtual(main())


# ---------------------------------------------------------------- hivemind


def test_every_module_of_hiveminds_dht_goes_by_the_swarms_clock() -> None:
    prepare_hivemind()
    prepare_hivemind()
    loaded = {
        name: module
        for name, module in sys.modules.items()
        if name.startswith(("hivemind.dht", "hivemind.utils.", "hivemind.p2p")) and hasattr(module, "get_dht_time")
    }
    assert {module.__name__ for module in dht.TIMED_MODULES} == set(loaded)
    assert {module.get_dht_time for module in loaded.values()} == {swarm_time}


def test_hiveminds_dht_asks_for_the_time_nowhere_else() -> None:
    spec = importlib.util.find_spec("hivemind")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    asking = set()
    for path in [*sorted(root.glob("dht/*.py")), root / "utils" / "timed_storage.py", root / "utils" / "auth.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "time.time",
                "datetime.now",
                "datetime.utcnow",
            ):
                asking.add((path.name, node.lineno))
            if isinstance(node, ast.ImportFrom) and any(alias.name == "get_dht_time" for alias in node.names):
                asking.add((path.name, 0))
    timed = {(f"{module.__name__.split('.')[-1]}.py", 0) for module in dht.TIMED_MODULES}
    assert {(name, 0) for name, line in asking if line == 0} == timed - {("timed_storage.py", 0)}
    assert {name for name, line in asking if line} == {"timed_storage.py"}  # get_dht_time = time.time


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 50.0, -50.0])
def test_after_following_another_clock_our_records_are_there_again_at_once(jump: float) -> None:
    async def main() -> None:
        identity = Identity.generate()
        host = Libp2pHost(identity, "127.0.0.1", 0)
        await host.start()
        before = host.clock.reading
        try:
            node = SignedDHT(host, identity)
            await node.start()
            await node.put("key", b"{}", 60.0)
            await node.follow(Reading(before.base + jump))
            assert dict(await node.get("key")) == {identity.peer: b"{}"}
            await node.put("key", b"{1}", 60.0)
            assert dict(await node.get("key")) == {identity.peer: b"{1}"}
            assert node.refused == 0
            assert abs(host.clock.now() - time.time() - jump) < 5.0
            await node.close()
        finally:
            await host.close()

    asyncio.run(asyncio.wait_for(main(), 30.0))


# ---------------------------------------------------------------- several swarms in one process


def set_to(ahead: float) -> SwarmClock:
    """A clock that is ahead of this machine's by so many seconds."""
    return SwarmClock(lambda: time.time() + ahead)


def test_each_task_has_the_clock_that_was_current_where_it_began() -> None:
    one, other = set_to(HOUR), set_to(-HOUR)

    async def shown() -> float:
        await asyncio.sleep(0.0)
        return swarm_time() - time.time()

    async def main() -> list[float]:
        with one.as_current():
            first = asyncio.ensure_future(shown())
            with other.as_current():
                second = asyncio.ensure_future(shown())
            third = asyncio.ensure_future(shown())
        assert SwarmClock.get_current() is None
        return await asyncio.gather(first, second, third, shown())

    assert asyncio.run(main()) == pytest.approx([HOUR, -HOUR, HOUR, 0.0], abs=5.0)


def test_two_swarms_in_one_process_have_a_clock_and_records_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[SwarmClock | None] = Counter()

    def ask_and_count() -> float:
        asked[SwarmClock.get_current()] += 1
        return swarm_time()

    async def opened(skew: float) -> tuple[LiveNetwork, LiveNetwork]:
        first = LiveNetwork(Identity.generate(), (), clock=set_to(skew))
        await first.open("127.0.0.1", 0)
        second = LiveNetwork(Identity.generate(), first.host.addresses)  # a newcomer with this machine's clock
        await second.open("127.0.0.1", 0)
        for module in dht.TIMED_MODULES:
            monkeypatch.setattr(module, "get_dht_time", ask_and_count)
        assert await second.directory.attach()
        return first, second

    async def use(skew: float, first: LiveNetwork, second: LiveNetwork) -> None:
        assert [n.clock.now() - time.time() for n in (first, second)] == pytest.approx([skew, skew], abs=5.0)
        await first.dht.put("key", b"{1}", 60.0)
        await second.dht.put("key", b"{2}", 60.0)
        for network in (first, second):
            entries = await network.dht.get("key")
            assert entries == {first.identity.peer: b"{1}", second.identity.peer: b"{2}"}
            assert network.dht.refused == 0
        told = await second.dht.ask_time(first.identity.peer)
        assert told is not None
        assert told.base == pytest.approx(first.clock.reading.base, abs=5.0)

    async def main() -> None:
        skews = (HOUR, -HOUR)
        swarms = [await opened(skew) for skew in skews]
        try:
            await asyncio.gather(*(use(skew, *swarm) for skew, swarm in zip(skews, swarms, strict=True)))
            # The newcomer of the first swarm may follow this at once; the other swarm knows nothing of it.
            await swarms[0][0].dht.follow(set_to(2 * HOUR).reading)
            assert [n.clock.now() - time.time() for n in swarms[1]] == pytest.approx([-HOUR, -HOUR], abs=5.0)
        finally:
            for network in itertools.chain(*swarms):
                await network.close()
        assert set(asked) == {network.clock for swarm in swarms for network in swarm}  # nobody asked outside of them

    asyncio.run(asyncio.wait_for(main(), 60.0))


def test_the_switch_interval_is_as_it_was_once_the_last_network_thread_has_ended() -> None:
    before = sys.getswitchinterval()
    first, second = NetworkThread(), NetworkThread()
    with contextlib.ExitStack() as later:
        with first:
            later.enter_context(second)
            short = sys.getswitchinterval()
        assert short == sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


def test_a_switch_interval_that_was_set_meanwhile_stays() -> None:
    before = sys.getswitchinterval()
    try:
        with NetworkThread():
            sys.setswitchinterval(0.002)
        assert sys.getswitchinterval() == pytest.approx(0.002)
    finally:
        sys.setswitchinterval(before)
