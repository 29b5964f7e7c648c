"""Training on one peer, with a peer that only takes notes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
import torch
from helpers.trainings import Notes, never, nothing, split_of
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.rules.trial import Trial
from p2p_elastic.tasks import Data, Evaluation, Recipe, Shard, Task, cross_entropy, find_task, initial_model
from p2p_elastic.training.adahessian import DEFAULT_LEARNING_RATE
from p2p_elastic.training.attach import attach
from p2p_elastic.training.meter import LOSS_STEPS, RATE_SECONDS, Meter
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.trainer import Trainer
from p2p_elastic.training.trials import Trials


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that goes on by so many seconds each time it is read."""
    numbers = count()
    return lambda: next(numbers) * seconds


SMALL = Data(train=split_of(32), validation=split_of(16), test=split_of(24))  # two batches of 16 per epoch


def task_of(**recipe: Any) -> Task:
    return Task(
        name="small",
        summary="two clouds of points",
        recipe=Recipe(**{"batch_size": 16, "learning_rate": 0.1, "momentum": 0.0, "epochs": 2, **recipe}),
        model=lambda: nn.Linear(4, 2),
        data=lambda _: SMALL,
    )


def settings_of(**changes: Any) -> Settings:
    values = {"steps": None, "epochs": 2, "batch_size": 16, "learning_rate": 0.1, "momentum": 0.0, "seed": 1}
    return Settings(**{**values, **changes})


def trainer_of(
    *, task: Task | None = None, clock: Callable[[], float] = lambda: 0.0, **settings: Any
) -> tuple[Trainer, nn.Module]:
    task = task or task_of()
    model = initial_model(task, 0)
    return Trainer(model, task, SMALL, settings_of(**settings), torch.device("cpu"), clock), model


# ---------------------------------------------------------------- attach


def test_an_attached_peer_hears_of_each_step_until_the_end() -> None:
    model, peer = nn.Linear(2, 1), Notes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with attach(peer, optimizer):
        optimizer.step()
        optimizer.step()
    optimizer.step()
    assert peer.steps == 2


def test_a_peer_hears_of_a_step_after_the_parameters_have_changed() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, seen = model.weight.detach().clone(), []
    model(torch.ones(1, 2)).sum().backward()
    with attach(Notes(lambda: seen.append(model.weight.detach().clone())), optimizer):
        optimizer.step()
    torch.testing.assert_close(seen[0], before - 0.1)


def test_an_error_in_the_loop_detaches_the_peer_and_passes() -> None:
    model, peer = nn.Linear(2, 1), Notes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), attach(peer, optimizer):
        raise ZeroDivisionError
    optimizer.step()
    assert peer.steps == 0


def test_where_a_model_was_replaced_what_its_optimizer_gathered_is_dropped() -> None:
    model, told = nn.Linear(2, 1), Counter[str]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    with attach(Notes(), optimizer, lambda: told.update(["replaced"])):
        optimizer.step()
    assert (len(optimizer.state), told) == (2, {})
    with attach(Healer(lambda: True), optimizer, lambda: told.update(["replaced"])):
        optimizer.step()
    assert (len(optimizer.state), told) == (0, {"replaced": 1})


class Healer(Notes):
    """A peer that replaces the model where that is asked for."""

    def __init__(self, replace: Callable[[], bool]) -> None:
        super().__init__()
        self._replace = replace

    def after_step(self) -> bool:
        self.steps += 1
        return self._replace()


@pytest.mark.parametrize("optimizer", ["sgd", "adahessian"])
def test_a_broken_model_that_is_replaced_learns_on_and_its_losses_are_forgotten(optimizer: Any) -> None:
    trainer, model = trainer_of(steps=30, epochs=1, optimizer=optimizer, momentum=0.9)
    healthy = [parameter.detach().clone() for parameter in model.parameters()]

    def heal() -> bool:
        if peer.steps == 10:
            fill(torch.nan)
        if peer.steps != 12:
            return False
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), healthy, strict=True):
                parameter.copy_(value)
        return True

    def fill(value: float) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)

    peer = Healer(heal)
    trainer.train(peer, never, nothing)
    assert [step for step, loss in enumerate(peer.losses, 1) if math.isnan(loss)] == [12]
    assert trainer.meter.step == 30
    assert peer.losses[-1] < peer.losses[12]


# ---------------------------------------------------------------- trials


def test_a_trial_is_on_the_latest_batch_and_leaves_the_model_alone() -> None:
    trainer, model = trainer_of(steps=2)
    examine, vector = trainer.examiner(), ParameterVector(model)
    good = vector.snapshot(vector.empty())
    unseen = examine(-good, good)
    trainer.train(Notes(), never, nothing)
    learnt = vector.snapshot(vector.empty())
    trial = examine(-learnt, learnt)
    assert trial is not None
    assert unseen is not None  # before the first batch, on the validation split
    assert trial.theirs > trial.mine
    assert examine(learnt, learnt) == Trial(trial.mine, trial.mine, 0.0)
    assert torch.equal(vector.snapshot(vector.empty()), learnt)
    broken = examine(torch.full_like(learnt, torch.nan), learnt)
    assert broken is not None
    assert math.isnan(broken.theirs)


def test_trials_at_the_same_time_do_not_mix() -> None:
    trainer, model = trainer_of(steps=2)
    trainer.train(Notes(), never, nothing)
    examine, vector = trainer.examiner(), ParameterVector(model)
    generator = torch.Generator().manual_seed(1)
    vectors = [torch.randn(vector.elements, generator=generator) for _ in range(8)]
    alone = [examine(one, vectors[0]) for one in vectors]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            assert list(pool.map(lambda one: examine(one, vectors[0]), vectors)) == alone


class OnApple(Tensor):
    """As if on an Apple GPU, which has no float64."""

    def double(self) -> Tensor:  # type: ignore[override]
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor)


class ModelOnApple(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).as_subclass(OnApple)


def test_what_parameters_are_worth_is_found_on_devices_without_float64() -> None:
    model = ModelOnApple(4, 10)
    trials = Trials(model, ParameterVector(model), cross_entropy)
    trials.remember((torch.ones(8, 4), torch.arange(8)))
    assert trials.loss_at(dict(model.named_parameters())).mean > 0.0
    losses = torch.tensor([1.0, 3.0]).as_subclass(OnApple)
    assert Trial.of(losses, losses - 1.0) == Trial(2.0, 1.0, 0.0)


# ---------------------------------------------------------------- training


def test_digits_are_learned_and_the_peer_hears_of_each_step() -> None:
    task, peer, screen = find_task("digits"), Notes(), Notes()
    settings = settings_of(steps=100, batch_size=32, learning_rate=0.03, momentum=0.9)
    model = initial_model(task, 0)
    trainer = Trainer(model, task, task.load(None), settings, torch.device("cpu"), lambda: 0.0)
    trainer.train(peer, never, screen.after_step)
    assert (trainer.meter.step, peer.steps, screen.steps, len(peer.losses)) == (100, 100, 100, 100)
    assert trainer.meter.loss is not None
    assert trainer.meter.loss < 0.8 < peer.losses[0]
    result = trainer.test(never, 60.0)
    assert result is not None
    assert result.accuracy > 0.8
    status = trainer.meter.status()
    assert (status.steps_total, status.test_accuracy) == (100, result.accuracy)


def test_without_a_number_of_steps_the_length_is_that_of_the_epochs() -> None:
    trainer, _ = trainer_of(epochs=3)
    trainer.train(Notes(), never, nothing)
    status = trainer.meter.status()
    assert (status.step, status.steps_total, status.epoch) == (6, 6, 3.0)


def test_an_epoch_of_a_shard_is_as_long_as_the_shard() -> None:
    trainer, _ = trainer_of(epochs=3, shard=Shard(1, 2))
    trainer.train(Notes(), never, nothing)
    assert (trainer.meter.step, trainer.meter.epoch) == (3, 3.0)


def test_the_user_can_stop_it_between_two_steps() -> None:
    peer = Notes()
    trainer, _ = trainer_of(steps=1000)
    trainer.train(peer, lambda: peer.steps == 5, nothing)
    assert (trainer.meter.step, peer.steps) == (5, 5)


def test_who_stops_before_the_first_step_has_trained_nothing() -> None:
    peer = Notes()
    trainer, model = trainer_of(steps=1000)
    before = [parameter.clone() for parameter in model.parameters()]
    trainer.train(peer, lambda: True, nothing)
    assert (peer.steps, trainer.meter.loss) == (0, None)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_same_settings_give_the_same_parameters_and_another_seed_others() -> None:
    def trained(seed: int) -> Tensor:
        trainer, model = trainer_of(seed=seed)
        trainer.train(Notes(), never, nothing)
        return next(model.parameters()).detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_what_a_peer_adds_after_a_step_is_trained_on() -> None:
    trainer, model = trainer_of(steps=3, learning_rate=1e-9)

    def move() -> None:
        with torch.no_grad():
            next(model.parameters()).add_(1.0)

    before = next(model.parameters()).detach().clone()
    trainer.train(Notes(move), never, nothing)
    torch.testing.assert_close(next(model.parameters()).detach(), before + 3.0)


def test_the_learning_rate_falls_at_the_milestones() -> None:
    trainer, _ = trainer_of(task=task_of(milestones=(1, 3), decay=0.1), epochs=4)
    rates: list[float] = []
    trainer.train(Notes(), never, lambda: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001])


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.0, False)])
def test_momentum_and_weight_decay_are_those_asked_for(momentum: float, nesterov: bool) -> None:
    trainer, _ = trainer_of(task=task_of(weight_decay=0.25), momentum=momentum, learning_rate=0.5)
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, momentum, 0.25)
    assert group["nesterov"] == nesterov


def test_adahessian_learns_digits_and_the_peer_hears_of_each_step() -> None:
    task, peer = find_task("digits"), Notes()
    settings = settings_of(steps=100, batch_size=32, learning_rate=DEFAULT_LEARNING_RATE, optimizer="adahessian")
    trainer = Trainer(initial_model(task, 0), task, task.load(None), settings, torch.device("cpu"), lambda: 0.0)
    trainer.train(peer, never, nothing)
    assert (trainer.meter.step, peer.steps) == (100, 100)
    result = trainer.test(never, 60.0)
    assert result is not None
    assert result.accuracy > 0.8


def test_adahessian_has_the_rate_schedule_and_decay_asked_for_and_follows_its_seed() -> None:
    def trained(seed: int) -> Tensor:
        task = task_of(weight_decay=0.25, milestones=(1,), decay=0.1)
        trainer, model = trainer_of(task=task, optimizer="adahessian", momentum=0.9, learning_rate=0.05, seed=seed)
        (group,) = trainer.optimizer.param_groups
        assert (group["lr"], group["weight_decay"], group["betas"]) == (0.05, 0.25, (0.9, 0.999))
        trainer.train(Notes(), never, nothing)
        assert group["lr"] == pytest.approx(0.005)
        return next(model.parameters()).detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


@pytest.mark.parametrize("optimizer", ["sgd", "adahessian"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_weight_decay_asked_for_wins_over_the_recipe(optimizer: str, weight_decay: float) -> None:
    trainer, _ = trainer_of(task=task_of(weight_decay=0.25), optimizer=optimizer, weight_decay=weight_decay)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == weight_decay


# ---------------------------------------------------------------- evaluation


def test_while_training_the_validation_split_is_evaluated_now_and_then_and_partners_are_served() -> None:
    peer = Notes()
    trainer, model = trainer_of(clock=ticking(1.0))
    trainer.train(peer, never, nothing)
    assert isinstance(trainer.meter.validation, Evaluation)
    assert peer.evaluations > 0
    assert trainer.meter.status().validation_accuracy == trainer.meter.validation.accuracy
    assert model.training


def test_where_time_stands_still_it_is_evaluated_once_at_the_end() -> None:
    peer = Notes()
    trainer, _ = trainer_of()
    trainer.train(peer, never, nothing)
    assert trainer.meter.validation is not None
    assert peer.evaluations == 1


def test_a_test_that_is_stopped_and_has_no_time_left_has_no_result() -> None:
    trainer, _ = trainer_of(clock=ticking(0.001))
    assert trainer.test(lambda: True, 0.0) is None
    assert trainer.meter.status().test_accuracy is None


def test_a_stop_during_the_test_still_gives_it_its_grace() -> None:
    trainer, _ = trainer_of(clock=ticking(0.001))
    assert trainer.test(lambda: True, 60.0) is not None


def test_a_stop_during_the_validation_ends_it_and_keeps_the_last_result() -> None:
    trainer, _ = trainer_of(clock=ticking(1.0))
    peer, asked = Notes(), iter([False, True])
    trainer.train(peer, lambda: next(asked, True), nothing)
    assert (peer.steps, trainer.meter.validation) == (1, None)


def test_a_test_with_all_the_time_is_on_the_whole_split() -> None:
    trainer, model = trainer_of(clock=ticking(1000.0))
    result = trainer.test(never, 0.0)
    assert result is not None
    right = (model(SMALL.test.inputs).argmax(1) == SMALL.test.labels).sum()
    assert result.accuracy == int(right) / len(SMALL.test)


# ---------------------------------------------------------------- progress


def test_a_meter_that_has_not_begun_knows_its_length_only() -> None:
    status = Meter(50, Time()).status()
    assert (status.step, status.steps_total) == (0, 50)
    assert status.loss is status.steps_per_second is status.seconds_since_step is None


def test_the_speed_is_that_of_the_training_and_not_of_the_wait_before_it() -> None:
    time = Time()
    meter = Meter(1000, time)
    time.now += 3600.0
    meter.begin()
    for _ in range(30):
        time.now += 1.0
        meter.stepped(1.0)
    status = meter.status()
    assert status.step == 30
    assert status.steps_per_second == pytest.approx(1.0)


def test_the_speed_is_that_of_the_last_seconds() -> None:
    time = Time()
    meter = Meter(10_000, time)
    meter.begin()
    for pause in (1.0, 0.01):
        for _ in range(int(3 * RATE_SECONDS / pause)):
            time.now += pause
            meter.stepped(1.0)
    assert meter.status().steps_per_second == pytest.approx(100.0, rel=0.05)


def test_a_peer_that_hangs_says_since_when() -> None:
    time = Time()
    meter = Meter(100, time)
    meter.begin()
    time.now += 1.0
    meter.stepped(1.0)
    time.now += 75.0
    assert meter.status().seconds_since_step == pytest.approx(75.0)


def test_the_seconds_since_a_step_count_from_the_last_one() -> None:
    time = Time()
    meter = Meter(100, time)
    meter.begin()
    for _ in range(4):
        time.now += 0.3
        meter.stepped(1.0)
    assert meter.status().seconds_since_step == pytest.approx(0.0)


def test_the_loss_is_the_mean_over_the_last_steps() -> None:
    meter = Meter(1000, Time())
    for loss in [100.0, *[2.0] * (LOSS_STEPS // 2), *[4.0] * (LOSS_STEPS // 2)]:
        meter.stepped(loss)
    assert meter.loss == pytest.approx(3.0)


def test_a_loss_that_is_no_number_shows() -> None:
    meter = Meter(10, Time())
    meter.stepped(1.0)
    meter.stepped(math.nan)
    loss = meter.status().loss
    assert loss is not None
    assert math.isnan(loss)
