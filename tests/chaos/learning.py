"""The little problem that the peers learn: two Gaussian clouds, told apart by a linear model. Its accuracy is known in
closed form, so that nobody has to test on examples."""

from __future__ import annotations

import math
import random
from collections import deque

import torch
from torch import Tensor, nn

FEATURES = 8
BATCH = 8
LEARNING_RATE = 0.5
SIGNAL = 0.6  # distance of each cloud from the middle, per feature, in standard deviations: 95.5 % is the best possible
SCALES = torch.logspace(0.0, -1.0, FEATURES)  # the last features are small, and so are learnt slowly
INK = 64  # batches drawn at once
LOSSES = 20  # that are averaged


def new_model() -> nn.Module:
    """The same start for every peer, as the seed of a run's manifest gives it."""
    model = nn.Linear(FEATURES, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    return model


def accuracy(model: nn.Module) -> float:
    """The share of all there could be that this model tells apart, 0..1."""
    scaled = next(model.parameters()).detach()[0].double() * SCALES.double()
    norm = float(scaled.norm())
    margin = SIGNAL * float(scaled.sum()) / norm if norm > 0.0 else 0.0
    return 0.5 * (1.0 + math.erf(margin / math.sqrt(2.0)))


class Learner:
    """Logistic regression by SGD on examples of its own."""

    def __init__(self, model: nn.Module, seed: str) -> None:
        self._weight = next(model.parameters()).detach()[0]
        self._generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(60))
        self._batches: list[Tensor] = []
        self._losses: deque[float] = deque(maxlen=LOSSES)

    def step(self) -> float:
        """One optimizer step. The mean loss of the last steps, in nats."""
        if not self._batches:
            drawn = torch.randn(INK, BATCH, FEATURES, generator=self._generator)
            # Each example times its label, -1 or 1; and times -1, which spares a step two operations.
            self._batches = list(((drawn + SIGNAL) * SCALES).neg_().unbind())
        batch = self._batches.pop()
        short = batch @ self._weight  # the margins times -1
        self._weight.add_(torch.sigmoid(short) @ batch, alpha=-LEARNING_RATE / BATCH)
        self._losses.append(float(nn.functional.softplus(short).mean()))
        return sum(self._losses) / len(self._losses)

    def forget(self) -> None:
        """The model was replaced by another."""
        self._losses.clear()
