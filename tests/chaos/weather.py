"""What the network and the directory do to the peers at each moment, and how often they did it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from helpers.directories import Around

from chaos.plan import Outage, Partition, Trouble
from p2p_elastic.errors import DirectoryError
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedDirectory

UNANSWERED_SECONDS = 3.0  # until one gives up opening a stream to a host that is not there
DELAY_SECONDS = (0.3, 14.0)  # some beyond the longest silence that an exchange bears
NOT_THE_NETWORK = ("delay", "held", "directory out", "resumed", "disk full")  # which counts what it does itself
ACTIONS = {"drop": "silence", "cut": "cut", "corrupt": "corrupt"}


class Weather:
    """Judges every opening, piece and record by the conditions of this moment."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"weather {seed}")
        self.partitions: list[Partition] = []
        self.troubles: list[Trouble] = []
        self.outages: list[Outage] = []
        self.dark: set[str] = set()  # machines without power
        self.given: Counter[str] = Counter()  # faults by what happened, delays and held pieces too

    def judge(self, event: Event) -> Verdict:
        verdict, cause = self._judge(event)
        if cause:
            self.given[cause] += 1
        return verdict

    def _judge(self, event: Event) -> tuple[Verdict, str]:
        latency = Verdict(seconds=self._rng.uniform(0.005, 0.04))
        if event.source in self.dark or event.target in self.dark:
            lost = event.kind in ("open", "piece")
            return (Verdict("silence", UNANSWERED_SECONDS), "no power") if lost else (latency, "")
        for partition in self.partitions:
            if event.target != "*" and (event.source in partition.side) != (event.target in partition.side):
                return self._across(partition, event)
        for trouble in self.troubles:
            here = not trouble.peers or {event.source, event.target} == set(trouble.peers)
            if here and event.kind in ("open", "piece") and self._rng.random() < trouble.share:
                return self._trouble(trouble, event, latency)
        return latency, ""

    def _across(self, partition: Partition, event: Event) -> tuple[Verdict, str]:
        if event.kind == "record":
            return Verdict("cut"), "record withheld"
        if partition.holds:
            return Verdict(seconds=partition.at + partition.seconds - event.now + self._rng.uniform(0.0, 1.0)), "held"
        return Verdict("silence", UNANSWERED_SECONDS), "no route"

    def _trouble(self, trouble: Trouble, event: Event, latency: Verdict) -> tuple[Verdict, str]:
        if trouble.action == "delay":
            return Verdict(seconds=self._rng.uniform(*DELAY_SECONDS)), "delay"
        if trouble.action == "corrupt" and event.kind == "open":  # there is nothing yet to be changed
            return latency, ""
        action = ACTIONS[trouble.action]
        return Verdict(action, UNANSWERED_SECONDS), trouble.action  # type: ignore[arg-type]

    @property
    def faults(self) -> int:
        """Those that the simulated network counts, too: all but what is only late."""
        return self.given.total() - sum(self.given[cause] for cause in NOT_THE_NETWORK)


class WeatheredDirectory(Around):
    """`Directory` that answers nobody during an outage."""

    def __init__(self, directory: SimulatedDirectory, weather: Weather) -> None:
        super().__init__(directory)
        self._weather = weather

    async def _reach(self) -> None:
        if self._weather.outages:
            await asyncio.sleep(1.0)
            self._weather.given["directory out"] += 1
            raise DirectoryError("the directory does not answer")

    async def announce(self, record: PeerRecord) -> None:
        await self._reach()
        await super().announce(record)

    async def own(self, run: str) -> PeerRecord | None:
        await self._reach()
        return await super().own(run)

    async def withdraw(self) -> None:
        await self._reach()
        await super().withdraw()

    async def members(self) -> tuple[PeerRecord, ...]:
        await self._reach()
        return await super().members()
