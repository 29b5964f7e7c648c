"""Two peers at home, each behind a router of its own, and one that both can dial: real routers, in namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.forking import launch
from live_chaos.lives import launched
from live_chaos.namespaces import Namespaces, why_not

from p2p_elastic.demo.processes import Process, Swarm

pytestmark = pytest.mark.skipif(bool(why := why_not(nat=True)), reason=str(why))
OUTSIDE, HERE, THERE = range(3)
HOMES = (HERE, THERE), (THERE, HERE)
SECONDS = 90.0


class Homes:
    """Processes, each in its namespace: the first outside, the others at home."""

    def __init__(self, namespaces: Namespaces, swarm: Swarm) -> None:
        self._namespaces, self.swarm, self.peers = namespaces, swarm, list[Process]()

    def start(self, *options: str) -> Process:
        at = len(self.peers)
        where = ["--host", self._namespaces.address(OUTSIDE)] if at == OUTSIDE else ["--host", "0.0.0.0"]
        program = launched(rest=0.01, namespace=self._namespaces.name(at))
        common = ["--steps", "1000000", "--checkpoint-every", "0", "--port", "31330", *where]
        self.peers.append(self.swarm.start(str(at), [*common, *options], program))
        self.until(lambda: "listening" in self.peers[at].said, "starting")
        return self.peers[at]

    def status(self, at: int) -> dict[str, Any]:
        return self._namespaces.ask(at, f"{self.peers[at].said['listening']['http']}/v1/status") or {}

    def peer(self, at: int) -> str:
        return str(self.peers[at].said["listening"]["peer"])

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.swarm.listen_until(condition, what, SECONDS)

    def exchanged(self, one: int, other: int) -> list[dict[str, Any]]:
        """The latest exchanges of one with another that completed."""
        records = self.status(one).get("last_exchanges", ())
        return [r for r in records if r["partner"] == self.peer(other) and r["outcome"] == "completed"]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Namespaces(3, homes=(HERE, THERE)) as namespaces, Swarm(tmp_path, launch=launch) as swarm:
        yield Homes(namespaces, swarm)


def start_all(at_home: Homes, *options: str) -> None:
    whole = ("--codec", "none", "--fragment", "1")  # half a megabyte: what is less never travels directly
    founder = at_home.start("--task", "digits", "--probability", "1/8", "--relay", "100MB/s", *whole, *options)
    for _ in (HERE, THERE):
        at_home.start("--initial-peer", founder.said["listening"]["addresses"][0], *options)


def test_peers_behind_two_routers_meet_through_a_relay_and_exchange_directly(at_home: Homes) -> None:
    start_all(at_home)
    at_home.until(
        lambda: any(r["way"]["direct"] for one, other in HOMES for r in at_home.exchanged(one, other)),
        "a direct exchange between two homes",
    )
    for one, _ in HOMES:
        network = at_home.status(one)["network"]
        assert (network["reachable"], network["relays"]) == (False, [at_home.peer(OUTSIDE)])
    assert at_home.status(OUTSIDE)["network"]["relay"]["places"] == 2
    assert at_home.exchanged(HERE, OUTSIDE)
    assert at_home.exchanged(OUTSIDE, THERE)


def test_without_direct_connections_all_of_it_is_passed_on(at_home: Homes) -> None:
    start_all(at_home, "--no-direct")
    at_home.until(lambda: all(at_home.exchanged(one, other) for one, other in HOMES), "exchanging through a relay")
    [vector] = {r["bytes_sent"] for r in at_home.exchanged(*HOMES[0])[:1]}
    assert at_home.status(OUTSIDE)["network"]["relay"]["bytes_passed_on"] > vector > 2**18
