"""Losses and metrics: functions of a model and a batch; those of the outputs alone need one forward pass for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from p2p_elastic.tasks.batch import Batch

Loss: TypeAlias = Callable[[nn.Module, Batch], Tensor]
"""Of a model and a prepared batch, the losses [B] of its examples, in nats."""
Number: TypeAlias = Tensor | float
Metrics: TypeAlias = Callable[[nn.Module, Batch], Mapping[str, tuple[Number, Number]]]
"""Of a model and a prepared batch, (sum, count) by name: sums and counts of batches are added, then divided."""
T = TypeVar("T")

TRANSFORMS: dict[str, Callable[[float], float]] = {"perplexity": math.exp, "rmse": math.sqrt}
"""What is shown of the mean of some metrics, by the last word of their names: of nats per token its exponential."""


def outputs_of_first(model: nn.Module, batch: Batch) -> Any:
    """Run a model on the first part of a batch, such as the inputs of (inputs, labels).

    Args:
        model: to run.
        batch: a tuple or list.

    Returns:
        Its outputs.
    """
    return model(batch[0])


@dataclass(frozen=True)
class OfOutputs(Generic[T]):
    """A loss or metrics that need the model's outputs only: an evaluation runs the model once for both.

    Attributes:
        measure: of outputs and batch.
        run: of model and batch, the outputs; what has the same `run` shares them.
        mean: of outputs and batch, what the mean of `measure` is; training takes it if it is there, since it is faster.

    Example:
        >>> squares = OfOutputs(lambda outputs, batch: (outputs - batch[1]).square().mean(dim=1))
        >>> import torch
        >>> squares(nn.Identity(), (torch.zeros(2, 3), torch.ones(2, 3)))
        tensor([1., 1.])
    """

    measure: Callable[[Any, Batch], T]
    run: Callable[[nn.Module, Batch], Any] = outputs_of_first
    mean: Callable[[Any, Batch], T] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> T:
        return self.measure(self.run(model, batch), batch)


def _cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(outputs, batch[1], reduction="none")


def _mean_cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(outputs, batch[1])


def _accuracy(outputs: Tensor, batch: Batch) -> dict[str, tuple[Number, Number]]:
    return {"accuracy": ((outputs.argmax(dim=1) == batch[1]).sum(), len(outputs))}


cross_entropy: OfOutputs[Tensor] = OfOutputs(_cross_entropy, mean=_mean_cross_entropy)
"""The loss of a classifier: a batch is (inputs, labels [B]), the model gives logits [B, classes]."""
accuracy: OfOutputs[Mapping[str, tuple[Number, Number]]] = OfOutputs(_accuracy)
"""The metric of a classifier: the share of right answers, 0 to 1."""


def no_metrics(model: nn.Module, batch: Batch) -> dict[str, tuple[Number, Number]]:  # noqa: ARG001
    """Measure nothing but the loss.

    Args:
        model: not used.
        batch: not used.

    Returns:
        Nothing.
    """
    return {}


def mean_of(loss: Loss, model: nn.Module, batch: Batch) -> Tensor:
    """Compute the mean loss of a batch, to be trained on.

    Args:
        loss: of a task.
        model: to train.
        batch: prepared.

    Returns:
        A scalar, in nats.
    """
    if isinstance(loss, OfOutputs) and loss.mean is not None:
        found: Tensor = loss.mean(loss.run(model, batch), batch)
        return found
    return loss(model, batch).mean()


def measured(loss: Loss, metrics: Metrics, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Any]]:
    """Measure a batch, with one forward pass if both need the same outputs only.

    Args:
        loss: of a task.
        metrics: of the task.
        model: to measure.
        batch: prepared.

    Returns:
        The losses [B] and the metrics.
    """
    if isinstance(loss, OfOutputs) and isinstance(metrics, OfOutputs) and loss.run is metrics.run:
        outputs = loss.run(model, batch)
        return loss.measure(outputs, batch), metrics.measure(outputs, batch)
    return loss(model, batch), metrics(model, batch)


def shown(name: str, total: float, count: float) -> float:
    """The value of a metric.

    Args:
        name: of the metric.
        total: of all batches.
        count: of all batches.

    Returns:
        The mean, transformed as `TRANSFORMS` say; not a number if nothing was counted.

    Example:
        >>> shown("perplexity", 0.0, 10.0), shown("f1", 3.0, 4.0)
        (1.0, 0.75)
    """
    mean = total / count if count else math.nan
    try:
        return TRANSFORMS.get(name.rpartition(" ")[2], float)(mean)
    except (OverflowError, ValueError):
        return math.inf if mean > 0 else math.nan
