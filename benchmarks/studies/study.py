"""What studies of many simulations have in common: each result is a file in a store, and is computed only once.

A study that is stopped goes on where it was. Runs are independent, use one thread each, and several go at once.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from p2p_elastic.tasks import Data, find_task

Run = Any
"""One simulation of a study: a named tuple of what it is called by, group first, with the `file` of its result."""


def file_of(run: tuple[Any, ...], options: Mapping[str, Any]) -> str:
    """The name of a run's result: other options, other name."""
    text = json.dumps([*run, options], sort_keys=True)
    return f"{run[0]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


_data: Data | None = None


def data() -> Data:
    """The examples, in a process that computes runs."""
    assert _data is not None
    return _data


def _load(task: str, data_dir: Path) -> None:
    global _data  # one copy per process
    torch.set_num_threads(1)
    _data = find_task(task).load(data_dir)


def study(
    runs: Iterable[Run],
    simulate: Callable[[Run], tuple[Run, dict[str, Any]]],
    *,
    task: str,
    data_dir: Path,
    store: Path,
    processes: int,
) -> None:
    """Compute what is not in the store yet. `simulate`, a function of a module, gets its examples from `data`."""
    store.mkdir(parents=True, exist_ok=True)
    todo = [run for run in runs if not (store / run.file).exists()]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_load, initargs=(task, data_dir)) as pool:
        for done, (run, found) in enumerate(pool.imap_unordered(simulate, todo), 1):
            temporary = store / f"{run.file}.new"
            temporary.write_text(json.dumps(found, indent=1))
            temporary.rename(store / run.file)
            print(f"{done}/{len(todo)} {' '.join(map(str, run))}: {100 * found['accuracy']:.2f} %", file=sys.stderr)
