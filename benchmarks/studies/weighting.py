"""Dynamic weighting against a fixed moving rate, under everything that can go wrong with a worker.

    python benchmarks/studies/weighting.py --data-dir DIR --store FOLDER [--processes 2] [--only GROUP ...]
    python benchmarks/studies/weighting.py --store FOLDER --render > docs/results/weighting.md

Each run is written down when it ends; what is in the store is not computed again, so a stopped study goes on where it
was. Runs are independent and use one thread each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from study import data, file_of, study

from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.run import simulate

STEPS = 400
SEEDS = (1, 2, 3)
NOISE = 0.1  # points: ten of the 10,000 test images
RULES = {"easgd": 0.1, "elastic-gossip": 0.5}
BAD = ("crash", "crash-silent", "corrupt", "diverge", "flipped")  # a worker's state is bad
HARMLESS = ("none", "drop", "burst", "slow")  # it is not: dynamic weighting must not cost anything
FAILURES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "drop": {"drop": 1 / 3},
    "burst": {"burst": 1 / 3, "burst_steps": 75},
    "slow": {"slow": 1, "slow_factor": 4.0},
    "crash": {"crash": 0.01, "snapshot_steps": 100},
    "crash-silent": {"crash": 0.01, "snapshot_steps": 100, "silent": True},
    "corrupt": {"corrupt": 0.01, "noise": 2.0},
    "diverge": {"diverge": 1},
    "flipped": {"flipped": 1},
    "nan": {"nan": 1},
}
WORDS = {
    "none": "nothing goes wrong",
    "drop": "each due exchange is lost with probability 1/3",
    "burst": "each worker is cut off a third of the time, 75 steps at a time",
    "slow": "one worker takes one step while the others take four",
    "crash": "each worker restarts with probability 1/100 per step from a snapshot that is up to 100 steps old, and "
    "knows that it restarted, as a live peer does (with fixed weights that makes no difference)",
    "crash-silent": "the same, but no worker knows: whether it fell back must be seen in what is measured",
    "corrupt": "with probability 1/100 per step a worker's parameters get noise of twice their own root mean square",
    "diverge": "one worker has 100 times the learning rate",
    "flipped": "one worker trains on the labels 9 - c",
    "nan": "the parameters of one worker turn to NaN at step 100",
}


class Group(NamedTuple):
    """Runs that are one table: options that they share, and the periods and failures that they have."""

    title: str
    options: Mapping[str, Any]
    periods: tuple[int, ...] = (1, 2, 4)
    failures: tuple[str, ...] = (*HARMLESS, *BAD)
    rules: Mapping[str, float] = RULES


GROUPS = {
    "sgd-4": Group("SGD, 4 workers, disjoint shards", {"workers": 4}, failures=tuple(FAILURES)),
    "sgd-8": Group("SGD, 8 workers, disjoint shards", {"workers": 8}),
    "adahessian-4": Group("AdaHessian, 4 workers, disjoint shards", {"workers": 4, "optimizer": "adahessian"}),
    "overlap-4": Group(
        "SGD, 4 workers, a quarter of the data is everybody's", {"workers": 4, "split": "overlap"}, periods=(1,)
    ),
    "dirichlet-4": Group(
        "SGD, 4 workers, few classes each (Dirichlet 0.3)",
        {"workers": 4, "split": "dirichlet", "dirichlet": 0.3},
        periods=(4,),
    ),
    "leader-4": Group("Leader SGD, 4 workers", {"workers": 4}, periods=(4,), rules={"lsgd": 0.1}),
    "overlap-adahessian-4": Group(
        "AdaHessian, 4 workers, a quarter of the data is everybody's",
        {"workers": 4, "optimizer": "adahessian", "split": "overlap"},
        periods=(1,),
    ),
    "overlap-8": Group(
        "SGD, 8 workers, a quarter of the data is everybody's", {"workers": 8, "split": "overlap"}, periods=(1,)
    ),
    "adahessian-8": Group("AdaHessian, 8 workers, disjoint shards", {"workers": 8, "optimizer": "adahessian"}),
}


class Run(NamedTuple):
    """One simulation and where it belongs."""

    group: str
    rule: str
    period: int
    failure: str
    weighting: str
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """As on the command line of `p2p-elastic simulate`."""
        group = GROUPS[self.group]
        momentum = {} if group.options.get("optimizer") == "adahessian" else {"momentum": 0.0}
        return {
            "task": "mnist-small",
            "rule": self.rule,
            "moving_rate": group.rules[self.rule],
            "period": self.period,
            "steps": STEPS,
            "evaluate_steps": STEPS,
            "weighting": self.weighting,
            "seed": self.seed,
            **momentum,
            **group.options,
            **FAILURES[self.failure],
        }

    @property
    def file(self) -> str:
        """The name of its result."""
        return file_of(self, self.options)


def runs(groups: list[str]) -> Iterator[Run]:
    """All runs, first those of one period in every group: a study that is stopped has something of everything."""
    for first in (True, False):
        for name in groups:
            group = GROUPS[name]
            periods = group.periods[:1] if first else group.periods[1:]
            for seed, period in itertools.product(SEEDS, periods):
                for failure, rule, weighting in itertools.product(group.failures, group.rules, ("fixed", "dynamic")):
                    yield Run(name, rule, period, failure, weighting, seed)


def _simulate(run: Run) -> tuple[Run, dict[str, Any]]:
    config = build(run.options)
    result = simulate(config, data(), "cpu", clock=time.monotonic)
    last = result.points[-1]
    healthy = [a for i, a in enumerate(last.accuracies) if i not in config.failures.faulty]
    # The median: a worker that was hit in the last step has not met anybody since.
    accuracy = statistics.median(healthy) if last.centre_accuracy is None else last.centre_accuracy
    return run, {
        "accuracy": accuracy,
        "accuracies": last.accuracies,
        "faults": result.faults,
        "seconds": result.seconds,
        "options": run.options,
    }


class Cell(NamedTuple):
    """Accuracies, in percent, of the same seeds with both weightings."""

    fixed: list[float]
    dynamic: list[float]

    @property
    def gains(self) -> list[float]:
        """Of each seed: both have the same, so what a seed does to both drops out."""
        return [dynamic - fixed for fixed, dynamic in zip(*self, strict=True)]

    @property
    def gain(self) -> float:
        return statistics.mean(self.gains)

    @property
    def range(self) -> float:
        """Of the accuracies over the seeds, the greater one of the two."""
        return max(max(self.fixed) - min(self.fixed), max(self.dynamic) - min(self.dynamic))

    @property
    def verdict(self) -> str:
        """Ahead or behind where every seed says so by more than NOISE; bold where the mean is beyond the range too."""
        if min(self.gains) > NOISE:
            return "**ahead**" if self.gain > self.range else "ahead"
        if max(self.gains) < -NOISE:
            return "**behind**" if -self.gain > self.range else "behind"
        return "within noise"


def cell(store: Path, group: str, rule: str, period: int, failure: str) -> Cell | None:
    """None where fewer than two seeds are there with both weightings."""
    both = Cell([], [])
    for seed in SEEDS:
        files = [store / Run(group, rule, period, failure, w, seed).file for w in ("fixed", "dynamic")]
        if all(file.exists() for file in files):
            for values, file in zip(both, files, strict=True):
                values.append(100 * json.loads(file.read_text())["accuracy"])
    return both if len(both.fixed) > 1 else None


def render(store: Path) -> str:
    """The tables as Markdown, with counts of the verdicts."""
    parts, counts = [], dict[tuple[str, str], int]()
    for name, group in GROUPS.items():
        rows = []
        for failure, rule, period in itertools.product(group.failures, group.rules, group.periods):
            found = cell(store, name, rule, period, failure)
            if found is None:
                continue
            kind = "bad state" if failure in (*BAD, "nan") else "harmless"
            counts[kind, found.verdict] = counts.get((kind, found.verdict), 0) + 1
            means = [statistics.mean(values) for values in found]
            rows.append(
                f"| {failure} | {rule} | {period} | {means[0]:.2f} | {means[1]:.2f} | {found.gain:+.2f} | "
                f"{min(found.gains):+.2f} to {max(found.gains):+.2f} | {found.range:.2f} | {len(found.fixed)} | "
                f"{found.verdict} |"
            )
        if rows:
            head = "| failure | rule | tau | fixed | dynamic | gain | of each seed | range | seeds | dynamic is |\n"
            head += "|---" * 10 + "|"
            parts.append("\n".join([f"### {group.title}\n", head, *rows]))
    words = "\n".join(f"- `{failure}`: {text}" for failure, text in WORDS.items())
    summary = "\n".join(f"- {kind}, {verdict}: {n}" for (kind, verdict), n in sorted(counts.items()))
    return "\n\n".join([words, summary, *parts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where MNIST is")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--render", action="store_true", help="print the tables of what is in the store")
    given = parser.parse_args()
    if given.render:
        print(render(given.store))
    else:
        todo = runs(given.only)
        study(
            todo, _simulate, task="mnist-small", data_dir=given.data_dir, store=given.store, processes=given.processes
        )


if __name__ == "__main__":
    main()
