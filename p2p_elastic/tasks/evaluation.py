"""Evaluation of a model on a split, and BatchNorm statistics that fit parameters which came from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from p2p_elastic.tasks.base import Split, Task

FEW = 8  # examples whose mean loss is one observation of a standard error,
GROUPS_MIN = 4  # or fewer examples, so that there are this many observations


@dataclass(frozen=True)
class Evaluation:
    """A model's result on one split.

    Attributes:
        accuracy: the share of right answers, 0 to 1.
        loss: the mean per example, in nats.
    """

    accuracy: float
    loss: float


def evaluate(
    model: nn.Module,
    task: Task,
    split: Split,
    device: torch.device | str,
    *,
    batch_size: int = 1000,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Measure accuracy and loss of a model, in eval mode and without gradients; the model is left as it was found.

    Args:
        model: on `device`.
        task: prepares examples and has the loss.
        split: all of it is used.
        device: on which batches are computed.
        batch_size: examples at once.
        stop: asked before every batch.

    Returns:
        The result; None if `stop` said yes: a part of a split is no result.
    """
    right, loss = 0, 0.0
    with torch.no_grad(), _modes_kept(model):
        model.eval()
        for inputs, labels in _in_order(split, batch_size, device):
            if stop():
                return None
            outputs = model(task.prepare(inputs, None))
            right += int((outputs.argmax(dim=1) == labels).sum())
            loss += float(task.loss(outputs, labels)) * len(labels)
    return Evaluation(accuracy=right / len(split), loss=loss / len(split))


class Estimate(NamedTuple):
    """A mean and its standard error.

    Attributes:
        mean: of the observations.
        error: its standard error, in the same unit.
    """

    mean: float
    error: float


def loss_at(
    model: nn.Module, task: Task, values: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> Estimate:
    """Measure the loss of other parameters and buffers in this model, in eval mode; the model is left as it was found.

    Args:
        model: on the batches' device.
        task: has the loss.
        values: the model's tensors by name.
        batches: prepared inputs and labels.

    Returns:
        The loss in nats; not a number if there are fewer than two observations.
    """
    with _modes_kept(model):
        model.eval()
        losses = [losses_at(model, task, values, batch) for batch in batches]
    each = torch.cat(losses).cpu().double() if losses else torch.empty(0)  # Apple's GPUs have no float64
    if len(each) < 2:
        return Estimate(float("nan"), float("nan"))
    return Estimate(float(each.mean()), float(each.std()) / len(each) ** 0.5)


def losses_at(model: nn.Module, task: Task, values: Mapping[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """Measure the losses of other parameters on each few examples of a batch; the model is left as it was found.

    Args:
        model: in eval mode.
        task: has the loss.
        values: the model's tensors by name.
        batch: prepared inputs and labels.

    Returns:
        Mean losses [n] in nats, each over FEW examples or fewer.
    """
    with torch.no_grad():
        outputs = torch.func.functional_call(model, dict(values), (batch[0],))
        few = max(1, min(FEW, len(batch[1]) // GROUPS_MIN))
        groups = zip(torch.split(outputs, few), torch.split(batch[1], few), strict=True)
        return torch.stack([task.loss(*group) for group in groups])


def reestimate_batchnorm(
    model: nn.Module, task: Task, split: Split, device: torch.device | str, *, batch_size: int = 1000
) -> None:
    """Compute BatchNorm's running statistics anew, in one pass over a split; without BatchNorm nothing happens.

    An average of models has the average of their statistics, which are not the statistics of the average: hence this
    pass (Izmailov et al. 2018, arXiv:1803.05407, section 3.2). Only the BatchNorm layers are in train mode, so that
    dropout neither disturbs the statistics nor draws from the global generator.

    Args:
        model: its statistics are changed.
        task: prepares examples.
        split: usually the training data.
        device: on which the model is.
        batch_size: examples at once; a shorter last batch is left out.
    """
    layers = batchnorm_layers(model)
    if not layers:
        return
    with torch.no_grad(), _modes_kept(model), _cumulative(layers):
        model.eval()
        for layer in layers:
            layer.train()
        for inputs, labels in _in_order(split, batch_size, device):
            if len(labels) == min(batch_size, len(split)):  # all batches count the same, so a short last one must not
                model(task.prepare(inputs, None))


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """List the BatchNorm layers with running statistics.

    Args:
        model: is searched.

    Returns:
        The layers, in the model's order.
    """
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


def _in_order(split: Split, batch_size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split), batch_size):
        chosen = slice(start, start + batch_size)
        yield split.inputs[chosen].to(device), split.labels[chosen].to(device)


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Put train or eval mode back, layer by layer: a layer may be frozen in a model that trains."""
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
