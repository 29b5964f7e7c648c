"""Real processes on machines whose clocks are an hour off, either way."""

from __future__ import annotations

import json
import urllib.request

import pytest
from helpers.running import START_SECONDS
from live_chaos.lives import launched

from p2p_elastic.demo.processes import Process, Swarm


def partners(process: Process) -> set[str]:
    """The peers with which exchanges were completed."""
    if "listening" not in process.said:
        return set()
    with urllib.request.urlopen(f"{process.said['listening']['http']}/v1/status") as answer:
        told = json.load(answer)["partners"]
    return {one["peer"] for one in told if one["exchanges"].get("completed", 0) > 0}


@pytest.mark.parametrize(
    "skews", [(0, 3600, -3600), (3600, 0, -3600)], ids=["the founder is right", "the founder is an hour ahead"]
)
def test_peers_with_clocks_that_are_hours_apart_all_exchange_with_each_other(
    swarm: Swarm, skews: tuple[int, ...]
) -> None:
    together = ["--wait-for-peers", "2", "--epochs", "1000", "--probability", "0.02"]
    founder = swarm.start("peer-0", ["--seed", "0", *together], launched(rest=0.002, clock=skews[0]))
    swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
    address = founder.said["listening"]["addresses"][0]
    for i in (1, 2):
        swarm.start(f"peer-{i}", ["--initial-peer", address, *together[:-2]], launched(rest=0.002, clock=skews[i]))
    swarm.listen_until(lambda: all(len(partners(p)) == 2 for p in swarm.processes), "exchanging", START_SECONDS)
