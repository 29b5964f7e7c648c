"""What does a partition cost? Six real peers in network namespaces, parted 3 to 3 for the middle third (Linux, root).

    python benchmarks/swarms/partition.py --data-dir DIR [--steps 4000] [--seed 1 2 3] > FILE
    python benchmarks/swarms/partition.py --render FILE

Each peer has its part of the data and a namespace of its own (tests/live_chaos/namespaces.py). When the first one did
a third of its steps, the switch is parted: connections across stay open and silent. At two thirds it is joined again.
Each seed is run without a partition, too. Losses are means over the last 50 steps of each peer before the moment, and
over the first 50 after it. Prints one JSON document per line and run to standard output; progress to standard error.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from live_chaos.lives import Life, say, start
from live_chaos.namespaces import Namespaces, why_not

from p2p_elastic.demo.processes import Swarm, compare
from p2p_elastic.tasks import find_task

PEERS = 6
SIDES = ([0, 1, 2], [3, 4, 5])
START_SECONDS, RUN_SECONDS = 300.0, 3600.0
LOSS_STEPS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--render", type=Path, help="print what is in this file as Markdown")
    parser.add_argument("--task", default="mnist-small")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rest", type=float, default=0.02, metavar="SECONDS", help="after each step")
    parser.add_argument("--probability", type=float, default=1 / 32)
    parser.add_argument("--seed", type=int, nargs="*", default=[1])
    options = parser.parse_args()
    if options.render is not None:
        print(render([json.loads(line) for line in options.render.read_text().splitlines()]))
        return
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    del options.render
    found = []
    for seed in options.seed:
        for parted in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                found.append({"seed": seed, "parted": parted, "options": vars(options)})
                found[-1] |= run(options, seed, parted, Path(folder))
            print(json.dumps(found[-1]), flush=True)
            say(f"seed {seed}, {'parted' if parted else 'whole'}: {found[-1]['accuracy of each']}")
    say(render(found))


def run(options: argparse.Namespace, seed: int, parted: bool, folder: Path) -> dict[str, Any]:
    """One swarm from beginning to end."""
    task = find_task(options.task)
    data = task.load(Path(options.data_dir) if options.data_dir else None)
    with Namespaces(PEERS) as namespaces, Swarm(folder) as swarm:
        lives = begin(options, swarm, namespaces, folder, seed)
        looks = Looks(swarm, namespaces, lives)
        looks.until_step(options.steps // 3)
        parted_at = time.monotonic()
        if parted:
            namespaces.part(SIDES)
        looks.until_step(2 * options.steps // 3)
        healed_at = time.monotonic()
        if parted:
            namespaces.heal()
        looks.until_ended()
        accuracies = [life.process.summary()["test_accuracy"] for life in lives]
        return {
            "accuracy of each": accuracies,
            "mean accuracy": statistics.mean(accuracies),
            "accuracy of the average": compare(task, data, [life.output for life in lives]).average_accuracy,
            "accuracy of the averages of the sides": [
                compare(task, data, [lives[i].output for i in side]).average_accuracy for side in SIDES
            ],
            "seconds": [life.process.summary()["seconds"] for life in lives],
            "seconds parted": healed_at - parted_at,
            "around healing": around(lives, parted_at, healed_at),
            "exchanges across": across(lives, parted_at, healed_at),
            "health": looks.health(parted_at, healed_at),
        }


def begin(options: argparse.Namespace, swarm: Swarm, namespaces: Namespaces, folder: Path, seed: int) -> list[Life]:
    lives: list[Life] = []
    for i in range(PEERS):
        found = ["--task", options.task, "--probability", str(options.probability)]
        more = found if not lives else ["--initial-peer", lives[0].process.said["listening"]["addresses"][0]]
        data = ["--data-dir", options.data_dir] if options.data_dir else []
        more = [*more, *data, "--host", namespaces.address(i), "--wait-for-peers", str(PEERS - 1)]
        more += ["--steps", str(options.steps), "--shard", f"{i + 1}/{PEERS}", "--seed", str(100 * seed + i)]
        name = f"peer-{i + 1}"
        extra = {"rest": options.rest, "namespace": namespaces.name(i)}
        lives.append(start(swarm, folder / name, name, more, extra))
        if i == 0:
            swarm.listen_until(lambda: lives[0].peer is not None, "starting the founder", START_SECONDS)
    swarm.listen_until(lambda: all(life.trains() for life in lives), "beginning to train", START_SECONDS)
    return lives


class Looks:
    """Listens to the peers, and asks each for its health about once a second."""

    def __init__(self, swarm: Swarm, namespaces: Namespaces, lives: list[Life]) -> None:
        self._swarm, self._namespaces, self._lives = swarm, namespaces, lives
        self._seen: list[tuple[float, int, tuple[str, ...]]] = []

    def until_step(self, step: int) -> None:
        while self._lives[0].process.last.get("step", 0) < step:
            self._look()

    def until_ended(self) -> None:
        while not self._swarm.all_ended():
            self._look()

    def _look(self) -> None:
        end = time.monotonic() + 1.0
        for i, life in enumerate(self._lives):
            if life.process.child.poll() is None:
                answer = self._namespaces.ask(i, f"{life.process.said['listening']['http']}/health")
                if answer is not None:
                    codes = tuple(reason["code"] for reason in answer["reasons"])
                    self._seen.append((time.monotonic(), i, codes))
        self._swarm.listen_until(lambda: time.monotonic() > end, "listening", RUN_SECONDS)

    def health(self, parted_at: float, healed_at: float) -> list[dict[str, Any]]:
        """Per peer: which reasons it gave, from when to when, in seconds since the partition and since its healing."""
        found = []
        for i in range(len(self._lives)):
            reasons: dict[str, list[float]] = {}
            for at, who, codes in self._seen:
                if who == i:
                    for code in codes:
                        reasons.setdefault(code, []).append(at)
            found.append(
                {c: {"first": t[0] - parted_at, "last after healing": t[-1] - healed_at} for c, t in reasons.items()}
            )
        return found


def around(lives: list[Life], parted_at: float, moment: float) -> list[dict[str, Any]]:
    """Each peer's loss before and after healing, and before and after its first exchange with the other side."""
    side = {life.peer: i in SIDES[0] for i, life in enumerate(lives)}
    found = []
    for life in lives:
        other = [e["at"] for e in life.completed(moment) if side.get(e["partner"]) != side[life.peer]]
        before, after = (loss(life, other[0], before=b) if other else None for b in (True, False))
        found.append(
            {
                "seconds from healing to the first exchange across": other[0] - moment if other else None,
                "loss before healing": loss(life, moment, before=True),
                "loss after healing": loss(life, moment, before=False),
                "loss before the first exchange across": before,
                "loss after the first exchange across": after,
                "rise of the loss at the first exchange across": None if None in (before, after) else after - before,
                "usual rise or fall, before the partition": usual_change(life, parted_at),
            }
        )
    return found


def loss(life: Life, moment: float, *, before: bool) -> float | None:
    steps = life.steps()
    chosen = [s for at, s in steps if at < moment][-LOSS_STEPS:] if before else [s for at, s in steps if at >= moment]
    return statistics.mean(chosen[:LOSS_STEPS]) if chosen else None


def usual_change(life: Life, before: float) -> float:
    """The median change between neighbouring means of 50 steps, of the ten before that moment: what is but noise."""
    losses = [s for at, s in life.steps() if at < before][-10 * LOSS_STEPS :]
    means = [statistics.mean(losses[i : i + LOSS_STEPS]) for i in range(0, len(losses) - LOSS_STEPS + 1, LOSS_STEPS)]
    return statistics.median(abs(b - a) for a, b in itertools.pairwise(means))


def across(lives: list[Life], parted_at: float, healed_at: float) -> dict[str, int]:
    """Completed exchanges between the sides, counted at both ends, before, during and after."""
    side = {life.peer: i in SIDES[0] for i, life in enumerate(lives)}
    times = [e["at"] for life in lives for e in life.completed() if side.get(e["partner"]) != side[life.peer]]
    return {
        "before": sum(at < parted_at for at in times),
        "during": sum(parted_at + 1.0 <= at < healed_at for at in times),  # one under way may still arrive
        "after": sum(at >= healed_at for at in times),
    }


def render(runs: list[dict[str, Any]]) -> str:
    """Accuracies of all runs, and what happened around the partition."""
    lines = ["| seed | | each | mean | average of all | averages of the sides | exchanges across |", "|---" * 7 + "|"]
    for r in runs:
        each, sides = (percents(r[key]) for key in ("accuracy of each", "accuracy of the averages of the sides"))
        how = f"parted for {r['seconds parted']:.0f} s" if r["parted"] else "whole"
        crossing = " / ".join(str(n) for n in r["exchanges across"].values())
        mean, average = percents([r["mean accuracy"]]), percents([r["accuracy of the average"]])
        lines.append(f"| {r['seed']} | {how} | {each} | {mean} | {average} | {sides} | {crossing} |")
    parted = [one for r in runs if r["parted"] for one in r["around healing"]]
    lines += ["", "| at healing, per peer | median (smallest - largest) |", "|---|---|"]
    for key in parted[0] if parted else ():
        values = [one[key] for one in parted if one[key] is not None]
        never = len(parted) - len(values)
        text = f"{statistics.median(values):.3g} ({min(values):.3g} - {max(values):.3g})" if values else "-"
        lines.append(f"| {key} | {text}{f', {never} never' if never else ''} |")
    lines += [
        "",
        "| /health said | in peers | first, s after the partition | last, s after healing |",
        "|---" * 4 + "|",
    ]
    said = [one for r in runs if r["parted"] for one in r["health"]]
    for code in sorted({code for one in said for code in one}):
        first = [one[code]["first"] for one in said if code in one]
        last = [one[code]["last after healing"] for one in said if code in one]
        lines.append(
            f"| {code} | {len(first)} of {len(said)} | {statistics.median(first):.0f} ({min(first):.0f} - "
            f"{max(first):.0f}) | {statistics.median(last):.0f} ({min(last):.0f} - {max(last):.0f}) |"
        )
    return "\n".join(lines)


def percents(values: list[float]) -> str:
    return " / ".join(f"{100 * value:.2f}" for value in values)


if __name__ == "__main__":
    main()
