"""Does the swarm beat its lone members? Real processes on MNIST, with and without exchange.

    python benchmarks/swarms/mnist.py --data-dir DIR [--peers 4] [--epochs 5] [--kill-first-after STEP]

Each peer has a disjoint shard. Writes one JSON document to standard output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from p2p_elastic.demo.processes import Process, Swarm, compare
from p2p_elastic.tasks import find_task

START_SECONDS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--probability", type=float, default=1 / 32)
    parser.add_argument("--founding", default="", help='more for the founder, such as "--codec int8 --fragment 8"')
    parser.add_argument("--kill-first-after", type=int, metavar="STEP", help="kill -9 the founder at this step of its")
    parser.add_argument("--no-lone", action="store_true", help="leave out the run without exchange")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {"options": vars(options), "swarm": run_swarm(options, Path(folder) / "swarm")}
        if not options.no_lone:
            result["lone"] = run_lone(options, Path(folder) / "lone")
    json.dump(result, sys.stdout, indent=2)
    print()


def _training(options: argparse.Namespace, i: int) -> list[str]:
    shard = ["--shard", f"{i}/{options.peers}", "--seed", str(i)]
    return ["--data-dir", options.data_dir, "--epochs", str(options.epochs), *shard]


def run_swarm(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All peers in one run, beginning together."""
    meet = ["--wait-for-peers", str(options.peers - 1)]
    with Swarm(folder) as swarm:
        founding = ["--task", options.task, "--probability", str(options.probability), *options.founding.split()]
        founder = swarm.start("peer-1", [*founding, *meet, *_training(options, 1)])
        swarm.listen_until(lambda: "listening" in founder.said, "starting the founder", START_SECONDS)
        address = founder.said["listening"]["addresses"][0]
        for i in range(2, options.peers + 1):
            swarm.start(f"peer-{i}", ["--initial-peer", address, *meet, *_training(options, i)])
        killed = None if options.kill_first_after is None else kill_founder(swarm, founder, options.kill_first_after)
        rest = [p for p in swarm.processes if p is not founder or killed is None]
        swarm.listen_until(lambda: all(p.ended_well() for p in rest), "training", 3600.0)
        return {**report(options, rest), "kill": killed}


def kill_founder(swarm: Swarm, founder: Process, step: int) -> dict[str, Any]:
    """kill -9 the peer that everyone bootstrapped from, and wait until each other one exchanged again."""
    others = [p for p in swarm.processes if p is not founder]
    swarm.listen_until(lambda: founder.last.get("step", 0) >= step, "reaching the step of the kill", 3600.0)
    founder.child.kill()
    founder.child.wait()
    swarm.processes.remove(founder)
    killed_at = time.monotonic()
    swarm.listen(1.0)  # what they said before the kill
    before = {p.name: _completed(p) for p in others}
    swarm.listen_until(
        lambda: all(_completed(p) >= before[p.name] + 5 or p.ended_well() for p in others), "exchanging", 600.0
    )
    return {
        "at_step": step,
        "completed_before": before,
        "completed_five_more_after_seconds": round(time.monotonic() - killed_at, 1),
    }


def _completed(process: Process) -> int:
    return int(process.last["exchanges"]["by_outcome"].get("completed", 0))


def run_lone(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The same peers, each a run of its own, at the same time on the same machine."""
    with Swarm(folder) as swarm:
        for i in range(1, options.peers + 1):
            swarm.start(f"lone-{i}", ["--task", options.task, *_training(options, i)])
        swarm.listen_until(swarm.all_ended, "training", 3600.0)
        return report(options, swarm.processes)


def report(options: argparse.Namespace, processes: list[Process]) -> dict[str, Any]:
    task = find_task(options.task)
    comparison = compare(task, task.load(Path(options.data_dir)), [p.folder for p in processes])
    summaries = [p.summary() for p in processes]
    accuracies = [s["test_accuracy"] for s in summaries]
    return {
        "accuracy_of_each": accuracies,
        "median_accuracy": statistics.median(accuracies),
        "accuracy_of_the_average": comparison.average_accuracy,
        "consensus_distance": comparison.consensus_distance,
        "norm_of_the_average": comparison.average_norm,
        "seconds": [s["seconds"] for s in summaries],
        "steps": [s["steps"] for s in summaries],
        "exchanges": [s["exchanges"] for s in summaries],
    }


if __name__ == "__main__":
    main()
