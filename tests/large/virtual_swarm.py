"""Large swarms in virtual time: the production `Peer` with its own timings, and what all views come to."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import torch
from helpers.swarm import Member, begin_as_equals, build_member, tiny_model, values

from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_entries import Entries, Table
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

ANNOUNCE_SECONDS, REFRESH_SECONDS, STEP_SECONDS = 5.0, 3.0, 1.0
BEGIN_MAX, DOUBLING_SECONDS = 1000, 15.0


class Views(NamedTuple):
    """The graph of who may be chosen by whom.

    Attributes:
        sizes: members that a peer takes for alive: fewest, median, most.
        seen_by: by how many a peer is taken for alive: fewest, mean, standard deviation. Those with the lowest losses,
            which all look for, are left out.
        dead_links: the share of members taken for alive that have ended.
        parts: connected components.
    """

    sizes: tuple[int, float, int]
    seen_by: tuple[int, float, float]
    dead_links: float
    parts: int


class Large:
    """A swarm of many peers that train and exchange.

    Args:
        peers: how many.
        policy: of all; None: Elastic Gossip, an exchange in 32 steps.
        seed: of when they begin.
        groups: of Leader SGD.
    """

    def __init__(self, peers: int, policy: Policy | None = None, seed: int = 0, groups: int = 1) -> None:
        self.network, self._rng = SimulatedNetwork(), random.Random(seed)
        self.sides: dict[str, int] = {}  # of a split: peers of different sides hear nothing of each other
        schedule = Schedule(probability=1 / 32)
        timings = {"announce_seconds": ANNOUNCE_SECONDS, "refresh_seconds": REFRESH_SECONDS}
        self.members: dict[str, Member] = {}
        for number in range(peers):
            name = f"p{number}"
            self.members[name] = build_member(
                self.network,
                name,
                model=tiny_model(number, width=4),
                seed=number,
                policy=policy,
                schedule=schedule,
                step_seconds=STEP_SECONDS,
                group=f"g{number % groups}" if groups > 1 else "",
                **timings,
            )
            self.members[name].loss = 1.0 + self._rng.random()
        begin_as_equals(self.members.values())
        self._tasks: dict[str, asyncio.Task[object]] = {}

    def _judge(self, event: Event) -> Verdict:
        sides = self.sides.get(event.source), self.sides.get(event.target)
        seen = event.kind == "record" and len(self.members) > VIEW_MAX  # of more, `split` parts the DHT
        apart = not seen and None not in sides and sides[0] != sides[1]
        return Verdict("silence") if apart else Verdict()

    async def begin(self) -> None:
        """Start all, BEGIN_MAX within an announcement; a larger swarm doubles in DOUBLING_SECONDS from there."""
        phases = [
            self._rng.random() * ANNOUNCE_SECONDS
            + DOUBLING_SECONDS * max(0.0, math.log2((number + 1) / min(len(self.members), BEGIN_MAX)))
            for number in range(len(self.members))
        ]
        for phase, (name, member) in zip(phases, self.members.items(), strict=True):
            self._tasks[name] = asyncio.ensure_future(self._live(member, phase))
        await asyncio.sleep(max(phases) - ANNOUNCE_SECONDS)

    async def _live(self, member: Member, phase: float) -> None:
        await asyncio.sleep(phase)
        await asyncio.gather(member.peer.run(), member.train(10**9))

    def split(self) -> None:
        """Part the swarm, and the DHT: each half has the records of the other as they were, and hears nothing of it."""
        self.sides = {name: number % 2 for number, name in enumerate(self.members)}
        beyond: Table = defaultdict(Entries)
        for key, found in self.network.entries.items():
            beyond[key].take(found, found.bodies)
        self.network.beyond = {name: beyond for name, side in self.sides.items() if side}
        self.network.judge = self._judge

    def heal(self) -> None:
        """Join the halves again."""
        for key, found in next(iter(self.network.beyond.values())).items():
            self.network.entries[key].take(found, self.network.beyond)
        self.sides, self.network.beyond, self.network.judge = {}, {}, None

    async def kill(self, names: Iterable[str]) -> None:
        """As kill -9 does: no goodbye."""
        for name in list(names):
            self._tasks.pop(name).cancel()
            await self.network.transport(name).close()
            del self.members[name]

    async def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def variance(self) -> float:
        """The mean square distance from the average, of a parameter vector."""
        vectors = torch.stack([values(member.model) for member in self.members.values()])
        return float((vectors - vectors.mean(dim=0)).square().sum(dim=1).mean())

    @property
    def partitions(self) -> int:
        """How many peers see a partition."""
        return sum(member.peer.parts.members.apart.partition is not None for member in self.members.values())

    @property
    def views(self) -> Views:
        alive = {name: set(member.peer.parts.members.alive()) for name, member in self.members.items()}
        best = set(sorted(self.members, key=lambda name: self.members[name].loss)[:8])
        seen = Counter(other for view in alive.values() for other in view)
        counts = [seen[name] for name in self.members if name not in best]
        sizes = sorted(map(len, alive.values()))
        dead = sum(other not in self.members for view in alive.values() for other in view)
        return Views(
            (sizes[0], statistics.median(sizes), sizes[-1]),
            (min(counts), statistics.fmean(counts), statistics.pstdev(counts)),
            dead / max(1, sum(sizes)),
            _parts(alive),
        )


def _parts(views: dict[str, set[str]]) -> int:
    """Connected components, whoever sees whom."""
    neighbours = {name: {other for other in view if other in views} for name, view in views.items()}
    for name, view in views.items():
        for other in view & views.keys():
            neighbours[other].add(name)
    left, parts = set(views), 0
    while left:
        parts += 1
        todo = [left.pop()]
        while todo:
            found = neighbours[todo.pop()] & left
            left -= found
            todo += found
    return parts


async def until(condition: Callable[[], bool], seconds: float) -> float | None:
    """Wait for it, looking each second; the seconds that it took, or None if it never came."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not condition():
        if loop.time() - begun >= seconds:
            return None
        await asyncio.sleep(1.0)
    return loop.time() - begun


def in_a_large_swarm(
    test: Callable[[Large], Awaitable[None]], peers: int, policy: Policy | None = None, groups: int = 1
) -> None:
    """Run `test` on a swarm that has begun."""

    async def main() -> None:
        swarm = Large(peers, policy, groups=groups)
        try:
            await swarm.begin()
            await test(swarm)
        finally:
            await swarm.end()

    run_virtual(main())
