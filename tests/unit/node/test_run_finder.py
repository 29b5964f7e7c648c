"""Which run a peer takes part in, where those that name each other begin at the same time. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.directories import Fixture, Table, join, publish
from helpers.participations import manifest

from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.run_finder import RunFinder, known_run
from p2p_elastic.node.status_board import StatusBoard
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.testing.virtual_time import run_virtual


class Lone:
    """A peer that trains alone since no initial peer answered; `run` is the one that it takes part in."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture, self.board = fixture, StatusBoard.__new__(StatusBoard)
        self.network = network_of(fixture)
        self.manifest: RunManifest = manifest(fixture.peer, f"digits-{fixture.peer[-6:]}")
        config = JoinConfig(task="digits")
        self._finder = RunFinder(config, self, None, None, self.network, lambda: self.manifest)  # type: ignore[arg-type]
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


# ---------------------------------------------------------------- a founder that was in a run before


class Before:
    """A network in which this peer was in run `old`, whose members answer or not, and know it or not; its screen."""

    def __init__(self, *, answers: bool, lives: bool) -> None:
        self.answers, self.lives = answers, lives
        self.said: list[str] = []
        self.forgotten = False
        self.directory = self

    async def run_before(self, name: str | None) -> str | None:
        return "old" if name in (None, "old") else None

    async def recall(self, run: str) -> int:
        return 2

    async def try_remembered(self) -> bool:
        return self.answers

    async def find_run(self, run: str) -> str | None:
        return run if self.lives else None

    def forget_remembered(self) -> None:
        self.forgotten = True

    def say(self, event: str, text: str, **_: object) -> None:
        self.said.append(text)

    def call(self, coroutine: Any, stop: object) -> Any:
        return run_virtual(coroutine)


def is_there(network: Any, **options: Any) -> bool:
    return RunFinder(JoinConfig(**options), network, None, network, network, manifest).is_there()  # type: ignore[arg-type]


def test_a_founder_does_not_found_a_run_beside_the_one_that_it_was_in_while_that_is_alive() -> None:
    network = Before(answers=True, lives=True)
    with pytest.raises(ConfigError, match="was in run 'old', which is alive.*--resume-or-found"):
        is_there(network, identity="peer.key")
    assert not is_there(network, identity="peer.key", run="another")  # that is meant


@pytest.mark.parametrize("answers", [True, False])
def test_where_that_run_is_over_a_founder_says_so_and_founds_its_own(answers: bool) -> None:
    network = Before(answers=answers, lives=False)
    assert not is_there(network)
    assert "--resume DIR would go on with it" in network.said[-1]
    assert network.forgotten  # two runs in one directory help nobody


@pytest.mark.parametrize(
    ("answers", "lives", "joins"), [(True, True, True), (False, False, True), (True, False, False)]
)
def test_with_resume_or_found_it_joins_that_run_unless_its_members_know_it_no_more(
    answers: bool, lives: bool, joins: bool
) -> None:
    network = Before(answers=answers, lives=lives)
    assert is_there(network, resume_or_found=True, output="x") is joins
