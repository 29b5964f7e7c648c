"""The state of a training loop of any kind, to go on exactly from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn

from p2p_elastic.checkpoint.state_tree import pack, unpack
from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.values import Frozen

Count = Annotated[int, Field(ge=0, lt=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
MODEL, STATE = "model", "state"
"""The files of a checkpoint: the model's tensors, and those of all else that has a state."""
OPTIMIZERS, REMAINDER, RANDOM, EXTRA, OWN = "optimizers", "remainder", "random", "model-extra", "own."
OUTER = "outer"

Tensors = Mapping[str, Mapping[str, Tensor]]


class Stateful(Protocol):
    """What can be saved with a checkpoint: schedulers, scalers, loaders and the like."""

    def state_dict(self) -> Mapping[str, Any]:
        """Give the state, made of what `state_tree.pack` takes.

        Returns:
            The state.
        """

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Go on from a state.

        Args:
            state_dict: as `state_dict` gave it.
        """


class TrainingMemory(Frozen):
    """The numbers of a training loop."""

    step: Count = Field(description="optimizer steps done")
    start_step: Count = Field(default=0, description="the run's step when this peer began")
    seconds: Annotated[Finite, Field(ge=0)] = Field(default=0.0, description="that it trained, in all its lives")
    losses: Annotated[tuple[Finite | None, ...], Field(max_length=1000)] = Field(
        description="of the last steps, nats; null for one that was not finite"
    )
    states: Annotated[dict[str, JsonValue], Field(max_length=100)] = Field(
        description="of optimizers, random numbers and all else, without their tensors"
    )


class LoopState:
    """The parts of a training loop that have a state of their own. Belongs to the training thread.

    Tensors that are frozen from the beginning are not saved: who goes on has to build them as they were.

    Args:
        model: what is trained.
        optimizers: those that train it.
        others: all else that has a state, by name.
        vector: of the model; its device has random numbers of its own.
        outer: the outer optimizer, whose state is empty if the run has none; None: it is not saved.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        others: Mapping[str, Stateful],
        vector: ParameterVector,
        outer: Stateful | None = None,
    ) -> None:
        self._outer = outer
        self._model, self._optimizers, self._others, self._vector = model, tuple(optimizers), dict(others), vector
        self._frozen = _frozen(model)

    @property
    def learnt(self) -> tuple[str, ...]:
        """Names, in the model's file, of what travels: it is of no use if it is not finite. A mask may be infinite."""
        return tuple(slot.key for slot in self._vector.slots)

    def copy(self) -> tuple[dict[str, JsonValue], Tensors]:
        """Copy all states.

        Returns:
            What is no tensor, by part; and the tensors on the CPU, by file and name.

        Raises:
            ConfigError: if a state has a part that no checkpoint can hold.
        """
        model, extra = dict[str, Tensor](), dict[str, Any]()
        left_out = self._frozen & _frozen(self._model)
        for name, value in self._model.state_dict().items():
            if isinstance(value, Tensor):
                if name not in left_out:
                    model[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            else:
                extra[name] = value
        outer = {} if self._outer is None else self._outer.state_dict()
        parts: dict[str, Any] = {
            OPTIMIZERS: [optimizer.state_dict() for optimizer in self._optimizers],
            REMAINDER: self._vector.remainder(),
            RANDOM: _random(self._vector.device),
            EXTRA: extra,
            **{f"{OWN}{name}": other.state_dict() for name, other in self._others.items()},
            **({OUTER: outer} if outer else {}),
        }
        states, tensors = dict[str, JsonValue](), dict[str, Tensor]()
        for name, part in parts.items():
            states[name], found = pack(part, name)
            tensors |= found
        return states, {MODEL: model, STATE: tensors}

    def restore(self, memory: TrainingMemory, tensors: Tensors) -> None:
        """Go on from the copy of an earlier life.

        Args:
            memory: with the states.
            tensors: by file and name.

        Raises:
            ConfigError: if it is the state of another model or loop.
        """
        try:
            found = {name: unpack(state, tensors.get(STATE, {})) for name, state in memory.states.items()}
            self._check_others(found)
            self._load_model({**tensors[MODEL], **found[EXTRA]})
            self._vector.restore_remainder(found[REMAINDER])
            for optimizer, state in zip(self._optimizers, found[OPTIMIZERS], strict=True):
                optimizer.load_state_dict(state)
            if self._outer is not None:
                self._outer.load_state_dict(found.get(OUTER, {}))
            for name, other in self._others.items():
                other.load_state_dict(found[f"{OWN}{name}"])
            _restore_random(found[RANDOM], self._vector.device)  # at last: to load may draw numbers
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                "resume", f"step {memory.step}", f"the model or its loop is another one here: {error}"
            ) from error

    def _check_others(self, found: Mapping[str, Any]) -> None:
        there = {name.removeprefix(OWN) for name in found if name.startswith(OWN)}
        here = set(self._others)
        if there != here:
            raise ValueError(
                f"state was given for {sorted(here) or 'nothing'}, the checkpoint has {sorted(there) or 'none'}"
            )

    def _load_model(self, state: Mapping[str, Any]) -> None:
        missing, unexpected = self._model.load_state_dict(dict(state), strict=False)
        lacking = sorted(set(missing) - _frozen(self._model))
        if lacking or unexpected:
            raise ValueError(f"its tensors are others, such as {(lacking or unexpected)[0]}")


def _frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}


def _random(device: torch.device) -> dict[str, Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        found["device"] = torch.mps.get_rng_state()
    return found


def _restore_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "device" in states:  # of the device that it was trained on, which may be another one now
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["device"], device)
        elif device.type == "mps":
            torch.mps.set_rng_state(states["device"])


def plain_losses(losses: Sequence[float]) -> tuple[float | None, ...]:
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
