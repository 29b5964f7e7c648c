"""A length of training in time: when it is over, and where the schedule is meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.trainings import Notes, never, split_of
from torch import nn

from p2p_elastic.tasks import Data, Recipe, Task, initial_model
from p2p_elastic.training.length import Length
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.trainer import Trainer

DATA = Data(train=split_of(64), validation=split_of(16), test=split_of(16))
RECIPE = Recipe(batch_size=16, learning_rate=0.1, momentum=0.0, epochs=10, milestones=(5,), decay=0.1)
TASK = Task(name="timed", model=lambda: nn.Linear(4, 2), data=lambda _: DATA, recipe=RECIPE)


class Clock:
    """Stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_share_counts_from_the_first_step_and_over_all_lives() -> None:
    clock = Clock()
    length = Length(10.0, clock)
    clock.now += 50.0  # loading, waiting for others
    length.begin()
    clock.now += 2.5
    assert length.share == 0.25
    later = Length(10.0, clock)
    later.seconds_before = length.seconds
    later.begin()
    clock.now += 20.0
    assert later.share == 1.0
    assert Length(None, clock).share is None


def trainer_of(clock: Clock, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {"steps": None, "epochs": 10, "batch_size": 16, "learning_rate": 0.1, "momentum": 0.0}
    chosen = Settings(**{**settings, "seed": 3, **changes})
    return Trainer(initial_model(TASK, 0), TASK, DATA, chosen, torch.device("cpu"), clock)


def test_training_ends_with_the_time_and_the_rate_falls_where_the_recipe_s_share_of_it_is_over() -> None:
    clock, rates = Clock(), list[float]()
    trainer = trainer_of(clock, seconds=30.0)

    def stepped() -> None:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        clock.now += 1.0

    trainer.train(Notes(), never, stepped)
    assert trainer.meter.step == 30
    assert trainer.meter.status().steps_total is None
    assert [rate for rate in rates if rate < 0.1] == pytest.approx([0.01] * 15, abs=1e-9)


def test_a_resumed_peer_trains_for_the_rest_of_the_time() -> None:
    clock = Clock()
    first = trainer_of(clock, seconds=30.0)

    def stepped() -> None:
        clock.now += 1.0

    first.train(Notes(), lambda: first.meter.step == 20, stepped)
    second = trainer_of(clock, seconds=30.0)
    second.load_state_dict(first.state_dict())
    second.train(Notes(), never, stepped)
    assert second.meter.step == 10
