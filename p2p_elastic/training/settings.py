"""How one peer trains: what it was asked for, over what the run and the recipe say."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from p2p_elastic.tasks import adamw
from p2p_elastic.tasks.sampling import Shard
from p2p_elastic.training import adahessian, muon, schedule_free

OptimizerName = Literal["sgd", "adamw", "adahessian", "muon", "schedule-free"]
"""What a peer trains with; "sgd" is what the task brings, if it brings an optimizer."""

OWN_LEARNING_RATES = MappingProxyType(
    {
        "adamw": adamw.DEFAULT_LEARNING_RATE,
        "adahessian": adahessian.DEFAULT_LEARNING_RATE,
        "muon": muon.DEFAULT_LEARNING_RATE,
        "schedule-free": schedule_free.DEFAULT_LEARNING_RATE,
    }
)
"""Defaults of the optimizers for which a run's learning rate is not meant."""


@dataclass(frozen=True)
class Settings:
    """How this peer trains.

    Attributes:
        steps: optimizer steps; None: `epochs` say how long.
        epochs: passes over its part of the data, if `steps` is None.
        batch_size: examples per step.
        learning_rate: before the recipe's decay.
        momentum: of SGD. the others average gradients with decays of their own.
        seed: of the order of examples, the augmentation and AdaHessian's vectors.
        shard: its part of the data; None: all.
        optimizer: "sgd" is what the task brings, if it brings an optimizer.
        seconds: for which to train, in all lives; then `steps` or `epochs` only say how the schedule is stretched.
        weight_decay: None is the recipe's; SGD adds it to the gradient, the others shrink by it times the rate.
    """

    steps: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    seed: int
    shard: Shard | None = None
    optimizer: OptimizerName = "sgd"
    weight_decay: float | None = None
    seconds: float | None = None
