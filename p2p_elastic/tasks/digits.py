"""Handwritten digits that come with this package: 1797 images of 8x8, no download, trained in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from p2p_elastic.tasks.base import Data, Recipe, Task, on_inputs
from p2p_elastic.tasks.sampling import hold_out

FILE = Path(__file__).with_name("digits.csv.gz")  # its origin and license: digits.LICENSE
TEST_SIZE, VALIDATION_SIZE = 360, 180  # of 1797; 1257 are left to train on


def model() -> nn.Module:
    """Build an MLP 64-256-256-10 with ReLU and torch's default weights.

    Returns:
        From images [B, 8, 8] to logits [B, 10].
    """
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def load(data_dir: Path | None) -> Data:  # noqa: ARG001 - the images are beside this file
    """Load the images, split in the same way everywhere.

    Args:
        data_dir: not used: the images are beside this file.

    Returns:
        The splits, images as uint8 [N, 8, 8] with values 0..16.
    """
    rows = torch.from_numpy(np.loadtxt(FILE, delimiter=",", dtype=np.uint8))
    inputs, labels = rows[:, :-1].view(-1, 8, 8).contiguous(), rows[:, -1].long()
    test, rest = hold_out(inputs, labels, TEST_SIZE)
    validation, train = hold_out(rest.inputs, rest.labels, VALIDATION_SIZE)
    return Data(train=train, validation=validation, test=test)


def prepare(inputs: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG001 - no augmentation
    """Scale to -1..1; there is no augmentation.

    Args:
        inputs: uint8 [B, 8, 8] with values 0..16.
        generator: not used.

    Returns:
        float32 [B, 8, 8].
    """
    return inputs.float().div(8).sub(1)


DIGITS = Task(
    name="digits",
    summary="8x8 digits that are included, MLP 64-256-256-10, no download",
    recipe=Recipe(batch_size=32, learning_rate=0.03, momentum=0.9, epochs=60),
    model=model,
    data=load,
    prepare=on_inputs(prepare),
)
