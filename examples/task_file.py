"""A task in a file: a table of numbers, a dataset of one's own, F1 instead of accuracy, AdamW.

    p2p-elastic join --task examples/task_file.py:TUMOURS --steps 200
    p2p-elastic simulate --task examples/task_file.py:TUMOURS --workers 4

The others give the same file: a run carries the name of its task and the shapes of its model, never code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.utils.data import Dataset

from p2p_elastic.tasks import Data, Recipe, Task

Row = dict[str, Tensor]


class Table(Dataset[Row]):
    """Rows as dicts: a `DataLoader` would put them together to a dict of tensors, and so does the task."""

    def __init__(self, numbers: Tensor, malignant: Tensor) -> None:
        self.numbers, self.malignant = numbers, malignant

    def __len__(self) -> int:
        return len(self.malignant)

    def __getitem__(self, index: int) -> Row:
        return {"numbers": self.numbers[index], "malignant": self.malignant[index]}


def data(folder: Path | None) -> Data:  # noqa: ARG001 - the table is inside scikit-learn
    """569 tumours: the same splits at every peer, since the order is fixed."""
    table = load_breast_cancer()
    numbers, malignant = torch.tensor(table.data).float(), torch.tensor(1 - table.target).float()
    numbers = (numbers - numbers.mean(dim=0)) / numbers.std(dim=0)
    return Data(*(Table(numbers[start::7], malignant[start::7]) for start in (0, 1, 2)))


def loss(model: nn.Module, batch: Row) -> Tensor:
    """One loss for each row."""
    logits = model(batch["numbers"]).squeeze(1)
    return nn.functional.binary_cross_entropy_with_logits(logits, batch["malignant"], reduction="none")


def metrics(model: nn.Module, batch: Row) -> dict[str, tuple[Tensor, Tensor]]:
    """F1 is 2 tp / (2 tp + fp + fn): a sum and a count, which are added over batches before they are divided."""
    found, there = model(batch["numbers"]).squeeze(1) > 0, batch["malignant"] > 0.5
    return {"f1": (2 * (found & there).sum(), found.sum() + there.sum())}


def optimizer(parameters: Iterable[nn.Parameter], settings: object) -> torch.optim.Optimizer:
    """Any of PyTorch's; the settings have what the user asked for."""
    return torch.optim.AdamW(parameters, lr=settings.learning_rate)  # type: ignore[attr-defined]


TUMOURS = Task(
    name="tumours",
    model=lambda: nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1)),
    data=data,
    recipe=Recipe(batch_size=16, learning_rate=1e-2, steps=400, warmup=20, clip=1.0),
    summary="tumours, benign or malignant, a table of 30 numbers",
    loss=loss,
    metrics=metrics,
    optimizer=optimizer,
)
