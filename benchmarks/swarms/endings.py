"""Start and stop real peers in every way, many times over, and look for what they leave behind.

    python benchmarks/swarms/endings.py [--rounds 5]

Each round starts four peers: one ends by itself, the others by Ctrl-C, SIGTERM and SIGKILL at a random moment.
Prints one JSON document: seconds until each was gone with its p2pd, and the processes and files left over.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil

from p2p_elastic.demo.processes import Process, Swarm

KINDS = {"end": None, "ctrl-c": signal.SIGINT, "sigterm": signal.SIGTERM, "sigkill": signal.SIGKILL}
START_SECONDS = 120.0
GONE_SECONDS = 30.0


def relatives(process: Process) -> list[psutil.Process]:
    parent = psutil.Process(process.child.pid)
    return [parent, *parent.children(recursive=True)]


def left_behind() -> dict[str, int]:
    names = [p.info["name"] for p in psutil.process_iter(["name"])]
    return {
        "p2pd processes": sum(name == "p2pd" for name in names),
        "folders of sockets": len(list(Path(tempfile.gettempdir()).glob("p2p-elastic-*"))),
    }


def has_ended(process: Process) -> bool:
    """Whether it said so."""
    return "end" in process.said


def one_round(rng: random.Random, seconds: dict[str, list[float]]) -> None:
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder)) as swarm:
        steps = {name: "300" if number is None else "100000000" for name, number in KINDS.items()}
        processes = {name: swarm.start(name, ["--steps", steps[name]]) for name in KINDS}
        swarm.listen_until(lambda: all("listening" in p.said for p in processes.values()), "starting", START_SECONDS)
        family = {name: relatives(p) for name, p in processes.items() if p.child.poll() is None}
        for name, number in KINDS.items():
            process = processes[name]
            if number is None:
                swarm.listen_until(partial(has_ended, process), "ending", START_SECONDS)
            else:
                swarm.listen(rng.uniform(0.0, 3.0))
                process.child.send_signal(number)
            asked = time.monotonic()
            process.child.wait()
            _, alive = psutil.wait_procs(family.get(name, []), timeout=GONE_SECONDS)
            assert not alive, alive
            seconds[name].append(round(time.monotonic() - asked, 2))
            if name != "sigkill":
                assert process.child.returncode == 0, process.child.returncode
        swarm.processes.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    before, rng = left_behind(), random.Random(options.seed)
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(options.rounds):
        one_round(rng, seconds)
    report = {
        "starts_and_stops": options.rounds * len(KINDS),
        "seconds_until_gone": {
            name: {"median": statistics.median(values), "largest": max(values)} for name, values in seconds.items()
        },
        "before": before,
        "after": left_behind(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
