"""How soon is a peer that joins late as good as the others, and what does it do to them? Real processes here.

    python benchmarks/swarms/late_join.py --data-dir DIR [--epochs 6] [--seed 1] > FILE
    python benchmarks/swarms/late_join.py --render FILE

Three peers train, each on a quarter of the data; once the first one did half of its steps, a fourth one joins with
the last quarter. The same swarm is run without it, too. All peers copy their parameters every so many seconds
(tests/live_chaos/launch.py), and afterwards these copies are evaluated on the whole validation split: so nothing of
that disturbs the training. Caught up is the first copy of the joiner that is within 0.5 points of the mean of the
others' latest copies. Prints one JSON document per line and run to standard output.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from live_chaos.lives import Life, say, start

from p2p_elastic.demo.processes import Swarm, compare
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.tasks import Data, Task, evaluate, find_task, initial_model

PEERS, JOINER = 3, 4
WITHIN = 0.005
START_SECONDS, RUN_SECONDS = 180.0, 7200.0


class Copy(NamedTuple):
    """The parameters of a peer at one moment (monotonic seconds)."""

    at: float
    step: int
    path: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--render", type=Path, help="print what is in this file as Markdown")
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, nargs="*", default=[1])
    parser.add_argument("--rest", type=float, default=0.0, metavar="SECONDS", help="after each step")
    parser.add_argument("--every", type=float, default=0.5, metavar="SECONDS", help="between two copies")
    parser.add_argument("--watch", type=float, default=20.0, metavar="SECONDS", help="copies of the joiner are taken")
    options = parser.parse_args()
    if options.render is not None:
        print(render([json.loads(line) for line in options.render.read_text().splitlines()]))
        return
    del options.render
    found = []
    for seed in options.seed:
        for joins in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                found.append({"seed": seed, "joins": joins, "options": vars(options)})
                found[-1] |= run(options, seed, joins, Path(folder))
            print(json.dumps(found[-1]), flush=True)
    say(render(found))


def run(options: argparse.Namespace, seed: int, joins: bool, folder: Path) -> dict[str, Any]:
    """One swarm from beginning to end, with or without the joiner."""
    task = find_task(options.task)
    data = task.load(Path(options.data_dir) if options.data_dir else None)
    with Swarm(folder) as swarm:
        lives = begin(options, swarm, folder, seed)
        total = lives[0].process.last["steps_total"]
        swarm.listen_until(lambda: lives[0].process.last["step"] >= total // 2, "half time", RUN_SECONDS)
        joiner = join(options, swarm, folder, seed, lives[0]) if joins else None
        members = [life.process for life in [*lives, *([joiner] if joiner else [])]]
        swarm.listen_until(lambda: all(p.ended_well() for p in members), "training", RUN_SECONDS)
        say(f"seed {seed}, {'with' if joins else 'without'} a joiner: trained; evaluating the copies")
        accuracies = [life.process.summary()["test_accuracy"] for life in lives]
        return {
            "accuracy of each": accuracies,
            "mean accuracy": statistics.mean(accuracies),
            "accuracy of their average": compare(task, data, [life.output for life in lives]).average_accuracy,
            "seconds": [life.process.summary()["seconds"] for life in lives],
            "joiner": None if joiner is None else catching_up(task, data, joiner, lives),
        }


def begin(options: argparse.Namespace, swarm: Swarm, folder: Path, seed: int) -> list[Life]:
    lives: list[Life] = []
    for i in range(1, PEERS + 1):
        found = ["--task", options.task] if not lives else ["--initial-peer", address(lives[0])]
        more = [*found, "--wait-for-peers", str(PEERS - 1), "--epochs", str(options.epochs)]
        lives.append(start_one(options, swarm, folder, i, seed, more, {"seconds": 10 * options.every, "for": 1e9}))
        swarm.listen_until(lambda: lives[0].peer is not None, "starting the founder", START_SECONDS)
    swarm.listen_until(lambda: lives[0].process.last.get("step", 0) > 0, "training", START_SECONDS)
    return lives


def join(options: argparse.Namespace, swarm: Swarm, folder: Path, seed: int, founder: Life) -> Life:
    say("half time: the fourth joins")
    more = ["--initial-peer", address(founder), "--epochs", str(max(1, options.epochs // 2))]
    watched = {"seconds": options.every, "for": options.watch}
    return start_one(options, swarm, folder, JOINER, seed, more, watched)


def start_one(
    options: argparse.Namespace,
    swarm: Swarm,
    folder: Path,
    i: int,
    seed: int,
    more: list[str],
    snapshots: dict[str, float],
) -> Life:
    name = f"peer-{i}"
    data = ["--data-dir", options.data_dir] if options.data_dir else []
    arguments = [*data, "--shard", f"{i}/{JOINER}", "--seed", str(100 * seed + i), *more]
    copies = {"folder": str(folder / f"{name}.copies"), **snapshots}
    return start(swarm, folder / name, name, arguments, {"rest": options.rest, "snapshots": copies})


def address(life: Life) -> str:
    return str(life.process.said["listening"]["addresses"][0])


def catching_up(task: Task, data: Data, joiner: Life, others: list[Life]) -> dict[str, Any]:
    """Where the joiner stood beside the others at each of its copies, and when it had caught up."""
    accuracy = judge(task, data)
    theirs = [list(copies(life)) for life in others]
    course = []
    for copy in copies(joiner):
        latest = [[one for one in each if one.at <= copy.at][-1] for each in theirs]
        course.append((copy.at, copy.step, accuracy(copy), statistics.mean(map(accuracy, latest))))
    caught = next((look for look in course if look[2] >= look[3] - WITHIN), None)
    first_step, first_exchange = joiner.steps()[0][0], joiner.completed()[0]["at"]
    return {
        "seconds from its start to its first step": first_step - joiner.began,
        "seconds from its start to its first exchange": first_exchange - joiner.began,
        "seconds from its start until caught up": caught[0] - joiner.began if caught else None,
        "seconds from its first step until caught up": caught[0] - first_step if caught else None,
        "steps until caught up": caught[1] if caught else None,
        "course": [
            {"seconds": at - joiner.began, "step": step, "accuracy": mine, "others": rest}
            for at, step, mine, rest in course
        ],
        "test accuracy": joiner.process.summary()["test_accuracy"],
    }


def copies(life: Life) -> Iterator[Copy]:
    """Those of one peer, the oldest first."""
    for path in sorted((life.output.parent / f"{life.name}.copies").glob("*.f32"), key=lambda p: float(_stem(p)[0])):
        at, step = _stem(path)
        yield Copy(float(at), int(step), path)


def _stem(path: Path) -> tuple[str, str]:
    at, step = path.stem.rsplit(".", 1)
    return at, step


def judge(task: Task, data: Data) -> Any:
    """Says how accurate the parameters in a copy are on the validation split."""
    model = initial_model(task, 0)
    vector = ParameterVector(model)

    @functools.cache
    def accuracy(copy: Copy) -> float:
        vector.load_(torch.from_numpy(np.fromfile(copy.path, dtype=np.float32)))
        result = evaluate(model, task, data.validation, "cpu")
        assert result is not None
        return result.accuracy

    return accuracy


def spread(values: list[float], digits: str = ".4g") -> str:
    """The median, smallest and largest."""
    if not values:
        return "never"
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} - {max(values):{digits}})"


def render(runs: list[dict[str, Any]]) -> str:
    """How the joiner caught up, and what became of the others."""
    joined = [r["joiner"] for r in runs if r["joins"]]
    lines = ["| the joiner | median (smallest - largest) |", "|---|---|"]
    for key in (key for key in joined[0] if key != "course"):
        values = [j[key] for j in joined if j[key] is not None]
        lines.append(f"| {key} | {spread([100 * v for v in values], '.2f') if 'accuracy' in key else spread(values)} |")
    lines += ["", "| seed | | the three | their mean | their average |", "|---" * 5 + "|"]
    for r in runs:
        each = " / ".join(f"{100 * a:.2f}" for a in r["accuracy of each"])
        mean, average = 100 * r["mean accuracy"], 100 * r["accuracy of their average"]
        lines.append(f"| {r['seed']} | {'joined' if r['joins'] else 'alone'} | {each} | {mean:.2f} | {average:.2f} |")
    lines += ["", "| s since its start | its step | its accuracy | the others' |", "|---" * 4 + "|"]
    course = joined[0]["course"]
    for look in [*course[:5], *course[5 :: max(1, len(course) // 8)]]:
        lines.append(
            f"| {look['seconds']:.1f} | {look['step']} | {100 * look['accuracy']:.2f} | {100 * look['others']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
