"""A centre variable and leaders among real `p2p-elastic join` processes, and what happens when they are killed."""

from __future__ import annotations

from typing import Any

from helpers.running import START_SECONDS, centre, completed, kill
from safetensors.torch import load_file

from p2p_elastic.demo.processes import Process, Swarm

PEERS = 3


def begin(swarm: Swarm, rule: str, *more: str) -> list[Process]:
    """Three peers of one run that train without end, once all of them are there."""
    common = ["--wait-for-peers", str(PEERS - 1), "--epochs", "100000"]
    founder = swarm.start("1", ["--rule", rule, "--period", "20", *common, *more, "--shard", f"1/{PEERS}"])
    swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
    address = founder.said["listening"]["addresses"][0]
    for i in range(2, PEERS + 1):
        swarm.start(str(i), ["--initial-peer", address, *common, "--shard", f"{i}/{PEERS}"])
    return list(swarm.processes)


def end(swarm: Swarm) -> list[dict[str, Any]]:
    for process in swarm.processes:
        process.child.terminate()
    swarm.listen_until(swarm.all_ended, "ending", 30.0)
    return [p.summary() for p in swarm.processes]


def test_the_others_go_on_from_the_freshest_copy_when_the_centre_is_killed(swarm: Swarm) -> None:
    founder, *others = begin(swarm, "easgd")
    swarm.listen_until(lambda: all(completed(p) >= 5 for p in swarm.processes), "exchanging", START_SECONDS)
    assert centre(founder)["here"]
    before = min(centre(p)["exchanges"] for p in others)
    kill(swarm, founder)
    swarm.listen_until(lambda: any(centre(p).get("here") for p in others), "a new centre", 60.0)
    counts = {p.name: completed(p) for p in others}
    swarm.listen_until(lambda: all(completed(p) >= counts[p.name] + 5 for p in others), "exchanging again", 60.0)
    assert sorted(centre(p)["here"] for p in others) == [False, True]
    summaries = end(swarm)
    assert all(s["centre"]["term"] == 2 and s["centre"]["exchanges"] > before for s in summaries)
    for process in others:
        assert len(load_file(process.folder / "centre.safetensors")) == 6


def test_followers_get_the_leaders_snapshots_and_a_new_leader_when_it_is_killed(swarm: Swarm) -> None:
    processes = begin(swarm, "lsgd")
    swarm.listen_until(lambda: all("listening" in p.said for p in processes), "starting", START_SECONDS)
    peer_of = {p.said["listening"]["peer"]: p for p in processes}

    def leaders() -> set[str | None]:
        return {(p.last.get("leaders") or {}).get("leader") for p in swarm.processes}

    swarm.listen_until(
        lambda: len(leaders()) == 1 and None not in leaders() and sum(map(completed, processes)) > 5,
        "following one leader",
        START_SECONDS,
    )
    (dead,) = leaders()
    assert dead is not None
    kill(swarm, peer_of[dead])
    swarm.listen_until(lambda: not leaders() & {dead, None}, "a new leader", 60.0)
    before = sum(map(completed, swarm.processes))
    swarm.listen_until(lambda: sum(map(completed, swarm.processes)) > before + 3, "following again", 60.0)
    assert len(end(swarm)) == PEERS - 1
