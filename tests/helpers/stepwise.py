"""Starting points, gradients and schedules for comparing a round with the equations of its paper, step by step."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from p2p_elastic.simulator.assembly import build_round
from p2p_elastic.simulator.config import SimulationConfig
from p2p_elastic.simulator.rounds import Round

Array = NDArray[np.float64]
STEPS, SIZE, STEP_SIZE = 12, 6, 0.1
each_size = pytest.mark.parametrize("workers", [2, 3, 5, 8])


class Recorder(random.Random):
    """Remembers the last order that it made."""

    order: list[int]

    def shuffle(self, x: list[int]) -> None:  # type: ignore[override]
        super().shuffle(x)
        self.order = list(x)


class Setting:
    """Starting points, and per step: gradients, losses, who is due and who can be reached."""

    def __init__(self, workers: int, seed: int = 0, *, same_start: bool = False) -> None:
        self.workers, self.rng = workers, np.random.default_rng([workers, seed])
        self.start = self.rng.normal(size=(1 if same_start else workers, SIZE)).repeat(workers if same_start else 1, 0)
        self.flat = torch.tensor(self.start)
        self.due: list[int] = []
        self.connected: list[int] = []

    def draw(self, *, everybody: bool = False) -> tuple[Array, list[float]]:
        """The next step: gradients and losses."""
        self.due = [i for i in range(self.workers) if everybody or self.rng.random() < 0.7]
        self.connected = [i for i in range(self.workers) if everybody or self.rng.random() < 0.8]
        losses = [float(x) for x in self.rng.random(self.workers)]
        if not everybody and self.rng.random() < 0.3:
            losses[int(self.rng.integers(self.workers))] = float("nan")
        return self.rng.normal(size=(self.workers, SIZE)), losses

    @property
    def meeting(self) -> list[int]:
        return [i for i in self.due if i in self.connected]

    def descend(self, gradients: Array) -> None:
        self.flat -= STEP_SIZE * torch.tensor(gradients)

    def build(self, rule: str, **options: object) -> Round:
        config = SimulationConfig.model_validate({"rule": rule, "workers": self.workers, **options})
        return build_round(config, self.flat)

    def build_recorded(self, rule: str, **options: object) -> tuple[Round, Recorder]:
        """A round, and what remembers the random order of its workers."""
        recorder = Recorder(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(random, "Random", lambda seed: recorder)
            return self.build(rule, **options), recorder

    def agree(self, reference: Array) -> None:
        np.testing.assert_allclose(self.flat.numpy(), reference, rtol=1e-10, atol=1e-12)
