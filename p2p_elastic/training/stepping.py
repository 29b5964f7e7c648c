"""One optimizer step as a recipe says it: gradients of one or several batches, precision, clipping, learning rate."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.adamw import build_adamw
from p2p_elastic.tasks.base import Recipe, Task
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import mean_of
from p2p_elastic.training.adahessian import AdaHessian, set_gradients
from p2p_elastic.training.muon import Muon
from p2p_elastic.training.optimizers import SGD
from p2p_elastic.training.schedule_free import build_schedule_free
from p2p_elastic.training.settings import Settings

BUILDERS = {"adamw": build_adamw, "schedule-free": build_schedule_free}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepping:
    """An optimizer, its schedule, and how gradients are computed.

    Args:
        model: on its device.
        task: has the loss, the recipe, and perhaps an optimizer and a schedule.
        settings: how this peer trains.
        steps: at which training ends.
        epoch_of: the passes over the data after a number of steps.

    Attributes:
        optimizer: of the model.

    Raises:
        ConfigError: if AdaHessian is to do what it cannot, or the optimizer is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: Settings,
        steps: int,
        epoch_of: Callable[[int], float],
    ) -> None:
        self._model, self._task, self._epoch_of, self._steps = model, task, epoch_of, steps
        self._recipe, self._device = task.recipe, next(model.parameters()).device.type
        self._autocast = AUTOCAST.get(self._recipe.precision)
        self._scaler = torch.amp.GradScaler(self._device) if self._recipe.precision == "fp16" else None
        self.optimizer = _optimizer(model, task, settings)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._factor = math.nan
        free = settings.optimizer == "schedule-free"  # it has a warm-up, and else no schedule
        self._milestones = () if free else None
        self._scheduler = None if task.scheduler is None or free else task.scheduler(self.optimizer, steps)
        if isinstance(self.optimizer, AdaHessian):
            for key, plain in (("accumulate", 1), ("precision", "fp32")):
                if (got := getattr(self._recipe, key)) != plain:
                    raise ConfigError(key, got, f"{plain} with AdaHessian, which differentiates twice")
        if self._scheduler is None:
            self._set_rate(0)

    def gradient(self, draw: Callable[[], Batch]) -> float:
        """Compute the gradients of the next step.

        Args:
            draw: gives a prepared batch; called as often as the recipe accumulates.

        Returns:
            The mean loss, in nats.
        """
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(self._recipe.accumulate):
            total += float(self._backward(draw()))
        if self._recipe.clip is not None:
            if self._scaler is not None:
                self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.clip)
        return total / self._recipe.accumulate

    def _backward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch; its gradient is added to that of the parameters."""
        if self._recipe.accumulate == 1 and self._autocast is None:
            return set_gradients(self.optimizer, lambda: mean_of(self._task.loss, self._model, batch))
        with self._autocasting():
            loss = mean_of(self._task.loss, self._model, batch)
        share = loss / self._recipe.accumulate
        (share if self._scaler is None else self._scaler.scale(share)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _autocasting(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._device, self._autocast) if self._autocast else contextlib.nullcontext()

    def step(self, done: int) -> None:
        """Make the step, and set the learning rate of the next one. With fp16 a step is left out if it overflowed.

        Args:
            done: steps of the run, with this one.
        """
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        if self._scheduler is None:
            self._set_rate(done)
        else:
            self._schedule_to(self._scheduler, done)

    def _set_rate(self, done: int) -> None:
        factor = self._recipe.rate_at(done, self._epoch_of(done), self._milestones)
        if factor == self._factor:
            return
        self._factor = factor
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def begin_at(self, step: int) -> None:
        """Take the learning rate of a run that others began: a newcomer does not repeat its warm-up.

        Args:
            step: of the run.
        """
        if self._scheduler is None:
            self._set_rate(step)
            return
        with warnings.catch_warnings():  # that no optimizer stepped before
            warnings.simplefilter("ignore", UserWarning)
            self._schedule_to(self._scheduler, step)

    def _schedule_to(self, scheduler: torch.optim.lr_scheduler.LRScheduler, done: int) -> None:
        """Bring a schedule to a number of steps; not beyond the last one, at which some end with an error."""
        while scheduler.last_epoch < min(done, self._steps - 1):
            scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Copy what is needed to go on, beside the optimizer.

        Returns:
            The states of the schedule and of the scaler; None if there is none.
        """
        return {
            "schedule": None if self._scheduler is None else self._scheduler.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken.

        Args:
            state: as it was taken.
        """
        self._factor = math.nan  # the optimizer's rate may be another one now
        if self._scheduler is not None and state["schedule"] is not None:
            self._scheduler.load_state_dict(state["schedule"])
        if self._scaler is not None and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])


def decay_of(recipe: Recipe, settings: Settings) -> float:
    """The weight decay that was asked for, or else the recipe's.

    Args:
        recipe: of the task.
        settings: of this peer.

    Returns:
        The weight decay.
    """
    return recipe.weight_decay if settings.weight_decay is None else settings.weight_decay


def _optimizer(model: nn.Module, task: Task, settings: Settings) -> torch.optim.Optimizer:
    decay = decay_of(task.recipe, settings)
    if settings.optimizer == "adahessian":
        named = model.named_parameters()
        return AdaHessian(named, lr=settings.learning_rate, weight_decay=decay, seed=settings.seed)
    if settings.optimizer == "muon":
        return Muon(model, lr=settings.learning_rate, weight_decay=decay)
    build = BUILDERS.get(settings.optimizer, task.optimizer)
    if build is not None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return build(trained, replace(settings, weight_decay=decay))
    nesterov = task.recipe.nesterov and settings.momentum > 0
    return SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=nesterov,
        weight_decay=decay,
        foreach=True,  # the same numbers; on a CPU, too, one model less while it steps
    )
