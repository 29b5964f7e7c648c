"""Evaluation of a model on a split, and BatchNorm statistics that fit parameters which came from elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from p2p_elastic.tasks.base import Task
from p2p_elastic.tasks.batch import Batch, to
from p2p_elastic.tasks.measures import measured, shown
from p2p_elastic.tasks.sampling import in_order, length

STREAM_EXAMPLES = 10_000  # of a dataset without a length, that BatchNorm's statistics are of


@dataclass(frozen=True)
class Evaluation:
    """A model's result on one split.

    Attributes:
        loss: the mean per example, in nats.
        metrics: of the task, by name.
    """

    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """The metric of that name, 0 to 1; None if the task has none."""
        return self.metrics.get("accuracy")


def evaluate(
    model: nn.Module,
    task: Task,
    split: Dataset[Any],
    device: torch.device | str,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Measure loss and metrics of a model, in eval mode and without gradients; the model is left as it was found.

    Args:
        model: on `device`.
        task: prepares examples, and has the loss and the metrics.
        split: of either kind.
        device: on which batches are computed.
        batch_size: examples at once; None: as the recipe says.
        limit: examples at most; None: all of it is used.
        stop: asked before every batch.

    Returns:
        The result; None if `stop` said yes: a part of a split is no result.
    """
    examples, loss = 0, 0.0
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    size = task.recipe.evaluation_batch if batch_size is None else batch_size
    with torch.no_grad(), modes_kept(model):
        model.eval()
        for stored in in_order(split, size, task.collate, limit):
            if stop():
                return None
            losses, metrics = measured(task.loss, task.metrics, model, task.prepare(to(stored, device), None))
            examples += len(losses)
            loss += float(losses.sum())
            for name, (total, count) in metrics.items():
                sums[name][0] += float(total)
                sums[name][1] += float(count)
    found = {name: shown(name, total, count) for name, (total, count) in sums.items()}
    return Evaluation(loss=loss / max(1, examples), metrics=found)


def reestimate_batchnorm(
    model: nn.Module, task: Task, split: Dataset[Any], device: torch.device | str, *, batch_size: int | None = None
) -> None:
    """Compute BatchNorm's running statistics anew, in one pass over a split; without BatchNorm nothing happens.

    An average of models has the average of their statistics, which are not the statistics of the average: hence this
    pass (Izmailov et al. 2018, arXiv:1803.05407, section 3.2). Only the BatchNorm layers are in train mode, so that
    dropout neither disturbs the statistics nor draws from the global generator.

    Args:
        model: its statistics are changed.
        task: prepares examples and runs the model, to compute a loss.
        split: usually the training data; of a dataset without a length, some.
        device: on which the model is.
        batch_size: examples at once; a shorter last batch is left out. None: as the recipe says.
    """
    layers = batchnorm_layers(model)
    if not layers:
        return
    examples = length(split, STREAM_EXAMPLES)
    size = min(task.recipe.evaluation_batch if batch_size is None else batch_size, examples)
    whole = examples // size * size  # all batches count the same, so a short last one must not
    with torch.no_grad(), modes_kept(model), _cumulative(layers):
        model.eval()
        for layer in layers:
            layer.train()
        for stored in in_order(split, size, task.collate, whole):
            batch: Batch = task.prepare(to(stored, device), None)
            task.loss(model, batch)


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """List the BatchNorm layers with running statistics.

    Args:
        model: is searched.

    Returns:
        The layers, in the model's order.
    """
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put train or eval mode back, layer by layer: a layer may be frozen in a model that trains.

    Args:
        model: whose modes may change meanwhile.

    Yields:
        Nothing.
    """
    modes = [(layer, layer.training) for layer in model.modules()]
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


@contextmanager
def _cumulative(layers: list[_BatchNorm]) -> Iterator[None]:
    """Start the layers' running statistics anew, as plain averages over batches (momentum None), for a while."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
