"""A peer and data for training loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from p2p_elastic.tasks import Split

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9")


class Notes:
    """A peer that writes down what training tells it."""

    move_waits = False

    def __init__(self, on_step: Callable[[], None] = lambda: None) -> None:
        self.steps = self.evaluations = 0
        self.losses: list[float] = []
        self._on_step = on_step

    def after_step(self) -> bool:
        self.steps += 1
        self._on_step()
        return False

    def report_loss(self, loss: float) -> None:
        self.losses.append(loss)

    def during_evaluation(self) -> None:
        self.evaluations += 1


def split_of(examples: int) -> Split:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 2, (examples,), generator=generator)
    return Split(torch.randn(examples, 4, generator=generator) + labels[:, None], labels)


def never() -> bool:
    return False


def nothing() -> None:
    pass
