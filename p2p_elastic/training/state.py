"""The state of a training loop, to go on exactly from there: numbers as JSON, tensors as safetensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.values import Frozen

Count = Annotated[int, Field(ge=0, lt=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
OPTIMIZER_NUMBERS_MAX, GROUPS_MAX = 100_000, 1000
MODEL = "model"  # the file of the model's tensors in a checkpoint
CPU, DEVICE, AUGMENTATION = "cpu", "device", "augmentation"
"""Names of the random numbers: dropout's on the CPU and on the device, and the augmentation's."""

Tensors = Mapping[str, Mapping[str, Tensor]]


class TrainingMemory(Frozen):
    """The numbers of a training loop."""

    step: Count = Field(description="optimizer steps done")
    drawn: Count = Field(description="batches drawn: the place in the data's order")
    epochs: Count = Field(description="of the learning rate's schedule")
    schedule_steps: Count = Field(description="of PyTorch's schedule, which counts its first call, too")
    rates: Annotated[tuple[Finite, ...], Field(max_length=GROUPS_MAX)] = Field(description="learning rate per group")
    losses: Annotated[tuple[Finite | None, ...], Field(max_length=1000)] = Field(
        description="of the last steps, nats; null for one that was not finite"
    )
    optimizer: Annotated[dict[str, Finite | int | None], Field(max_length=OPTIMIZER_NUMBERS_MAX)] = Field(
        description="what of its state is no tensor, as INDEX.NAME of the parameter's"
    )
    validation: tuple[Finite, Finite | None] | None = Field(default=None, description="last accuracy and loss")


class TrainingState(NamedTuple):
    """All that a training loop needs to go on exactly where it was.

    Attributes:
        memory: the numbers.
        tensors: by file (model, optimizer, random) and name.
    """

    memory: TrainingMemory
    tensors: Tensors


class Machine(NamedTuple):
    """The parts of a training loop that have a state of their own.

    Attributes:
        model: what is trained.
        optimizer: its state is part of the checkpoint.
        schedule: of the learning rate.
        augmentation: the generator that augments examples.
        device: on which the model is; it has random numbers of its own.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    augmentation: torch.Generator
    device: torch.device

    def tensors(self) -> Tensors:
        """Copy all tensors.

        Returns:
            Copies on the CPU, by file and name.
        """
        return {
            MODEL: {name: _copy(tensor) for name, tensor in self.model.state_dict().items()},
            "optimizer": {name: _copy(v) for name, v in _flat(self.optimizer) if isinstance(v, Tensor)},
            "random": self._random(),
        }

    def numbers(self) -> dict[str, Any]:
        """Read how optimizer and schedule stand.

        Returns:
            Those fields of `TrainingMemory`.
        """
        schedule = self.schedule.state_dict()
        return {
            "epochs": schedule["last_epoch"],
            "schedule_steps": schedule["_step_count"],
            "rates": tuple(float(group["lr"]) for group in self.optimizer.param_groups),
            "optimizer": {name: value for name, value in _flat(self.optimizer) if not isinstance(value, Tensor)},
        }

    def restore(self, state: TrainingState) -> None:
        """Go on from a state.

        Args:
            state: as it was taken.

        Raises:
            ConfigError: if it is the state of another model or optimizer.
        """
        memory, tensors = state
        try:
            self.model.load_state_dict(dict(tensors[MODEL]))
            self.optimizer.load_state_dict(self._optimizer_state(memory, tensors["optimizer"]))
            last = {
                "last_epoch": memory.epochs,
                "_step_count": memory.schedule_steps,
                "_last_lr": list(memory.rates),
            }
            self.schedule.load_state_dict({**self.schedule.state_dict(), **last})
            self._restore_random(tensors["random"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ConfigError("resume", f"step {memory.step}", f"the model is another one here: {error}") from error

    def _optimizer_state(self, memory: TrainingMemory, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        found = self.optimizer.state_dict()
        found["state"] = {}
        for group, rate in zip(found["param_groups"], memory.rates, strict=True):
            group["lr"] = rate
        for name, value in {**tensors, **memory.optimizer}.items():
            index, _, key = name.partition(".")
            if key:
                found["state"].setdefault(int(index), {})[key] = value
            else:
                found[name] = value
        return found

    def _random(self) -> dict[str, Tensor]:
        found = {CPU: torch.get_rng_state(), AUGMENTATION: self.augmentation.get_state()}
        if self.device.type == "cuda":
            found[DEVICE] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            found[DEVICE] = torch.mps.get_rng_state()
        return found

    def _restore_random(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states[CPU])
        self.augmentation.set_state(states[AUGMENTATION])
        if DEVICE in states:  # of the device that it was trained on, which may be another one now
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(states[DEVICE], self.device)
            elif self.device.type == "mps":
                torch.mps.set_rng_state(states[DEVICE])


def plain_losses(losses: tuple[float, ...]) -> tuple[float | None, ...]:
    """Losses as JSON has them.

    Args:
        losses: in nats.

    Returns:
        The same, with None for each that is not finite.

    Example:
        >>> plain_losses((0.5, math.nan))
        (0.5, None)
    """
    return tuple(loss if math.isfinite(loss) else None for loss in losses)


def _flat(optimizer: torch.optim.Optimizer) -> list[tuple[str, Any]]:
    """The optimizer's state as INDEX.NAME, and what else it has, such as its own random numbers, as NAME."""
    found = optimizer.state_dict()
    own = [(name, value) for name, value in found.items() if name not in ("state", "param_groups")]
    return own + [
        (f"{index}.{name}", value) for index, state in found["state"].items() for name, value in state.items()
    ]


def _copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU; of tied parameters each has its own."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
