"""Which run a peer takes part in, where those that name each other begin at the same time. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_directory import Fixture, Table, join, publish

from p2p_elastic.board import StatusBoard
from p2p_elastic.config import JoinConfig
from p2p_elastic.errors import ConfigError
from p2p_elastic.finding import RunFinder, known_run
from p2p_elastic.manifest import RunManifest
from p2p_elastic.peers.network import LiveNetwork
from p2p_elastic.peers.simulation import run_virtual


class Lone:
    """A peer that trains alone since no initial peer answered; `run` is the one that it takes part in."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture, self.board = fixture, StatusBoard.__new__(StatusBoard)
        self.network = network_of(fixture)
        self._finder = RunFinder(JoinConfig(task="digits"), self, None, None, self.network)  # type: ignore[arg-type]
        self.manifest: RunManifest = self._finder.own_manifest()
        self.run = self.manifest.run

    def say(self, *_: object, **__: object) -> None:
        """As a screen."""

    async def announce(self) -> None:
        await self.fixture.announce(self.run)

    def adopt(self, run: str, *_: object, **__: object) -> None:
        self.run = run

    async def live(self) -> None:
        announcing = asyncio.ensure_future(self._announce())
        try:
            await self._finder.adopt_when_attached(self, self.manifest, self.board)  # type: ignore[arg-type]
            await asyncio.sleep(60.0)
        finally:
            announcing.cancel()

    async def _announce(self) -> None:
        while True:
            await self.announce()
            await asyncio.sleep(5.0)


def network_of(fixture: Fixture) -> LiveNetwork:
    network = LiveNetwork(fixture.identity, ())
    network.directory = fixture.directory
    return network


def meet(fixtures: list[Fixture]) -> None:
    """All of them are in each other's routing tables."""
    for one in fixtures:
        one.node.links = {other.peer for other in fixtures} - {one.peer}


def begun(lone: list[Lone]) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(one.live()) for one in lone]


def test_of_several_that_trained_alone_and_meet_one_founds_its_run_and_the_others_join_it() -> None:
    # Each founded its own: they stayed apart for good, and whoever came later was told to choose.
    async def main() -> None:
        table = Table()
        lone = [Lone(join(table)) for _ in range(3)]
        tasks = begun(lone)
        await asyncio.sleep(7.0)
        meet([one.fixture for one in lone])
        await asyncio.sleep(30.0)
        assert {one.run for one in lone} == {min(lone, key=lambda one: one.fixture.peer).manifest.run}
        for task in tasks:
            task.cancel()

    run_virtual(main())


@pytest.mark.parametrize("first", [True, False])
def test_who_comes_first_to_a_peer_that_trains_alone_waits_until_that_has_founded_its_run(first: bool) -> None:
    # It was told that the initial peer knows no run, half a second before that founded one, and ended.
    async def main() -> None:
        table = Table()
        fixtures = sorted((join(table) for _ in range(2)), key=lambda one: one.peer, reverse=not first)
        lone, comes = Lone(fixtures[0]), fixtures[1]
        tasks = begun([lone])
        await asyncio.sleep(7.0)
        meet(fixtures)
        found = await known_run(network_of(comes), None)
        assert found == lone.manifest
        for task in tasks:
            task.cancel()

    run_virtual(main())


def test_a_run_that_nobody_can_join_is_refused_and_one_that_can_be_joined_is_waited_for_first() -> None:
    async def main() -> None:
        table, loop = Table(), asyncio.get_running_loop()
        bad, good, comes = (join(table) for _ in range(3))
        publish(table, bad, run="bad", learning_rate=1000.0)
        with pytest.raises(
            ConfigError, match="learning-rate: got 1000.0; allowed: less than or equal to 10. Run 'bad'"
        ):
            await known_run(network_of(comes), None)
        assert loop.time() < 10.0
        waits = asyncio.ensure_future(known_run(network_of(comes), None))
        await asyncio.sleep(5.0)
        publish(table, good, run="good")
        assert (await waits).run == "good"

    run_virtual(main())


def test_where_nobody_knows_a_run_that_is_said() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="does not know any run"):
            await known_run(network_of(join(Table())), None)

    run_virtual(main())
