"""What a codec costs in training: accuracy, loss and consensus, with and without error feedback and fragments.

    python benchmarks/studies/codecs.py --data-dir DIR --store FOLDER [--processes 2] [--only GROUP ...] [--seeds N]
    python benchmarks/studies/codecs.py --store FOLDER --render          # the tables of docs/results/codecs.md
    python benchmarks/studies/codecs.py --dead-zone                      # who still agrees where nobody learns

Each run is written down when it ends; what is in the store is not computed again, so a stopped study goes on where it
was. Runs are independent and use one thread each. Arms: a codec; "+feedback" adds what rounding took from a row's last
message to its next one; "+dither" rounds at random, up as often as needed to be right in the mean.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from study import data, file_of, study
from torch import Tensor

from p2p_elastic.protocol.blocks import BLOCK, INT8_MAX
from p2p_elastic.protocol.codecs import CODECS, Codec
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.simulator import run as running
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.rounds import Pairs
from p2p_elastic.simulator.sending import Wire

WHOLE, EIGHTHS, OFTEN = (1, 8), (8, 8), (8, 1)  # fragments, period; OFTEN sends as many bytes as WHOLE
ARMS = ("none", "int8", "int8+feedback", "float16", "bfloat16", "int8+dither", "int4")
PAIR = ("none", "int8")
DEAD_ZONE_ARMS = (
    *("none", "bfloat16", "bfloat16+feedback", "int8", "int8+feedback", "int8+dither"),
    *("int4", "int4+feedback"),
)
HEAD = "| rule | parts, tau | codec | MB sent | accuracy | against none | workers | loss | distance | seeds |"


class Feedback(Wire):
    """Adds to what a row sends what rounding took from its last message of the same part."""

    def __init__(self, codec: Codec, fragments: int, *, seed: int) -> None:
        super().__init__(codec, fragments, seed=seed)
        self._residuals: dict[int, Tensor] = {}

    def sent(self, row: int, vector: Tensor, part: slice) -> Tensor:
        residual = self._residuals.setdefault(row, torch.zeros_like(vector))[part]
        wanted = vector[part] + residual
        arrived = self.round_trip(wanted)
        torch.sub(wanted, arrived, out=residual)
        return arrived


class Dither(Wire):
    """Adds noise of one quantum, uniform around 0, before int8 rounds to the nearest."""

    def __init__(self, codec: Codec, fragments: int, *, seed: int) -> None:
        super().__init__(codec, fragments, seed=seed)
        self._generator = torch.Generator().manual_seed(seed)

    def sent(self, row: int, vector: Tensor, part: slice) -> Tensor:
        values = vector[part]
        noise = torch.rand(values.shape, generator=self._generator).sub_(0.5)
        for block, of_block in zip(torch.split(values, BLOCK), torch.split(noise, BLOCK), strict=True):
            of_block.mul_(block.abs().amax() / INT8_MAX)
        return self.round_trip(noise.add_(values))


def wire(arm: str, fragments: int, seed: int) -> Wire:
    """What an arm sends through."""
    codec, _, kind = arm.partition("+")
    return {"": Wire, "feedback": Feedback, "dither": Dither}[kind](CODECS[codec], fragments, seed=seed)


class Group(NamedTuple):
    """Runs that are one table."""

    title: str
    options: Mapping[str, Any]
    rules: Mapping[str, Mapping[str, Any]]
    cells: Mapping[tuple[int, int], tuple[str, ...]]
    seeds: int


SMALL = {"task": "mnist-small", "workers": 4, "steps": 1200, "evaluate_steps": 200}
GROUPS = {
    "decayed": Group(
        "mnist-small, learning rate 0.1 falling to 0.013",
        {**SMALL, "learning_rate": 0.1, "lr_decay": 0.05},
        {"elastic-gossip": {}, "easgd": {}},
        {WHOLE: ARMS, EIGHTHS: (*PAIR, "int8+feedback"), OFTEN: PAIR},
        seeds=3,
    ),
    "mnist": Group(
        "mnist (2.9 M parameters, dropout), 600 steps",
        {"task": "mnist", "workers": 4, "steps": 600, "evaluate_steps": 300},
        {"elastic-gossip": {}, "easgd": {"learning_rate": 0.05}},  # easgd has no momentum
        {EIGHTHS: (*PAIR, "float16", "int8+feedback", "int8+dither"), WHOLE: (*PAIR, "int8+feedback")},
        seeds=8,
    ),
    "longer": Group(
        "mnist, 2,000 steps",
        {"task": "mnist", "workers": 4, "steps": 2000, "evaluate_steps": 500},
        {"elastic-gossip": {}},
        {EIGHTHS: PAIR},
        seeds=2,
    ),
    "constant": Group(
        "mnist-small, learning rate 0.05",
        SMALL,
        {"elastic-gossip": {}, "easgd": {}},
        {WHOLE: (*PAIR, "int8+feedback")},
        seeds=3,
    ),
}


class Run(NamedTuple):
    """One simulation and where it belongs."""

    group: str
    rule: str
    fragments: int
    period: int
    arm: str
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """As `SimulationConfig` has them."""
        group = GROUPS[self.group]
        return {
            "rule": self.rule,
            "fragment": self.fragments,
            "period": self.period,
            "codec": self.arm.partition("+")[0],
            "seed": self.seed,
            **group.options,
            **group.rules[self.rule],
        }

    @property
    def file(self) -> str:
        """The name of its result."""
        return file_of(self, self.options)


def runs(groups: list[str], seeds: int) -> Iterator[Run]:
    """All runs, seed by seed: a study that is stopped has something of everything."""
    for seed, name in itertools.product(range(1, seeds + 1), groups):
        if seed > GROUPS[name].seeds:
            continue
        for ((fragments, period), arms), rule in itertools.product(GROUPS[name].cells.items(), GROUPS[name].rules):
            for arm in arms:
                yield Run(name, rule, fragments, period, arm, seed)


def _simulate(run: Run) -> tuple[Run, dict[str, Any]]:
    options = dict(run.options)
    options["lr"] = options.pop("learning_rate", None)
    config = build({key: value for key, value in options.items() if value is not None})
    simulation = running._Simulation(config, data(), torch.device("cpu"), "auto", running.build_round)
    simulation._round._wire = wire(run.arm, run.fragments, run.seed)  # type: ignore[attr-defined]  # not an option of ours
    torch.manual_seed(run.seed)  # for dropout
    result = simulation.run(time.monotonic, lambda *_: None, lambda: False)
    last = result.points[-1]
    return run, {
        "accuracy": last.accuracy,
        "workers": statistics.mean(last.accuracies),
        "loss": last.training_loss,
        "test": [point.accuracy for point in result.points],
        "distance": last.consensus_distance,
        "bytes": last.bytes_per_worker,
        "seconds": result.seconds,
        "options": run.options,
        "arm": run.arm,
    }


def render(store: Path, seeds: int) -> str:
    """The tables as Markdown."""
    parts = []
    for name, group in GROUPS.items():
        rows = []
        for rule, (place, arms) in itertools.product(group.rules, group.cells.items()):
            plain = _found(store, name, rule, place, "none", seeds)
            for arm in arms:
                found = _found(store, name, rule, place, arm, seeds)
                common = sorted(found.keys() & plain.keys())
                if common:
                    rows.append(_row(rule, place, arm, [found[s] for s in common], [plain[s] for s in common]))
        if rows:
            parts.append("\n".join([f"### {group.title}\n", HEAD, "|---" * 10 + "|", *rows]))
    return "\n\n".join(parts) + "\n"


def _found(store: Path, group: str, rule: str, place: tuple[int, int], arm: str, seeds: int) -> dict[int, Any]:
    files = {seed: store / Run(group, rule, *place, arm, seed).file for seed in range(1, seeds + 1)}
    return {seed: json.loads(file.read_text()) for seed, file in files.items() if file.exists()}


def _row(rule: str, place: tuple[int, int], arm: str, found: list[Any], plain: list[Any]) -> str:
    def mean(key: str, factor: float = 1.0) -> float:
        return factor * statistics.mean(one[key] for one in found)

    accuracies = [100 * one["accuracy"] for one in found]
    gains = [100 * (one["accuracy"] - other["accuracy"]) for one, other in zip(found, plain, strict=True)]
    spread = statistics.stdev(accuracies) if len(found) > 1 else 0.0
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    against = "" if arm == "none" else f"{statistics.mean(gains):+.3f} ± {error:.3f}"
    where = f"{rule} | {place[0]}, {place[1]} | {arm}"
    return (
        f"| {where} | {mean('bytes', 1e-6):.1f} | {mean('accuracy', 100):.2f} ± {spread:.2f} "
        f"| {against} | {mean('workers', 100):.2f} | {mean('loss'):.4f} | {mean('distance'):.4f} | {len(found)} |"
    )


def dead_zone(elements: int = 50_890, workers: int = 4, rounds: int = 300) -> str:
    """Workers that begin a little apart and only exchange: how far apart they are in the end, in quanta.

    A quantum is that of int8 in the mean over blocks, a distance the root mean square over elements and workers to the
    mean of all workers.
    """
    generator = torch.Generator().manual_seed(1)
    centre = torch.randn(elements, generator=generator)
    quantum = float(torch.stack([b.abs().amax() for b in torch.split(centre, BLOCK)]).mean() / INT8_MAX)
    rows = ["| apart at first (quanta) | codec | after 10 | after 100 | after 300 |", "|---|---|---|---|---|"]
    for apart, arm in itertools.product((10.0, 1.0, 0.1), DEAD_ZONE_ARMS):
        noise = torch.randn(workers, elements, generator=torch.Generator().manual_seed(2))
        flat = centre + apart * quantum * noise
        round_ = Pairs(elastic(0.5), flat, seed=3, wire=wire(arm, 1, 4))
        distances = []
        for step in range(1, rounds + 1):
            for row, move in round_.moves(flat, [step % workers], range(workers), step).items():
                flat[row] += move
            if step in (10, 100, 300):
                distances.append(f"{float((flat - flat.mean(0)).square().mean().sqrt()) / quantum:.4f}")
        rows.append(f"| {apart:g} | {arm} | {' | '.join(distances)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where MNIST is")
    parser.add_argument("--store", type=Path, default=Path("codecs-store"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=8, help="at most so many of each group")
    parser.add_argument("--only", nargs="*", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--match", default="", help="only runs whose fields, joined by spaces, contain this")
    parser.add_argument("--render", action="store_true", help="print the tables of what is in the store")
    parser.add_argument("--dead-zone", action="store_true")
    given = parser.parse_args()
    if given.dead_zone:
        torch.set_num_threads(1)
        print(dead_zone())
    elif given.render:
        print(render(given.store, given.seeds))
    else:
        chosen = [run for run in runs(given.only, given.seeds) if given.match in " ".join(map(str, run))]
        study(chosen, _simulate, task="mnist", data_dir=given.data_dir, store=given.store, processes=given.processes)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
