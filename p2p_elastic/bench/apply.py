"""What an exchange costs the training thread: the snapshot and the elastic add, against a copy of the same size."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from p2p_elastic.bench.figures import Spread, machine, ratio
from p2p_elastic.bench.live import model_of
from p2p_elastic.parameters.vector import ParameterVector

WARM_UP = 2


@dataclass(frozen=True)
class ApplyOptions:
    """What is measured.

    Attributes:
        megabytes: sizes of the model in float32, in millions of bytes.
        tensors: of a second model of each size: as many as a deep network has.
        rounds: how often each is measured.
        threads: CPU threads of PyTorch.
    """

    megabytes: tuple[float, ...] = (4.0, 100.0, 400.0)
    tensors: int = 300
    rounds: int = 15
    threads: int = 1


def run(options: ApplyOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure snapshot, move and copy for each size, on the CPU and on a GPU if there is one.

    Args:
        options: what is measured.
        say: told what is measured next.

    Returns:
        Figures for JSON and for the table: a row for each model.
    """
    torch.set_num_threads(options.threads)
    rows = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for megabytes in options.megabytes:
            for model in (model_of(megabytes, 1.0), _many(megabytes, options.tensors)):
                count = sum(1 for _ in model.parameters())
                say(f"{megabytes:g} MB in {count} tensors on {device}")
                rows += [_row(model.to(device), megabytes, count, options.rounds, flat=flat) for flat in (False, True)]
    return {"bench": "apply", "machine": machine(), "threads": options.threads, "rows": rows}


def _many(megabytes: float, tensors: int) -> nn.Module:
    """Build a model of as many bytes in many tensors of unequal sizes, as weights and biases alternate."""
    size = max(2, round(megabytes * 1e6 / 4 / tensors))
    sizes = [2 * size - 2 * size // 64 if i % 2 == 0 else 2 * size // 64 for i in range(tensors)]
    return nn.ParameterList([nn.Parameter(torch.ones(max(1, n))) for n in sizes])


def _row(model: nn.Module, megabytes: float, tensors: int, rounds: int, *, flat: bool) -> dict[str, Any]:
    vector = ParameterVector(model)
    if flat:
        vector.flatten()
    out, move = vector.empty(), torch.zeros(vector.elements)
    here, there = torch.empty(vector.elements), torch.ones(vector.elements, device=vector.device)
    works = {
        "copy": lambda: here.copy_(there),
        "snapshot": lambda: vector.snapshot(out),
        "add": lambda: vector.add_(move),
    }
    found = dict[str, list[float]]((name, []) for name in works)
    for turn in range(WARM_UP + rounds):
        for name, work in works.items():
            seconds = _timed(work, vector.device)
            if turn >= WARM_UP:
                found[name].append(seconds)
    nbytes = vector.nbytes
    return {
        "megabytes": megabytes,
        "tensors": tensors,
        "device": vector.device.type,
        "flat": flat,
        "gigabytes_per_second": {name: Spread.of([nbytes / s / 1e9 for s in took]) for name, took in found.items()},
        "snapshot_to_copy": ratio(found["snapshot"], found["copy"]),
        "add_to_copy": ratio(found["add"], found["copy"]),
    }


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
