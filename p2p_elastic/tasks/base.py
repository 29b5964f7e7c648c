"""The parts of a task: a model, its data and the recipe that trains it, as frozen values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, default_collate

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import Loss, Metrics, accuracy, cross_entropy

Precision = Literal["fp32", "bf16", "fp16"]
Collate = Callable[[list[Any]], Batch]


@dataclass(frozen=True)
class Recipe:
    """How one peer trains a task unless told otherwise: its optimizer, its schedule and its length.

    Attributes:
        batch_size: examples per batch.
        learning_rate: at its highest.
        momentum: of SGD.
        epochs: passes over the peer's part of the data.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: of the optimizer.
        milestones: epochs at which the learning rate is multiplied by `decay`.
        decay: the factor at each milestone.
        warmup: steps in which the learning rate rises to its highest.
        steps: optimizer steps in all, instead of epochs; data without a length need it.
        accumulate: batches whose gradients are averaged for one step.
        clip: the largest norm of the gradient; None: any.
        precision: of the forward pass: fp32, or bf16 and fp16 by autocast.
        evaluation_batch: examples at once if nobody waits for them.
    """

    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    epochs: int = 1
    nesterov: bool = True
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    decay: float = 1.0
    _: KW_ONLY
    warmup: int = 0
    steps: int | None = None
    accumulate: int = 1
    clip: float | None = None
    precision: Precision = "fp32"
    evaluation_batch: int = 1000

    def rate_at(self, step: int, epoch: float, milestones: Iterable[float] | None = None) -> float:
        """What the learning rate is multiplied by.

        Args:
            step: the next one, from 0.
            epoch: passes done, also parts of them.
            milestones: instead of the recipe's.

        Returns:
            A factor.

        Example:
            >>> recipe = Recipe(32, 0.1, milestones=(2,), decay=0.5, warmup=4)
            >>> [recipe.rate_at(step, step / 4) for step in (0, 1, 3, 7, 8)]
            [0.25, 0.5, 1.0, 1.0, 0.5]
        """
        rising = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        chosen = self.milestones if milestones is None else milestones
        return float(rising * self.decay ** sum(epoch >= milestone for milestone in chosen))


@dataclass(frozen=True)
class Split(Dataset[tuple[Tensor, Tensor]]):
    """Examples in memory as they were stored: the fastest of datasets, since it gives whole batches at once.

    Attributes:
        inputs: [N, ...], of any type.
        labels: [N, ...], in a classifier int64 [N]; at least one.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert len(self.inputs) == len(self.labels) > 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Read a whole batch: there is nothing left to collate.

        Args:
            indices: positions of its examples, [B].

        Returns:
            Inputs [B, ...] and labels [B, ...].
        """
        chosen = torch.as_tensor(indices)
        return self.inputs[chosen], self.labels[chosen]


@dataclass(frozen=True)
class Data:
    """The disjoint parts of a data set: map-style or iterable, as PyTorch has them.

    Attributes:
        train: to train on; peers may have shards of it.
        validation: to watch training with; None: nothing is watched but the loss.
        test: to evaluate with at the end; None: nothing is tested.
        workers: processes of a `DataLoader` that read ahead to train on; 0: the process that trains reads itself.
    """

    train: Dataset[Any]
    validation: Dataset[Any] | None = None
    test: Dataset[Any] | None = None
    workers: int = 0


class OptimizerSettings(Protocol):
    """What an optimizer is built from: what the run, the user and the recipe say."""

    @property
    def learning_rate(self) -> float:
        """At its highest."""

    @property
    def momentum(self) -> float:
        """For optimizers that have one."""

    @property
    def weight_decay(self) -> float | None:
        """None: the recipe's."""


def unchanged(batch: Batch, generator: torch.Generator | None) -> Batch:  # noqa: ARG001
    """Prepare nothing: the batch is as the model wants it.

    Args:
        batch: on its device.
        generator: not used.

    Returns:
        The batch.
    """
    return batch


@dataclass(frozen=True)
class Task:
    """Something that can be trained by name.

    Attributes:
        name: by which runs name it.
        model: builds a fresh model, with weights from torch's global generator (see `initial_model`).
        data: the data from a folder, or from the default one (`folders.default_data_dir`) if it is None;
            raises ConfigError if there is no usable data and none can be downloaded.
        recipe: how it is trained.
        summary: one line for people.
        loss: of model and prepared batch, the losses [B] of the examples in nats; their mean is trained on.
        metrics: of model and prepared batch, (sum, count) by name; the name is what people read.
        collate: a list of examples to a batch, as for a `DataLoader`.
        prepare: a batch as it was collated to one as the loss wants it, on the batch's device. With a generator (on the
            CPU) it is augmented for training; with None it is the plain evaluation form.
        optimizer: of the parameters and settings; None: SGD as the recipe says.
        scheduler: of the optimizer and the number of steps, stepped after each of them; None: as the recipe says.
        exchange: what of the model travels, as for `ParameterVector`.
        sample: of a model, a text that shows what it learnt, for the demo.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[Path | None], Data]
    recipe: Recipe
    _: KW_ONLY
    summary: str = ""
    loss: Loss = cross_entropy
    metrics: Metrics = accuracy
    collate: Collate = default_collate
    prepare: Callable[[Batch, torch.Generator | None], Batch] = unchanged
    optimizer: Callable[[Iterable[nn.Parameter], OptimizerSettings], torch.optim.Optimizer] | None = None
    scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None = None
    exchange: Exchange = "trainable"
    sample: Callable[[nn.Module], str] | None = None

    def load(self, data_dir: Path | None) -> Data:
        """Load the data.

        Args:
            data_dir: folder with the data sets; None: the default one.

        Returns:
            The splits.

        Raises:
            ConfigError: if there is no usable data, or it is of another kind.
        """
        data = self.data(data_dir)
        if not isinstance(data, Data):
            raise ConfigError("data", type(data).__name__, f"what `data` of task {self.name} returns: a Data(...)")
        return data

    def vector(self, model: nn.Module) -> ParameterVector:
        """Put what travels of a model into one vector.

        Args:
            model: of this task.

        Returns:
            The vector.
        """
        return ParameterVector(model, self.exchange)


def on_inputs(
    function: Callable[[Tensor, torch.Generator | None], Tensor],
) -> Callable[[Batch, torch.Generator | None], Batch]:
    """Make `prepare` of a function of the inputs alone.

    Args:
        function: of inputs [B, ...] and generator.

    Returns:
        A function of a batch (inputs, ...), or of inputs alone.

    Example:
        >>> prepare = on_inputs(lambda inputs, _: inputs / 8)
        >>> prepare((torch.tensor([16.0]), torch.tensor([3])), None)
        (tensor([2.]), tensor([3]))
    """

    def prepare(batch: Batch, generator: torch.Generator | None) -> Batch:
        if isinstance(batch, Tensor):
            return function(batch, generator)
        return function(batch[0], generator), *batch[1:]

    return prepare


def is_iterable(dataset: Dataset[Any]) -> bool:
    """Whether a dataset has no positions: it is read from its beginning.

    Args:
        dataset: of either kind.

    Returns:
        True for an `IterableDataset`, or whatever else has no `__getitem__`.
    """
    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")


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
