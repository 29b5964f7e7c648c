"""How a recipe is followed: accumulation, clipping, precision, warm-up, optimizers and schedules of a task's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.trainings import Notes, never, nothing, split_of
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import Data, Recipe, Task, initial_model
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.trainer import Trainer

SMALL = Data(train=split_of(64), validation=split_of(16), test=split_of(24))


def trainer_of(data: Data = SMALL, *, steps: int | None = 8, **changes: Any) -> Trainer:
    recipe = {key: changes.pop(key) for key in list(changes) if key in Recipe.__dataclass_fields__}
    plain = Recipe(**{"batch_size": 16, "learning_rate": 0.1, **recipe})
    task = Task("small", lambda: nn.Linear(4, 2), lambda _: data, plain, **changes)
    settings = Settings(steps, 2, plain.batch_size, plain.learning_rate, 0.0, seed=1)
    return Trainer(initial_model(task, 0), task, data, settings, torch.device("cpu"), lambda: 0.0)


def trained(trainer: Trainer) -> Tensor:
    trainer.train(Notes(), never, nothing)
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def rates(trainer: Trainer) -> list[float]:
    seen = [trainer.optimizer.param_groups[0]["lr"]]
    trainer.train(Notes(), never, lambda: seen.append(trainer.optimizer.param_groups[0]["lr"]))
    return seen[:-1]  # the last one is that of a step that is not made


def test_accumulated_batches_are_one_step_of_a_larger_batch() -> None:
    many, whole = trainer_of(batch_size=8, accumulate=8, steps=3), trainer_of(batch_size=64, steps=3)
    torch.testing.assert_close(trained(many), trained(whole))
    assert (many.meter.step, many.meter.epoch) == (3, 3.0)
    assert many.meter.loss == pytest.approx(whole.meter.loss)


def test_an_epoch_has_fewer_steps_if_batches_are_accumulated() -> None:
    trainer = trainer_of(batch_size=8, accumulate=4, steps=None)
    trained(trainer)
    assert (trainer.meter.step, trainer.meter.epoch) == (4, 2.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_gradient_is_longer_than_the_recipe_allows(precision: str) -> None:
    trainer = trainer_of(clip=1e-3, learning_rate=1.0, steps=1, precision=precision)
    before = torch.cat([p.detach().clone().flatten() for p in trainer.model.parameters()])
    assert float((trained(trainer) - before).norm()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_of_the_forward_pass_learns_nearly_the_same(precision: str) -> None:
    seen: list[torch.dtype] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        outputs = model(batch[0])
        seen.append(outputs.dtype)
        return nn.functional.cross_entropy(outputs.float(), batch[1], reduction="none")

    low, full = trainer_of(precision=precision, loss=loss), trainer_of()
    torch.testing.assert_close(trained(low), trained(full), rtol=0.05, atol=0.02)
    assert seen[0] == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert all(p.dtype == torch.float32 for p in low.model.parameters())


def test_the_learning_rate_rises_to_its_highest_and_then_falls_at_milestones() -> None:
    found = rates(trainer_of(warmup=4, milestones=(2,), decay=0.5, steps=10))  # four steps are an epoch
    assert found == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_a_task_brings_its_optimizer_and_schedule_which_end_with_the_training() -> None:
    lengths: list[int] = []

    def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        lengths.append(steps)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)

    def adamw(parameters: Any, settings: Settings) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay or 0.0)

    trainer = trainer_of(optimizer=adamw, scheduler=one_cycle, weight_decay=0.25)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.25
    found = rates(trainer)
    assert lengths == [8]
    assert 0.19 < max(found) <= 0.2  # its highest is between two steps
    assert found[-1] < 0.001


def test_whoever_comes_late_begins_where_the_schedule_of_the_run_is() -> None:
    late = trainer_of(warmup=6, steps=4)
    late.begin_at(3)
    assert rates(late) == pytest.approx([0.1 * part for part in (4 / 6, 5 / 6, 1, 1)])


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"precision": "bf16"}])
def test_adahessian_refuses_what_it_cannot(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="with AdaHessian, which differentiates twice"):
        settings = Settings(2, 1, 16, 0.1, 0.0, seed=1, optimizer="adahessian")
        task = Task("small", lambda: nn.Linear(4, 2), lambda _: SMALL, Recipe(16, 0.1, **changes))
        Trainer(initial_model(task, 0), task, SMALL, settings, torch.device("cpu"), lambda: 0.0)


# ---------------------------------------------------------------- data


class Flow(IterableDataset[tuple[Tensor, Tensor]]):
    """Without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([SMALL.train[at] for at in range(64)])


def test_a_stream_trains_for_a_number_of_steps_and_needs_one() -> None:
    data = Data(Flow(), Flow(), Flow())
    trainer = trainer_of(data, steps=10)
    trained(trainer)
    assert (trainer.meter.step, trainer.meter.epoch) == (10, 2.5)
    assert trainer.meter.validation is not None
    assert trainer.examiner() is not None
    with pytest.raises(ConfigError, match="the data has no length"):
        trainer_of(data, steps=None)


def test_without_a_validation_and_a_test_split_nothing_is_measured_but_the_loss() -> None:
    trainer = trainer_of(Data(SMALL.train))
    trained(trainer)
    assert (trainer.meter.validation, trainer.test(never, 1.0)) == (None, None)
    vector = trainer.vector.snapshot(trainer.vector.empty())
    assert trainer.test_values(vector, never) is None
    trial = trainer.examiner()(vector, vector)
    assert trial is not None
    assert trial.theirs == trial.mine
    assert trainer.meter.status().metrics == {"accuracy": None}
