"""The alerts and the dashboard in a real Prometheus: `promtool`'s own tests, and two live peers that it scraped."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from helpers.running import START_SECONDS
from live_chaos.lives import RESTING
from monitoring.prometheus import ALERTS, ALERTS_TEST, CONFIG, Prometheus, Query, prometheus, queries, rules

from p2p_elastic.demo.processes import Swarm
from p2p_elastic.errors import P2PElasticError

OF_THE_MACHINE = {"DiskFull", "MemoryShort", "PeerHot"}  # may be so here


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    promtool("check", "rules", str(ALERTS))
    promtool("check", "config", str(CONFIG))


def test_each_alert_fires_for_whom_it_should_and_for_nobody_else() -> None:
    promtool("test", "rules", str(ALERTS_TEST))


Samples = list[dict[str, Any]]


class Seen(NamedTuple):
    """What Prometheus answers to each expression of the dashboard and of the alerts, all for one moment."""

    answers: dict[str, Samples]

    def lacks_data(self, query: Query) -> bool:
        """Whether a panel has no number, or only one of the peers that it should show."""
        found = [sample for sample in self.answers[query.expression] if sample["value"][1] != "NaN"]
        instances = {sample["metric"]["instance"] for sample in found if "instance" in sample["metric"]}
        return not found or len(instances) == 1

    def complete(self) -> bool:
        up = [sample["value"][1] for sample in self.answers["up"]]
        return up == ["1", "1"] and not any(map(self.lacks_data, queries()))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Of two peers that exchange and write checkpoints."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch, Swarm(folder / "peers", RESTING) as swarm:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        common = ["--for", "1h", "--checkpoint-every", "2s"]
        first = swarm.start("first", [*common, "--probability", "1/8"])
        swarm.listen_until(lambda: "joinable" in first.said, "the founder", START_SECONDS)
        second = swarm.start("second", [*common, "--initial-peer", first.said["listening"]["addresses"][0]])
        swarm.listen_until(lambda: "listening" in second.said, "the second peer", START_SECONDS)
        targets = [str(peer.said["listening"]["http"]).removeprefix("http://") for peer in (first, second)]
        with prometheus(folder / "prometheus", {"p2p-elastic": targets}) as watching:
            swarm.listen_until(watching.ready, "Prometheus", START_SECONDS)
            found = [look(watching)]

            def complete() -> bool:
                found[0] = look(watching)
                return found[0].complete()

            with contextlib.suppress(P2PElasticError):  # the tests say what is missing
                swarm.listen_until(complete, "data for every panel", START_SECONDS)
            yield found[0]


def look(watching: Prometheus) -> Seen:
    expressions = {"up", *(query.expression for query in queries()), *(rule["expr"] for rule in rules())}
    now = time.time()
    return Seen({expression: watching.query(expression, now) for expression in expressions})


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.panel)
def test_every_query_of_the_dashboard_has_data_of_all_peers(seen: Seen, query: Query) -> None:
    assert not seen.lacks_data(query), seen.answers[query.expression]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_no_alert_is_due_for_a_swarm_that_is_well(seen: Seen, rule: dict[str, str]) -> None:
    assert rule["alert"] in OF_THE_MACHINE or seen.answers[rule["expr"]] == []
