"""What the papers claim of their numbers, checked mechanically against ours."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rows import GROUPS, ROWS, TAU, Q

from p2p_elastic.rules.methods import RULES, Topology
from p2p_elastic.simulator.config import SimulationResult

Numbers = Mapping[str, float]
"""Metric -> number, in percent unless it says otherwise."""


def measure(result: SimulationResult) -> dict[str, float]:
    """Every number of a result that some row or claim speaks of."""
    if not result.points:
        return {}
    last = result.points[-1]
    errors = [100 * (1 - point.accuracy) for point in result.points]
    numbers = {
        "rank-0": 100 * last.accuracies[0],
        "average": 100 * last.average_accuracy,
        "each, mean": 100 * statistics.fmean(last.accuracies),
        "each, lowest": 100 * min(last.accuracies),
        "each, highest": 100 * max(last.accuracies),
        "error": errors[-1],
        "best error": min(errors),
        "bytes": last.bytes_per_worker * result.config.workers,
        "parameters": float(result.parameters),
        "steps": float(last.step),
        "exchanges": float(last.exchanges),
    }
    for level in (21.0, 15.0):
        reached = [point.step for point, error in zip(result.points, errors, strict=True) if error <= level]
        if reached:
            numbers[f"steps to {level:g}"] = float(reached[0])
    if result.leaders:
        led = [result.leaders.get(worker, 0) for worker in range(result.config.workers)]
        numbers["least led"] = 100 * min(led) / sum(led)
    return numbers


class RowsAsked(dict[str, dict[str, float]]):
    """The numbers of rows, remembering which rows a claim asked for.

    Rows that should exchange and never did in so short a run say nothing: asking for one is a KeyError.
    """

    def __init__(self, rows: Mapping[str, Sequence[SimulationResult]]) -> None:
        super().__init__({name: mean(results) for name, results in rows.items()})
        self._rows = rows
        self._lengths: set[float] = set()

    def __getitem__(self, name: str) -> dict[str, float]:
        numbers = super().__getitem__(name)
        config = self._rows[name][0].config
        if RULES[config.rule].topology is not Topology.NOBODY and numbers["exchanges"] == 0:
            raise KeyError(f"{name} made no exchange in {numbers['steps']:g} steps")
        self._lengths.add((config.epochs or 0) / (ROWS[name].config.epochs or 1))
        return numbers

    @property
    def comparable(self) -> bool:
        """Whether all rows asked for were run for the same part of their length."""
        return len(self._lengths) <= 1


def mean(results: Sequence[SimulationResult]) -> dict[str, float]:
    """The mean over seeds of what all of them have."""
    measured = [measure(result) for result in results]
    shared = [key for key in measured[0] if all(key in one for one in measured)] if measured else []
    return {key: statistics.fmean(one[key] for one in measured) for key in shared}


class Verdict(NamedTuple):
    """`holds` is None where it lies within the noise of single runs."""

    holds: bool | None
    detail: str


Check = Callable[[Mapping[str, Numbers]], Verdict]


class Claim(NamedTuple):
    """`check` raises KeyError where a row or a number is missing."""

    target: str
    text: str
    check: Check


def at_least(pairs: Sequence[tuple[str, str]], metric: str, noise: float, least: float = 0.0) -> Check:
    """The first of each pair is ahead of the second by `least` or more; for errors, below it."""
    sign = -1.0 if "error" in metric else 1.0

    def check(numbers: Mapping[str, Numbers]) -> Verdict:
        gaps = [sign * (numbers[one][metric] - numbers[other][metric]) for one, other in pairs]
        shown = ", ".join(f"{round(gap, 2) + 0.0:+.2f}" for gap in gaps)
        if min(gaps) >= least:
            return Verdict(True, shown)
        return Verdict(None if min(gaps) >= least - 2 * noise else False, shown)

    return check


def within(rows: Sequence[str], metric: str, most: float) -> Check:
    """The rows differ by no more than so much."""

    def check(numbers: Mapping[str, Numbers]) -> Verdict:
        values = [numbers[row][metric] for row in rows]
        spread = max(values) - min(values)
        return Verdict(spread <= most, f"{', '.join(f'{value:.2f}' for value in values)}: {spread:.2f} apart")

    return check


def number(row: str, metric: str, low: float, high: float) -> Check:
    """A number of a row is in a range."""

    def check(numbers: Mapping[str, Numbers]) -> Verdict:
        value = numbers[row][metric]
        return Verdict(low <= value <= high, f"{value:.2f}")

    return check


def ratio(one: tuple[str, str], other: tuple[str, str], low: float, high: float) -> Check:
    """(row, metric) over (row, metric) is in a range."""

    def check(numbers: Mapping[str, Numbers]) -> Verdict:
        value = numbers[one[0]][one[1]] / numbers[other[0]][other[1]]
        return Verdict(low <= value <= high, f"{value:.3g}")

    return check


def _best_alpha(workers: int, q: int) -> Check:
    def check(numbers: Mapping[str, Numbers]) -> Verdict:
        names = {a: f"EG {workers} q=1/{q} alpha={a:g}" for a in (0.05, 0.25, 0.75, 0.95)}
        values = {a: numbers[name]["average"] for a, name in names.items()}
        values[0.5] = numbers[f"EG {workers} q=1/{q}"]["average"]
        best, middle = max(values.values()), max(values[0.25], values[0.5])
        shown = ", ".join(f"{a:g}: {values[a]:.2f}" for a in sorted(values))
        return Verdict(True if best == middle else None if best - middle <= 2 * MNIST else False, shown)

    return check


def _collapse(row: str, least: float) -> Check:
    def check(numbers: Mapping[str, Numbers]) -> Verdict:
        rank0, average = numbers[row]["rank-0"], numbers[row]["average"]
        return Verdict(rank0 - average >= least, f"rank-0 {rank0:.2f}, average {average:.2f}")

    return check


def _bytes_per_round(row: str, vectors: float) -> Check:
    def check(numbers: Mapping[str, Numbers]) -> Verdict:
        mine, config = numbers[row], ROWS[row].config
        rounds = mine["steps"] // (config.schedule.period or 1)
        value = mine["bytes"] / rounds / (4 * mine["parameters"])  # buffers travel too, and count as parameters here
        return Verdict(abs(value - vectors) <= 0.01 * vectors, f"{value:.3f} vectors")

    return check


MNIST, GOSSIP, EASGD, LSGD, ADAHESSIAN = (group.noise for group in GROUPS)

CLAIMS = (
    Claim("M1", "all-reduce on 4 workers is as good as one worker", within(("all-reduce 4", "single"), "rank-0", 0.25)),
    Claim(
        "M3",
        "EG >= GS at every q, 4 workers (gaps of the average)",
        at_least([(f"EG 4 q=1/{q}", f"GS 4 q=1/{q}") for q in Q[:4]], "average", MNIST),
    ),
    Claim(
        "M4",
        "EG >= GS at every q, 8 workers (gaps of the average)",
        at_least([(f"EG 8 q=1/{q}", f"GS 8 q=1/{q}") for q in Q[1:4]], "average", MNIST),
    ),
    Claim(
        "M4",
        "8 workers lose more than 4 as exchanges get rare (EG 4 - EG 8 at q=1/512, 1/2048)",
        at_least([(f"EG 4 q=1/{q}", f"EG 8 q=1/{q}") for q in Q[3:]], "average", MNIST),
    ),
    Claim(
        "M5",
        "EG at every q is ahead of no communication (gaps of rank-0)",
        at_least([(f"EG 4 q=1/{q}", "none 4") for q in Q], "rank-0", MNIST),
    ),
    Claim("M6", "the best alpha is 0.25 or 0.5, 4 workers, q=1/32", _best_alpha(4, 32)),
    Claim("M6", "the best alpha is 0.25 or 0.5, 4 workers, q=1/2048", _best_alpha(4, 2048)),
    Claim(
        "M6",
        "alpha 0.05 is behind 0.25 at q=1/2048, 4 and 8 workers (gaps of rank-0)",
        at_least(
            [(f"EG {w} q=1/2048 alpha=0.25", f"EG {w} q=1/2048 alpha=0.05") for w in (4, 8)], "rank-0", MNIST, 0.5
        ),
    ),
    Claim(
        "M6",
        "the average of 8 barely coupled workers (alpha 0.05, q=1/2048) collapses",
        _collapse("EG 8 q=1/2048 alpha=0.05", 10.0),
    ),
    Claim(
        "M7",
        "GS: periodic >= random at the same rate (gaps of the average)",
        at_least([(f"GS 4 tau={q}", f"GS 4 q=1/{q}") for q in Q[:4]], "average", MNIST),
    ),
    Claim(
        "C2, C3",
        "EG >= GS at every q (gaps of the average)",
        at_least([(f"cifar EG 4 q=1/{q}", f"cifar GS 4 q=1/{q}") for q in Q[:4]], "average", GOSSIP),
    ),
    Claim(
        "C3",
        "the gap at q=1/512 is a point or more",
        at_least([("cifar EG 4 q=1/512", "cifar GS 4 q=1/512")], "average", GOSSIP, 1.0),
    ),
    Claim(
        "C1",
        "all-reduce >= EG at every q (gaps of the average)",
        at_least([("cifar all-reduce 4", f"cifar EG 4 q=1/{q}") for q in Q[:4]], "average", GOSSIP),
    ),
    Claim(
        "C4",
        "EAMSGD p=4: tau=64 is no worse than tau=1",
        at_least([("eamsgd p=4 tau=64", "eamsgd p=4 tau=1")], "best error", EASGD),
    ),
    Claim(
        "C4",
        "EAMSGD tau=10: more workers are better (4 to 8, 8 to 16)",
        at_least([(f"eamsgd p={2 * p} tau=10", f"eamsgd p={p} tau=10") for p in (4, 8)], "best error", EASGD),
    ),
    Claim(
        "C4, C5",
        "EAMSGD is better than EASGD at every tau",
        at_least([(f"eamsgd p=4 tau={t}", f"easgd p=4 tau={t}") for t in TAU], "best error", EASGD),
    ),
    Claim("C5", "EASGD hardly depends on tau", within([f"easgd p=4 tau={t}" for t in TAU], "best error", 1.0)),
    Claim(
        "C6",
        "DOWNPOUR gets worse with tau (1 to 4, 4 to 16, 16 to 64)",
        at_least(
            [(f"downpour p=4 tau={a}", f"downpour p=4 tau={b}") for a, b in itertools.pairwise(TAU)],
            "best error",
            EASGD,
        ),
    ),
    Claim(
        "C6",
        "MVADOWNPOUR is no worse than DOWNPOUR at every tau",
        at_least([(f"mvadownpour p=4 tau={t}", f"downpour p=4 tau={t}") for t in TAU], "best error", EASGD),
    ),
    Claim(
        "C7",
        "EAMSGD p=16 reaches 21 % in about a tenth of MSGD's steps (at most 0.2)",
        ratio(("eamsgd p=16 tau=10", "steps to 21"), ("MSGD p=1", "steps to 21"), 0.0, 0.2),
    ),
    Claim(
        "C8",
        "EAMSGD p=16 tau=100 with a constant learning rate is stuck: behind tau=10",
        at_least([("eamsgd p=16 tau=10", "eamsgd p=16 tau=100")], "best error", EASGD, 1.0),
    ),
    Claim(
        "C8",
        "with a decaying learning rate it is not: ahead of the constant one, tau=100",
        at_least([("eamsgd p=16 tau=100 decaying", "eamsgd p=16 tau=100")], "best error", EASGD, 1.0),
    ),
    Claim(
        "C9",
        "EAMSGD p=16: learning rate 0.01 is better than 0.001",
        at_least([("eamsgd p=16 tau=10", "eamsgd p=16 tau=10 lr=0.001")], "best error", EASGD),
    ),
    Claim(
        "C9",
        "EASGD p=16: learning rate 0.01 is better than 0.05",
        at_least([("easgd p=16 tau=10", "easgd p=16 tau=10 lr=0.05")], "best error", EASGD),
    ),
    Claim("L1", "cnn7 p=4: LSGD is within 0.3 of EASGD", within(("cnn7 lsgd 4", "cnn7 easgd 4"), "error", 0.3)),
    Claim(
        "L1",
        "cnn7 p=4: LSGD is better than DOWNPOUR and than one worker",
        at_least([("cnn7 lsgd 4", "cnn7 downpour 4"), ("cnn7 lsgd 4", "cnn7 sgd 1")], "error", LSGD),
    ),
    Claim("L1", "cnn7 p=16: LSGD is better than EASGD", at_least([("cnn7 lsgd 16", "cnn7 easgd 16")], "error", LSGD)),
    Claim(
        "L2",
        "resnet20: LSGD is better than EASGD with 4 and 16 workers",
        at_least([(f"resnet20 lsgd {p}", f"resnet20 easgd {p}") for p in (4, 16)], "error", LSGD),
    ),
    Claim(
        "L2",
        "resnet20 p=16: LSGD needs fewer steps to 15 % than EASGD (paper: 0.43 of the time)",
        ratio(("resnet20 lsgd 16", "steps to 15"), ("resnet20 easgd 16", "steps to 15"), 0.0, 1.0),
    ),
    Claim(
        "L3",
        "resnet20 p=4: every worker leads at least 15 % of the time",
        number("resnet20 lsgd 4", "least led", 15.0, 25.0),
    ),
    Claim("L4", "LSGD p=4 delivers p - 1 = 3 vectors per exchange", _bytes_per_round("resnet20 lsgd 4", 3.0)),
    Claim(
        "L4",
        "EASGD p=4: the workers send p = 4 vectors per exchange (the centre as many)",
        _bytes_per_round("resnet20 easgd 4", 4.0),
    ),
    Claim("A1", "AdaHessian is no worse than SGD", at_least([("adahessian", "its sgd")], "average", ADAHESSIAN)),
)
