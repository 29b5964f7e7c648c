"""A model as one flat vector: what travels, and where moves are added."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError

WIRE_DTYPE = torch.float32


class Slot(NamedTuple):
    """One tensor of the model and its place in the vector."""

    owner: nn.Module
    attribute: str
    name: str
    start: int
    stop: int

    def tensor(self) -> Tensor:
        """Looked up each time, since `model.to(...)` may replace it."""
        value: Tensor = getattr(self.owner, self.attribute)
        return value.detach()


class ParameterVector:
    """The parameters (tied ones once) and persistent floating-point buffers of a model, as one vector of D floats.

    Integer buffers (such as BatchNorm's counters) stay out. The model is not changed by building it, and may be moved
    to another device later. Every method that touches the model belongs to the training thread.

    `slots` says what is where; the first `trainable` elements are parameters, the others buffers.

    Raises:
        ConfigError: where the model has nothing to train, or complex parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        self.slots = tuple(_slots(model))
        if not any(p.numel() for p in model.parameters()):
            raise ConfigError("model", type(model).__name__, "a model with at least one floating-point parameter")
        self.elements = self.slots[-1].stop
        self.trainable = sum(p.numel() for p in model.parameters() if p.is_floating_point())
        self.nbytes = self.elements * WIRE_DTYPE.itemsize
        self.schema_hash = _schema_hash(self.slots)

    def empty(self) -> Tensor:
        """An uninitialised vector [D] on the CPU, float32."""
        return torch.empty(self.elements, dtype=WIRE_DTYPE)

    def snapshot(self, out: Tensor) -> Tensor:
        """Copy the model into `out` [D] and return it."""
        for slot in self.slots:
            tensor = slot.tensor()
            out[slot.start : slot.stop].view(tensor.shape).copy_(tensor)
        return out

    def add_(self, move: Tensor) -> None:
        """Add `move` [D] to the model, in place."""
        for slot in self.slots:
            tensor = slot.tensor()
            tensor.add_(move[slot.start : slot.stop].view(tensor.shape).to(tensor.device, tensor.dtype))
            if slot.attribute == "running_var":
                # A move is as old as its snapshot; a variance that shrank since then must not fall below zero.
                tensor.clamp_(min=0.0)

    def views(self, values: Tensor) -> dict[str, Tensor]:
        """The model's tensors by name, from `values` [D]: views where dtype and device allow. For `functional_call`."""
        found = {}
        for slot in self.slots:
            tensor = slot.tensor()
            found[slot.name] = values[slot.start : slot.stop].view(tensor.shape).to(tensor.device, tensor.dtype)
        return found

    def load_(self, values: Tensor) -> None:
        """Replace the model's values by `values` [D]."""
        for slot in self.slots:
            tensor = slot.tensor()
            tensor.copy_(values[slot.start : slot.stop].view(tensor.shape))


def _slots(model: nn.Module) -> list[Slot]:
    persistent = model.state_dict().keys()
    named = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n in persistent)]
    slots, start = [], 0
    for name, tensor in named:
        if tensor.is_complex():
            raise ConfigError(name, tensor.dtype, "real parameters; complex ones cannot be exchanged")
        if not tensor.is_floating_point():
            continue
        path, _, attribute = name.rpartition(".")
        stop = start + tensor.numel()
        slots.append(Slot(model.get_submodule(path), attribute, name, start, stop))
        start = stop
    return slots


def _schema_hash(slots: tuple[Slot, ...]) -> str:
    schema = [[s.name, list(s.tensor().shape), str(s.tensor().dtype)] for s in slots]
    return hashlib.sha256(json.dumps(schema).encode()).hexdigest()[:32]
