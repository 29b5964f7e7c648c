"""The batches of all workers of a simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator.config import SimulationConfig
from p2p_elastic.tasks import Batches, Split, Task, worker_parts
from p2p_elastic.tasks.base import is_iterable
from p2p_elastic.tasks.batch import Batch, to
from p2p_elastic.tasks.sampling import length, parts_of

Flip = Callable[[Tensor, int], Tensor]
"""Changes labels [n, B] of some of n workers, given the number of classes."""


class Feed:
    """The batches of all workers. Each has its own order and its own random numbers for augmentation.

    Args:
        config: of the simulation.
        task: puts examples together and prepares them.
        train: examples in positions (see `resident`).
        device: on which workers train.

    Attributes:
        batches_per_epoch: batches in a pass of a worker over its part.

    Raises:
        ConfigError: if the data has no labels, and the configuration needs them.
    """

    def __init__(self, config: SimulationConfig, task: Task, train: Dataset[Any], device: torch.device) -> None:
        self._task, self._train, self._device = task, train, device
        kind, seed, workers = config.split, config.seed, config.workers
        self._flips = config.failures.flipped > 0
        labels = self._labels(needed=kind == "dirichlet" or self._flips)
        self._classes = int(labels.max()) + 1 if self._flips else 0
        size = min((config.batch_size or task.recipe.batch_size) * task.recipe.accumulate, len(labels))
        parts = worker_parts(labels, workers, kind, overlap=config.overlap, dirichlet=config.dirichlet, seed=seed)
        # Positions rather than examples: what all workers drew is then looked up at once, on the device.
        positions = Split(torch.arange(len(labels)), labels)
        self._batches = [
            Batches(positions, size, workers * seed + worker, _at_least(size, part))
            for worker, part in enumerate(parts)
        ]
        self._generators = [torch.Generator().manual_seed(workers * seed + worker) for worker in range(workers)]
        # Uneven parts have epochs of different lengths: then it is that of an even one.
        self.batches_per_epoch = (
            max(1, len(labels) // workers // size) if kind == "dirichlet" else self._batches[0].batches_per_epoch
        )

    def _labels(self, *, needed: bool) -> Tensor:
        """The classes of all examples [N]; zeros if nobody needs them."""
        if not needed:
            return torch.zeros(length(self._train), dtype=torch.int64)
        labels = self._train.labels.cpu() if isinstance(self._train, Split) else torch.empty(0, 0)
        if labels.dim() != 1 or labels.is_floating_point():
            raise ConfigError(
                "split/flipped", self._task.name, "a task whose data are a Split with a class per example"
            )
        return labels

    def drawn(self, worker: int) -> int:
        """Count the batches that a worker has had.

        Args:
            worker: its row.

        Returns:
            Batches.
        """
        return self._batches[worker].drawn

    def draw(self, workers: int, flip: Flip) -> list[Batch]:
        """Draw the next batch of each of the first workers.

        Args:
            workers: how many.
            flip: changes labels, if the configuration says so.

        Returns:
            Their batches, as the loss wants them.
        """
        chosen = [next(batches)[0] for batches in self._batches[:workers]]
        stored = self._stored(chosen, flip)
        return [self._task.prepare(batch, g) for batch, g in zip(stored, self._generators, strict=False)]

    def _stored(self, chosen: list[Tensor], flip: Flip) -> list[Batch]:
        if not isinstance(self._train, Split):
            return [to(parts_of(self._train, at, self._task.collate), self._device) for at in chosen]
        inputs, labels = self._train.__getitems__(torch.stack(chosen).to(self._device))
        return list(zip(inputs, flip(labels, self._classes) if self._flips else labels, strict=True))


def resident(device: torch.device, split: Dataset[Any]) -> Dataset[Any]:
    """Give a dataset positions, and move it to a device if it is in memory.

    Args:
        device: on which workers train.
        split: of either kind.

    Returns:
        A map-style dataset.
    """
    if isinstance(split, Split):
        return Split(split.inputs.to(device), split.labels.to(device))
    if not is_iterable(split):
        return split
    length(split)  # one without an end cannot be divided among workers
    examples: Any = list(split)  # type: ignore[call-overload]
    return examples  # type: ignore[no-any-return]


def _at_least(size: int, part: Tensor) -> Tensor:
    """A part of fewer examples than one batch is repeated: all workers' batches have the same size."""
    return part.repeat(-(-size // len(part))) if len(part) < size else part
