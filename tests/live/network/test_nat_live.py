"""Two peers at home, each behind a router of its own, and one that both can dial: real routers, in namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.forking import launch
from live_chaos.lives import launched
from live_chaos.namespaces import Namespaces, why_not

from p2p_elastic.demo.processes import Process, Swarm

pytestmark = pytest.mark.skipif(bool(why := why_not(nat=True)), reason=str(why))
OUTSIDE, HERE, THERE = range(3)
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


@contextmanager
def homes(folder: Path) -> Iterator[Homes]:
    with Namespaces(3, homes=(HERE, THERE)) as namespaces, Swarm(folder, launch=launch) as swarm:
        yield Homes(namespaces, swarm)


def test_peers_behind_two_routers_exchange_through_a_third_that_relays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with homes(tmp_path) as at_home:
        founder = at_home.start("--task", "digits", "--probability", "1/8", "--relay", "100MB/s")
        for _ in (HERE, THERE):
            at_home.start("--initial-peer", founder.said["listening"]["addresses"][0])
        at_home.until(
            lambda: bool(at_home.exchanged(HERE, THERE) and at_home.exchanged(THERE, HERE)),
            "exchanging through a relay",
        )
        for one, other in ((HERE, THERE), (THERE, HERE)):
            assert at_home.exchanged(one, other)[0]["way"] == {"direct": False, "why": "relayed"}
            network = at_home.status(one)["network"]
            assert (network["reachable"], network["relays"]) == (False, [at_home.peer(OUTSIDE)])
        relay = at_home.status(OUTSIDE)["network"]["relay"]
        assert relay["places"] == 2
        assert relay["bytes_passed_on"] > 0
        assert at_home.exchanged(HERE, OUTSIDE)
        assert at_home.exchanged(OUTSIDE, THERE)
