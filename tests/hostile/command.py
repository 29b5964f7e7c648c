"""The command: one line for each attack and share, with the mean over the seeds and the worst of them."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from hostile.attacks import ATTACKS
from hostile.swarm import Case, Outcome, load, run

COLUMNS = "data", "weighting", "share", "what they do", "accuracy", "worst seed", "points lost", "loss", "ratio"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    options = _options(arguments)
    once = partial(_run, task=options.task, folder=options.data_dir)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for split, weighting in itertools.product(options.splits, options.weightings):
            rows = [
                [Case(attack, share, split, weighting, seed) for seed in options.seeds]
                for attack, share in _rows(options.attacks, options.shares)
            ]
            outcomes, honest = pool.map(once, itertools.chain.from_iterable(rows)), list[Outcome]()
            for cases in rows:
                found = list(itertools.islice(outcomes, len(cases)))
                honest = honest or found
                print(_line(cases[0], found, honest), flush=True)
    return 0


def _run(case: Case, task: str, folder: Path) -> Outcome:
    return run(case, load(task, folder), task)


def _rows(attacks: Sequence[str], shares: Sequence[float]) -> Iterator[tuple[str, float]]:
    yield "none", 0.0
    yield from itertools.product([attack for attack in attacks if attack != "none"], shares)


def _line(case: Case, found: Sequence[Outcome], honest: Sequence[Outcome]) -> str:
    accuracy, loss = (statistics.mean(values) for values in zip(*found, strict=True))
    fair_accuracy, fair_loss = (statistics.mean(values) for values in zip(*honest, strict=True))
    cells = [
        case.split,
        case.weighting,
        f"{case.share:.0%}",
        ATTACKS[case.attack].text,
        f"{accuracy:.4f}",
        f"{min(one.accuracy for one in found):.4f}",
        f"{100 * (fair_accuracy - accuracy):.2f}",
        f"{loss:.4g}",
        f"{loss / fair_loss:.3g}",
    ]
    return f"| {' | '.join(cells)} |"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="Members that lie, simulated.")
    parser.add_argument("--data-dir", type=Path, default=Path(), help="where the task's data are")
    parser.add_argument("--task", choices=("mnist-small", "digits"), default="mnist-small")
    parser.add_argument("--attacks", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--shares", nargs="*", type=float, default=[0.2, 0.4], help="of the members that lie")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--splits", nargs="*", choices=("even", "dirichlet"), default=["even", "dirichlet"])
    parser.add_argument("--weightings", nargs="*", choices=("dynamic", "fixed"), default=["dynamic"])
    return parser.parse_args(arguments)
