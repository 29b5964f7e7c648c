"""The parts of a task: a model, its data and the recipe that trains it, as frozen values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """How one peer trains a task unless told otherwise: SGD, its schedule and its length.

    Attributes:
        batch_size: examples per step.
        learning_rate: at the beginning.
        momentum: of SGD.
        epochs: passes over the peer's part of the data.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: added to the gradient, times the parameters.
        milestones: epochs at which the learning rate is multiplied by `decay`.
        decay: the factor at each milestone.
    """

    batch_size: int
    learning_rate: float
    momentum: float
    epochs: int
    nesterov: bool = True
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    decay: float = 1.0


@dataclass(frozen=True)
class Split:
    """Examples in memory as they were stored.

    Attributes:
        inputs: [N, ...], uint8 or float32.
        labels: [N], int64; at least one.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert len(self.inputs) == len(self.labels) > 0

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """The three disjoint parts of a data set.

    Attributes:
        train: to train on; peers may have shards of it.
        validation: to watch training with.
        test: to evaluate with at the end.
    """

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class Task:
    """Something that can be trained by name: a classifier of images.

    Attributes:
        name: by which runs name it.
        summary: one line for people.
        recipe: how it is trained.
        model: builds a fresh model, with weights from torch's global generator (see `initial_model`).
        load: the data from a folder, or from the default one (`folders.default_data_dir`) if it is None;
            raises ConfigError if there is no usable data and none can be downloaded.
        prepare: a stored batch [B, ...] to the model's input [B, ...] (float32, normalised), on the batch's device.
            With a generator (on the CPU) it is augmented for training; with None it is the plain evaluation form.
    """

    name: str
    summary: str
    recipe: Recipe
    model: Callable[[], nn.Module]
    load: Callable[[Path | None], Data]
    prepare: Callable[[Tensor, torch.Generator | None], Tensor]

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy.

        Args:
            outputs: logits [B, classes].
            labels: [B].

        Returns:
            A scalar, in nats.
        """
        return functional.cross_entropy(outputs, labels)


def initial_model(task: Task, seed: int) -> nn.Module:
    """Build a fresh model whose parameters depend on the seed alone: peers with the same seed start bit-identical.

    Args:
        task: has the model.
        seed: any; torch's global generator is left as it was.

    Returns:
        The model, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too, for good
        return task.model()
