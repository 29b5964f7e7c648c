"""What an outer optimizer is worth: the loss of the average of eight GPTs at equal bytes, and the bytes to a loss.

    python benchmarks/studies/outer.py --store FOLDER [--only ARM ...] [--seeds N] [--steps N]
    python benchmarks/studies/outer.py --store FOLDER --render          # the table

Arms are computed side by side in one process with one thread, so they can be compared at any time: a file per arm and
seed in the store has the points so far. Workers have disjoint shards. Only the average is evaluated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from p2p_elastic.simulator import run as running
from p2p_elastic.simulator.options import build
from p2p_elastic.tasks import Data, find_task

TASK = "stdlib-gpt"
COMMON: Mapping[str, Any] = {"task": TASK, "workers": 8}
RARE = {"probability": "1/100"}  # each worker asks, and is asked: one exchange in 50 steps
ARMS: Mapping[str, Mapping[str, Any]] = {
    "elastic-gossip": RARE,
    "nesterov": {**RARE, "outer": "nesterov"},
    "nesterov-5": {**RARE, "outer": "nesterov", "outer_momentum": 0.5},
    "nesterov-9": {**RARE, "outer": "nesterov", "outer_momentum": 0.9},
    "noloco": {**RARE, "outer": "noloco"},
    "pull": {"rule": "gossip-pull", "probability": "1/50"},  # half of the bytes, twice as often
    "pull-nesterov": {"rule": "gossip-pull", "probability": "1/50", "outer": "nesterov"},
    "diloco": {"rule": "diloco", "period": 95},  # as many bytes
    "alone": {"rule": "none"},
    "alone-nesterov": {"rule": "none", "period": 50, "outer": "nesterov"},
    "often": {"probability": "1/25"},
    "often-nesterov": {"probability": "1/25", "outer": "nesterov"},
    "seldom-nesterov": {"probability": "1/400", "outer": "nesterov"},
    "eighths-nesterov": {**RARE, "outer": "nesterov", "fragment": 8},
    "nesterov-int4": {**RARE, "outer": "nesterov", "codec": "int4"},
    "often-nesterov-int4": {"probability": "1/13", "outer": "nesterov", "codec": "int4"},  # the bytes of elastic-gossip
    "seldom-nesterov-int4": {"probability": "1/400", "outer": "nesterov", "codec": "int4"},
    "period": {"period": 100},
    "period-nesterov": {"period": 100, "outer": "nesterov"},
}


class Point(NamedTuple):
    """An evaluation."""

    step: int
    megabytes: float
    loss: float
    distance: float


class Arm:
    """A simulation that is evaluated at the average of its workers."""

    def __init__(self, name: str, seed: int, steps: int, data: Data, store: Path) -> None:
        config = build({**COMMON, **ARMS[name], "steps": steps, "seed": seed})
        self._simulation = running._Simulation(config, data, torch.device("cpu"), "auto", running.build_round)
        self._file = store / f"{name}-{steps}-{seed}.json"
        self._points: list[Point] = []

    def step(self, step: int) -> None:
        self._simulation._step(step)

    def evaluate(self, step: int) -> Point:
        simulation = self._simulation
        mean = simulation._flat.mean(dim=0)
        found = simulation._judge.evaluate(mean, lambda: False, fresh_statistics=True)
        assert found is not None
        sent = simulation._round.traffic.worker_bytes / len(simulation._flat) / 1e6
        distance = running._consensus_distance(simulation._flat, mean)
        self._points.append(Point(step, sent, found.loss, distance))
        self._file.write_text(json.dumps(self._points))
        return self._points[-1]


def measure(names: Sequence[str], seed: int, steps: int, every: int, store: Path) -> None:
    """Compute arms side by side; what is in the store whole is not computed again."""
    data = find_task(TASK).load(None)
    store.mkdir(parents=True, exist_ok=True)
    todo = [name for name in names if not _whole(store / f"{name}-{steps}-{seed}.json", steps)]
    arms = {name: Arm(name, seed, steps, data, store) for name in todo}
    for step in range(1, steps + 1):
        for name, arm in arms.items():
            arm.step(step)
            if step % every == 0 or step == steps:
                point = arm.evaluate(step)
                print(f"{name:18} seed {seed} step {step:5} {point.megabytes:7.1f} MB {point.loss:.4f}", flush=True)


def _whole(file: Path, steps: int) -> bool:
    return file.exists() and bool(json.loads(file.read_text())[-1][0] == steps)


def reached(points: Sequence[Point], loss: float) -> Point | None:
    """Where a curve comes to a loss, between two points on a straight line; None if it does not."""
    for before, after in pairwise(points):
        if after.loss <= loss:
            share = (before.loss - loss) / (before.loss - after.loss) if before.loss > loss else 0.0
            between = (b + share * (a - b) for b, a in zip(before, after, strict=True))
            step, megabytes, _, distance = between
            return Point(round(step), megabytes, loss, distance)
    return None


def render_reached(store: Path, steps: int) -> None:
    """Print when and for how many bytes each arm comes to the loss of elastic gossip after so many steps, by seed."""
    print(f"| arm | steps, of {steps} | MB | of elastic gossip's bytes | seeds |\n|---|---|---|---|---|")
    files = [file for file in sorted(store.glob(f"elastic-gossip-{steps}-*.json")) if _whole(file, steps)]
    goals = {file.stem.rsplit("-", 1)[1]: Point(*json.loads(file.read_text())[-1]) for file in files}
    for name in ARMS:
        found = []
        for seed, goal in goals.items():
            file = store / f"{name}-{steps}-{seed}.json"
            points = [Point(*point) for point in json.loads(file.read_text())] if file.exists() else []
            if (at := reached(points, goal.loss)) is not None:
                found.append((at.step / goal.step, at.megabytes, at.megabytes / goal.megabytes))
        if found:
            share, megabytes, ratio = (statistics.fmean(column) for column in zip(*found, strict=True))
            print(f"| {name} | {share:.2f} | {megabytes:.2f} | {ratio:.4f} | {len(found)} of {len(goals)} |")


def render(store: Path) -> None:
    """Print the last points of all that is in the store."""
    found: dict[tuple[str, str], list[Point]] = {}
    for file in sorted(store.glob("*.json")):
        name, steps, _seed = file.stem.rsplit("-", 2)
        points = [Point(*point) for point in json.loads(file.read_text())]
        if points[-1].step == int(steps):
            found.setdefault((steps, name), []).append(points[-1])
    print("| steps | arm | MB sent per worker | loss of the average | distance | seeds |\n|---|---|---|---|---|---|")
    for (steps, name), last in sorted(found.items()):
        means = [statistics.fmean(getattr(point, key) for point in last) for key in ("megabytes", "loss", "distance")]
        each = ", ".join(f"{point.loss:.3f}" for point in last)
        print(f"| {steps} | {name} | {means[0]:.1f} | {means[1]:.4f} ({each}) | {means[2]:.2f} | {len(last)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--render", action="store_true")
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.store)
        render_reached(arguments.store, arguments.steps)
        return
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        measure(arguments.only, seed, arguments.steps, arguments.every, arguments.store)


if __name__ == "__main__":
    main()
