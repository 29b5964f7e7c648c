"""A task is tried on a few examples before anybody trains it: what is wrong with it is said at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from p2p_elastic.common.metrics import check_metric_names
from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.base import Data, Task, initial_model
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.loading import failing_code
from p2p_elastic.tasks.measures import shown
from p2p_elastic.tasks.sampling import in_order

EXAMPLES = 2
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def load_data(task: Task, data_dir: Path | None) -> Data:
    """Load the data of a task, and try the task on some of it.

    Args:
        task: to try.
        data_dir: folder with the data sets; None: the default one.

    Returns:
        The splits.

    Raises:
        ConfigError: if there is no usable data, or the task cannot be trained as it is.
    """
    with failing_code(task.name):
        data = task.load(data_dir)
    check_task(task, data)
    return data


def check_task(task: Task, data: Data) -> None:
    """Try loss and metrics of a fresh model on a batch. Leaves torch's random numbers as they were.

    Args:
        task: to try.
        data: of the task.

    Raises:
        ConfigError: if its code fails, then with the line; or if shapes, values or names are not as they have to be.
    """
    if not NAME.fullmatch(task.name):
        raise ConfigError("task", task.name, "a name of small letters, digits and -, at most 32 of them")
    with failing_code(task.name), torch.random.fork_rng(devices=[]):
        model = initial_model(task, 0)
        stored = next(itertools.chain(in_order(data.train, EXAMPLES, task.collate, EXAMPLES), [None]))
        if stored is None:
            raise ConfigError("data", task.name, "at least one example to train on")
        batch = task.prepare(stored, None)
        model.eval()
        _check_loss(task, model, batch)
        with torch.no_grad():
            _check_metrics(task, task.metrics(model, batch))


def _check_loss(task: Task, model: nn.Module, batch: Batch) -> None:
    losses = task.loss(model, batch)
    if not isinstance(losses, Tensor) or losses.dim() != 1 or len(losses) == 0:
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ConfigError(
            "loss", got, f"of task {task.name}: a tensor [B] of the losses of the examples (reduction='none')"
        )
    if not losses.is_floating_point() or not bool(torch.isfinite(losses).all()):
        raise ConfigError("loss", losses.tolist(), f"of a fresh model of task {task.name}: finite floating numbers")
    if not losses.requires_grad:
        allowed = f"one with a gradient: that of task {task.name} does not depend on parameters that train"
        raise ConfigError("loss", "a constant", allowed)


def _check_metrics(task: Task, metrics: Mapping[str, object]) -> None:
    check_metric_names(metrics)
    for name, value in metrics.items():
        if not isinstance(value, tuple) or len(value) != 2:
            raise ConfigError("metrics", value, f"{name} of task {task.name}: (sum, count)")
        shown(name, float(value[0]), float(value[1]))
