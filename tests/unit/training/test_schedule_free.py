"""Schedule-free AdamW as a peer trains with it, and moves of what any schedule-free optimizer trains."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from helpers.trainings import Notes, never, nothing
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import find_task, initial_model
from p2p_elastic.training.attach import attach
from p2p_elastic.training.schedule_free import build_schedule_free, forget, moving_along, switch
from p2p_elastic.training.settings import OWN_LEARNING_RATES, Settings
from p2p_elastic.training.trainer import Trainer

WHERE = torch.tensor([3.0, -2.0])
MOVE = torch.tensor([0.5, 4.0])
SETTINGS = Settings(150, 1, 32, OWN_LEARNING_RATES["schedule-free"], 0.0, seed=1, optimizer="schedule-free")


def descend(y: Tensor, optimizer: torch.optim.Optimizer, towards: Tensor, steps: int = 5) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        ((y - towards) ** 2).sum().backward()
        optimizer.step()


def begun(kind: Any = SGDScheduleFree) -> tuple[Tensor, torch.optim.Optimizer]:
    y = torch.zeros(2, requires_grad=True)
    optimizer = kind([y], lr=0.1)
    switch(optimizer, "train")
    return y, optimizer


class Mover(Notes):
    """A peer whose moves are `MOVE`, each time one is due."""

    def __init__(self, y: Tensor, *, replaces: bool = False) -> None:
        super().__init__()
        self.move_waits, self._y, self._replaces = False, y, replaces

    def after_step(self) -> bool:
        if self.move_waits:
            self._y.data.add_(MOVE)
            self.move_waits = False
            return self._replaces
        return False


@pytest.mark.parametrize("kind", [SGDScheduleFree, AdamWScheduleFree])
def test_a_move_takes_all_of_a_schedule_free_optimizer_along(kind: Any) -> None:
    found = []
    for moves in (True, False):
        y, optimizer = begun(kind)
        peer = Mover(y)
        with attach(peer, optimizer):
            descend(y, optimizer, WHERE)
            peer.move_waits = moves
            descend(y, optimizer, WHERE, 1)
            descend(y, optimizer, WHERE + MOVE if moves else WHERE)
        trained = y.detach().clone()
        switch(optimizer, "eval")
        found.append((trained, y.detach().clone()))
    for moved, still in zip(*found, strict=True):  # y, and x, in a world that was moved together with y half way
        assert torch.allclose(moved - still, MOVE, atol=1e-5)


def test_otherwise_what_is_evaluated_would_go_elsewhere() -> None:
    y, optimizer = begun()
    descend(y, optimizer, WHERE)
    switch(optimizer, "eval")
    before = y.detach().clone()
    switch(optimizer, "train")
    y.data.add_(MOVE)
    switch(optimizer, "eval")
    assert torch.allclose(y - before, MOVE / 0.9, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_other_optimizers_and_a_z_of_another_shape_stay_as_they_are(kind: Any) -> None:
    y, optimizer = begun(kind)
    descend(y, optimizer, WHERE, 1)
    beside = optimizer.state[y]["z"] = torch.zeros(3)
    with moving_along([optimizer], waits=True):
        y.data.add_(MOVE)
    assert not beside.any()
    switch(optimizer, "eval")


def test_whoever_was_replaced_begins_with_steps_of_the_usual_length() -> None:
    y, optimizer = begun(AdamWScheduleFree)
    descend(y, optimizer, WHERE, 500)
    peer = Mover(y, replaces=True)
    with attach(peer, optimizer):
        peer.move_waits = True
        descend(y, optimizer, WHERE, 1)
    before = y.detach().clone()
    descend(y, optimizer, WHERE - 10.0, 1)
    assert (y.detach() - before).abs().max() < 0.2  # the learning rate is 0.1


def test_a_group_of_other_optimizers_keeps_what_it_has() -> None:
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    optimizer.param_groups[0]["k"] = 3
    forget([optimizer])
    assert optimizer.param_groups[0]["k"] == 3


def digits() -> Trainer:
    task = find_task("digits")
    return Trainer(initial_model(task, 0), task, task.load(None), SETTINGS, torch.device("cpu"), lambda: 0.0)


def test_digits_are_learnt_and_the_model_that_is_left_is_the_one_that_is_evaluated() -> None:
    trainer = digits()
    trainer.train(Notes(), never, nothing)
    result = trainer.test(never, 60.0)
    assert result is not None
    assert result.accuracy > 0.9
    left = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    switch(trainer.optimizer, "train")
    assert any(not torch.equal(x, y) for x, y in zip(left, trainer.model.parameters(), strict=True))
    switch(trainer.optimizer, "eval")
    for x, y in zip(left, trainer.model.parameters(), strict=True):
        assert torch.allclose(x, y, atol=1e-6)


def test_whoever_stopped_goes_on_to_rounding() -> None:
    whole, parted = digits(), digits()
    whole.train(Notes(), never, nothing)
    parted.train(Notes(), lambda: parted.meter.step == 40, nothing)
    parted.train(Notes(), never, nothing)
    for one, other in zip(whole.model.parameters(), parted.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_vectors_do_not_decay_and_the_rate_only_warms_up() -> None:
    groups = build_schedule_free(nn.Linear(3, 2).parameters(), SETTINGS).param_groups
    assert [len(group["params"]) for group in groups] == [1, 1]
    task = find_task("cifar10")
    assert task.recipe.milestones
    data = find_task("digits").load(None)
    trainer = Trainer(nn.Linear(2, 2), task, data, SETTINGS, torch.device("cpu"), lambda: 0.0)
    trainer.begin_at(10**6)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {SETTINGS.learning_rate}


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ConfigError, match=r"optimizer: got 'schedule-free'; .*p2p-elastic\[schedule-free\]"):
        build_schedule_free(nn.Linear(2, 2).parameters(), SETTINGS)
