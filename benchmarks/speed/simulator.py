"""Stacked workers against as many plain loops, in one process: seconds per step, and how far apart they end.

    python benchmarks/speed/simulator.py [--workers 8] [--threads 1] [--repetitions 5] [--models digits-sgd,...]
                                         [--device cpu] [--json FILE]

A looped worker is one plain module with its own torch optimizer: eight of them are eight training loops taking turns.
Both get the same batches of random numbers, in turns (stacked, looped, stacked, ...), and what is given is the median
over repetitions. No model has dropout, so that the two can be compared: "difference" is the largest one between their
parameters after `DIFFERENCE_STEPS` steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.workers import Optimization, StackedWorkers, Workers, loop_is_faster
from p2p_elastic.tasks import cross_entropy, find_task, initial_model

DIFFERENCE_STEPS = 100
CLASSES = 10
Batches = list[tuple[Tensor, Tensor]]
KINDS: dict[str, type[StackedWorkers] | type[LoopedWorkers]] = {"stacked": StackedWorkers, "looped": LoopedWorkers}
SGD, ADAHESSIAN = Optimization("sgd", momentum=0.9), Optimization("adahessian")


class Case(NamedTuple):
    """A model with its batch and optimizer, and how many steps one repetition is."""

    model: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    batch: int
    settings: Optimization
    learning_rate: float
    steps: int


def without_dropout(task: str) -> nn.Module:
    """The model of a task with every dropout turned off."""
    model = initial_model(find_task(task), 0)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


CASES = {
    "digits-sgd": Case(lambda: without_dropout("digits"), (8, 8), 32, SGD, 0.03, 200),
    "digits-adahessian": Case(lambda: without_dropout("digits"), (8, 8), 32, ADAHESSIAN, 0.005, 100),
    "mnist-sgd": Case(lambda: without_dropout("mnist"), (28, 28), 16, SGD._replace(momentum=0.99), 0.001, 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    found = {
        name: measure(CASES[name], options.workers, options.repetitions, device) for name in options.models.split(",")
    }
    document = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": str(device),
        "threads": options.threads,
        "workers": options.workers,
        "repetitions": options.repetitions,
        "cases": found,
    }
    text = json.dumps(document, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


def measure(case: Case, workers: int, repetitions: int, device: torch.device) -> dict[str, object]:
    """Milliseconds per step of all workers together."""
    both = {name: kind(case.model().to(device), cross_entropy, workers, case.settings) for name, kind in KINDS.items()}
    batches = [_batch(case, workers, seed, device) for seed in range(16)]
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(repetitions + 1):
        for name, trained in both.items():
            seconds[name].append(_time(trained, batches, case))
    medians = {name: 1e3 * statistics.median(values[1:]) / case.steps for name, values in seconds.items()}  # warm
    return {
        **{f"{name}_ms": round(value, 3) for name, value in medians.items()},
        "speedup": round(medians["looped"] / medians["stacked"], 2),
        "chosen": "looped" if loop_is_faster(case.model(), device) else "stacked",
        "difference": difference(case, workers, device),
    }


def difference(case: Case, workers: int, device: torch.device) -> float:
    """The largest one between parameters of stacked and looped workers after the same steps."""
    ends = []
    for kind in KINDS.values():
        trained = kind(case.model().to(device), cross_entropy, workers, case.settings)
        for step in range(DIFFERENCE_STEPS):
            _step(trained, _batch(case, workers, step, device), case)
        ends.append(trained.flat)
    return float((ends[0] - ends[1]).abs().max())


def _time(workers: Workers, batches: Sequence[Batches], case: Case) -> float:
    _synchronize(workers.flat)
    began = time.perf_counter()
    for step in range(case.steps):
        _step(workers, batches[step % len(batches)], case)
    _synchronize(workers.flat)
    return time.perf_counter() - began


def _step(workers: Workers, batch: Batches, case: Case) -> None:
    workers.gradients(batch)
    workers.step(case.learning_rate)


def _batch(case: Case, workers: int, seed: int, device: torch.device) -> Batches:
    """Every class is a random picture, with noise on it: something that can be learnt."""
    pictures = torch.randn(CLASSES, *case.inputs, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1000 + seed)
    labels = torch.randint(CLASSES, (workers, case.batch), generator=generator)
    noise = torch.randn(workers, case.batch, *case.inputs, generator=generator)
    return list(zip((pictures[labels] + noise).to(device), labels.to(device), strict=True))


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
