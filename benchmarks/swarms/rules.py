"""Do the rules do live what they do in the simulator? Real processes on the embedded digits.

    python benchmarks/swarms/rules.py rules          each rule: four processes, and the simulator with three seeds
    python benchmarks/swarms/rules.py centre         easgd: the centre killed twice
    python benchmarks/swarms/rules.py leader         lsgd: the leader killed
    python benchmarks/swarms/rules.py bytes          lsgd with eight peers: what the leader sends per snapshot

Writes one JSON document to standard output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model

from p2p_elastic.demo.processes import Process, Swarm, compare
from p2p_elastic.node.results import CENTRE_FILE
from p2p_elastic.simulator.config import SimulationConfig
from p2p_elastic.simulator.run import simulate
from p2p_elastic.tasks import evaluate, find_task, initial_model

START_SECONDS = 120.0
PERIOD = 16
RULES = ("elastic-gossip", "gossip-pull", "gossip-push", "gosgd", "easgd", "eamsgd", "lsgd", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rules", "centre", "leader", "bytes"])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--rule", action="append", help="only this one; repeatable")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experiments: dict[str, Callable[[], Any]] = {
            "rules": lambda: [against_simulator(rule, options.epochs, Path(folder)) for rule in options.rule or RULES],
            "centre": lambda: centre_killed_twice(Path(folder)),
            "leader": lambda: leader_killed(Path(folder)),
            "bytes": lambda: leader_bytes(Path(folder)),
        }
        json.dump(experiments[options.what](), sys.stdout, indent=2)
    print()


def start(swarm: Swarm, peers: int, rule: str, length: list[str], *more: str) -> list[Process]:
    """So many peers of one run, each on its own shard, beginning together."""
    meet = ["--wait-for-peers", str(peers - 1), *length]
    when = [] if rule == "none" else ["--period", str(PERIOD)]
    first = swarm.start("1", ["--task", "digits", "--rule", rule, *when, *more, *meet, *_own(1, peers)])
    swarm.listen_until(lambda: "listening" in first.said, "starting the founder", START_SECONDS)
    address = first.said["listening"]["addresses"][0]
    for i in range(2, peers + 1):
        swarm.start(str(i), ["--initial-peer", address, *meet, *_own(i, peers)])
    return list(swarm.processes)


def _own(i: int, peers: int) -> list[str]:
    # The founder's seed is that of the first parameters: 0, as in the simulator.
    return ["--shard", f"{i}/{peers}", "--seed", str(i - 1)]


# -- each rule against the simulator ----------------------------------------------------------------------------------


def against_simulator(rule: str, epochs: int, folder: Path) -> dict[str, Any]:
    with Swarm(folder / rule) as swarm:
        processes = start(swarm, 4, rule, ["--epochs", str(epochs)])
        swarm.listen_until(swarm.all_ended, rule, 900.0)
        summaries = [p.summary() for p in processes]
        task = find_task("digits")
        data = task.load(None)
        average = compare(task, data, [p.folder for p in processes])
    centre = next((s["centre_test_accuracy"] for s in summaries if (s["centre"] or {}).get("here")), None)
    simulated = [_simulated(rule, epochs, seed) for seed in (1, 2, 3)]
    live = average.average_accuracy if centre is None else centre
    return {
        "rule": rule,
        "live": live,
        "live_of_each": [s["test_accuracy"] for s in summaries],
        "simulated": statistics.mean(simulated),
        "simulated_seeds": simulated,
        "difference_points": 100 * (live - statistics.mean(simulated)),
        "live_consensus_distance": average.consensus_distance,
        "exchanges": [s["exchanges"]["by_outcome"] for s in summaries],
        "bytes_sent": [s["exchanges"]["bytes_sent"] for s in summaries],
        "seconds": max(s["seconds"] for s in summaries),
    }


def _simulated(rule: str, epochs: int, seed: int) -> float:
    torch.set_num_threads(1)
    when = {} if rule == "none" else {"period": PERIOD}
    config = SimulationConfig(rule=rule, workers=4, epochs=epochs, seed=seed, evaluate_steps=10**6, **when)
    data = find_task("digits").load(None)
    result = simulate(config, data, torch.device("cpu"), clock=time.monotonic, progress=lambda *_: None)
    return result.points[-1].accuracy


# -- kills ------------------------------------------------------------------------------------------------------------


def _completed(process: Process) -> int:
    return int(process.last.get("exchanges", {}).get("by_outcome", {}).get("completed", 0))


def _kill(swarm: Swarm, process: Process) -> float:
    process.child.kill()
    process.child.wait()
    swarm.processes.remove(process)
    return time.monotonic()


def _accuracy(file: Path) -> float:
    task = find_task("digits")
    model = initial_model(task, 0)
    load_model(model, str(file))
    result = evaluate(model, task, task.load(None).test, "cpu")
    assert result is not None
    return result.accuracy


def _exchange_on(swarm: Swarm, more: int) -> None:
    counts = {p.name: _completed(p) + more for p in swarm.processes}
    swarm.listen_until(lambda: all(_completed(p) >= counts[p.name] for p in swarm.processes), "exchanging", 60.0)


def _end(swarm: Swarm) -> list[dict[str, Any]]:
    for process in swarm.processes:
        process.child.terminate()
    swarm.listen_until(swarm.all_ended, "ending", 60.0)
    return [p.summary() for p in swarm.processes]


def centre_killed_twice(folder: Path) -> dict[str, Any]:
    kills = []
    with Swarm(folder / "centre") as swarm:
        start(swarm, 4, "easgd", ["--epochs", "100000"])
        everybody = lambda n: all(_completed(p) >= n for p in swarm.processes)  # noqa: E731
        swarm.listen_until(lambda: everybody(20), "exchanging", START_SECONDS)
        for _ in range(2):
            centre = next(p for p in swarm.processes if p.last["centre"]["here"])
            before = centre.last["centre"]
            killed_at = _kill(swarm, centre)
            there = lambda: any(p.last["centre"]["here"] for p in swarm.processes)  # noqa: E731
            swarm.listen_until(there, "a new centre", 60.0)
            elected = time.monotonic() - killed_at
            after = next(p.last["centre"] for p in swarm.processes if p.last["centre"]["here"])
            _exchange_on(swarm, 5)
            kills.append(
                {
                    "killed": centre.name,
                    "exchanges_behind_the_centre_last_reported_before": before["exchanges"],
                    "exchanges_behind_its_successor": after["exchanges"],
                    "term": after["term"],
                    "new_centre_after_seconds": round(elected, 1),
                    "everybody_five_more_exchanges_after_seconds": round(time.monotonic() - killed_at, 1),
                }
            )
        summaries = _end(swarm)
        centres = [_accuracy(p.folder / CENTRE_FILE) for p in swarm.processes]
    return {
        "kills": kills,
        "steps": [s["steps"] for s in summaries],
        "accuracy_of_each": [s["test_accuracy"] for s in summaries],
        "centre_accuracy": centres,
        "terms": [s["centre"]["term"] for s in summaries],
    }


def leader_killed(folder: Path) -> dict[str, Any]:
    with Swarm(folder / "leader") as swarm:
        start(swarm, 4, "lsgd", ["--epochs", "100000"])
        peer_of = {p.said["listening"]["peer"]: p for p in swarm.processes if "listening" in p.said}

        def led_by() -> str | None:
            swarm.listen(0.2)
            peer_of.update({p.said["listening"]["peer"]: p for p in swarm.processes if "listening" in p.said})
            named = {(p.last.get("leaders") or {}).get("leader") for p in swarm.processes}
            return named.pop() if len(named) == 1 else None

        swarm.listen_until(lambda: led_by() in peer_of, "agreeing on a leader", START_SECONDS)
        leader = peer_of[str(led_by() or next(iter(peer_of)))]
        before = {p.name: _completed(p) for p in swarm.processes}
        killed_at = _kill(swarm, leader)
        dead = leader.said["listening"]["peer"]
        swarm.listen_until(
            lambda: all((p.last["leaders"] or {}).get("leader") not in (None, dead) for p in swarm.processes),
            "a new leader",
            60.0,
        )
        elected = time.monotonic() - killed_at
        swarm.listen(10.0)
        after = {p.name: _completed(p) for p in swarm.processes}
        summaries = _end(swarm)
    return {
        "killed": leader.name,
        "nobody_follows_it_after_seconds": round(elected, 1),
        "snapshots_fetched_before": before,
        "snapshots_fetched_10_seconds_later": after,
        "accuracy_of_each": [s["test_accuracy"] for s in summaries],
        "steps": [s["steps"] for s in summaries],
    }


def leader_bytes(folder: Path) -> dict[str, Any]:
    peers = 8
    with Swarm(folder / "bytes") as swarm:
        processes = start(swarm, peers, "lsgd", ["--epochs", "300"])
        swarm.listen_until(swarm.all_ended, "training", 900.0)
        summaries = [p.summary() for p in processes]
    size = 4 * 85_002
    rows = [
        {
            "peer": p.name,
            "snapshots_published": s["leaders"]["snapshots_published"],
            "models_sent": round(s["exchanges"]["bytes_sent"] / size, 1),
            "models_received": round(s["exchanges"]["bytes_received"] / size, 1),
            "accuracy": s["test_accuracy"],
        }
        for p, s in zip(processes, summaries, strict=True)
    ]
    first = max(rows, key=lambda row: row["snapshots_published"])
    return {
        "peers": rows,
        "leader_models_sent_per_snapshot": round(first["models_sent"] / first["snapshots_published"], 2),
        "copies_delivered_per_snapshot": round(
            sum(row["models_received"] for row in rows) / sum(row["snapshots_published"] for row in rows), 2
        ),
    }


if __name__ == "__main__":
    main()
