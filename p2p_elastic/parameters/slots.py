"""The tensors of a model that travel, and the place of each one in the vector."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from p2p_elastic.errors import ConfigError

TRAVELS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Slot(NamedTuple):
    """One tensor of the model and its place in the vector.

    Attributes:
        owner: the module that has the tensor.
        attribute: its name there, such as "weight".
        name: its name in the model, such as "0.weight".
        start: its first element in the vector.
        stop: the element after its last one.
        ties: further tensors in the same memory.
    """

    owner: nn.Module
    attribute: str
    name: str
    start: int
    stop: int
    ties: tuple[Tie, ...] = ()

    def tensor(self) -> Tensor:
        """Look the tensor up, each time anew, since `model.to(...)` may replace it.

        Returns:
            The tensor, detached, in its own shape.
        """
        value: Tensor = getattr(self.owner, self.attribute)
        return value.detach()


class Tie(NamedTuple):
    """A tensor whose memory is all of that of a slot's tensor, perhaps in another shape, such as transposed.

    Only tensors that are other objects are ties: one object under two names has one slot, under the first name.

    Attributes:
        owner: the module that has the tensor.
        attribute: its name there.
        name: its name in the model.
        size: its shape.
        stride: its strides.
        first_stride: the strides that the slot's tensor had when the tie was found.
    """

    owner: nn.Module
    attribute: str
    name: str
    size: torch.Size
    stride: tuple[int, ...]
    first_stride: tuple[int, ...]

    def seen_in(self, first: Tensor) -> Tensor:
        """See this tensor in the memory of the slot's one.

        Args:
            first: the slot's tensor, or values of its shape.

        Returns:
            A view of `first` or, if that has other strides by now, of a copy of it.
        """
        if first.stride() != self.first_stride:
            first = first.new_empty_strided(first.shape, self.first_stride).copy_(first)
        return first.as_strided(self.size, self.stride)

    def rejoin(self, slot: Slot) -> None:
        """Share the memory of the slot's tensor again: `model.to(...)` gives each tensor memory of its own.

        Args:
            slot: the slot that this tie belongs to.
        """
        first, mine = getattr(slot.owner, slot.attribute), getattr(self.owner, self.attribute)
        if mine.data_ptr() != first.data_ptr():
            mine.data = self.seen_in(first.detach())
            first.data = mine.detach().as_strided(first.shape, self.first_stride)


def find_slots(model: nn.Module) -> tuple[tuple[Slot, ...], int]:
    """Find the slots of the model's parameters and persistent floating-point buffers.

    Args:
        model: is not changed.

    Returns:
        The slots, parameters first, and how many elements of the vector are parameters.

    Raises:
        ConfigError: if a tensor cannot be exchanged; it gives the tensor's name.

    Example:
        >>> slots, parameters = find_slots(nn.Linear(2, 3))
        >>> [(slot.name, slot.start, slot.stop) for slot in slots], parameters
        ([('weight', 0, 6), ('bias', 6, 9)], 9)
    """
    slots: dict[object, Slot] = {}
    parameters = _add(slots, model, model.named_parameters())
    persistent = model.state_dict().keys()
    _add(slots, model, ((name, buffer) for name, buffer in model.named_buffers() if name in persistent))
    found = tuple(slots.values())
    _check_together(found)
    return found, parameters


def _add(slots: dict[object, Slot], model: nn.Module, named: Iterable[tuple[str, Tensor]]) -> int:
    """Add slots, or ties to those there are, by regions of memory. Returns the end of the last slot."""
    stop = max((slot.stop for slot in slots.values()), default=0)
    for name, tensor in named:
        if not _travels(name, tensor):
            continue
        path, _, attribute = name.rpartition(".")
        owner, key = model.get_submodule(path), region(tensor) or name
        first = slots.get(key)
        if first is None:
            slots[key] = Slot(owner, attribute, name, stop, stop + tensor.numel())
            stop += tensor.numel()
        else:
            tie = Tie(owner, attribute, name, tensor.shape, tensor.stride(), first.tensor().stride())
            slots[key] = first._replace(ties=(*first.ties, tie))
    return stop


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy whose ties are ties, too: `copy.deepcopy` gives each parameter memory of its own.

    Args:
        model: is not changed.

    Returns:
        The copy, on the same device.
    """
    other = copy.deepcopy(model)
    for slot in find_slots(model)[0]:
        for tie in slot.ties:
            tie._replace(owner=_owner(other, tie.name)).rejoin(slot._replace(owner=_owner(other, slot.name)))
    return other


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def schema_hash(slots: tuple[Slot, ...]) -> str:
    """Hash what two peers must have in common: names, shapes and types.

    Args:
        slots: of the model; a tie counts under the name of its slot.

    Returns:
        32 hexadecimal digits.
    """
    schema = [[s.name, list(s.tensor().shape), str(s.tensor().dtype)] for s in slots]
    return hashlib.sha256(json.dumps(schema).encode()).hexdigest()[:32]


# -- memory -----------------------------------------------------------------------------------------------------------


def region(tensor: Tensor) -> object:
    """Say which elements in memory a tensor has, to compare it with others.

    Args:
        tensor: in any shape.

    Returns:
        Equal for two tensors if they have the same elements in memory, in any shape; None if there are no elements.
    """
    if not tensor.numel():
        return None
    # A dense tensor has every element of its memory, so that first element and count say which.
    layout = None if _reach(tensor) == tensor.numel() else (tensor.shape, tensor.stride())
    return tensor.device, _place(tensor), tensor.dtype, tensor.is_neg(), tensor.numel(), layout


def _place(tensor: Tensor) -> tuple[int, int]:
    """Its storage and its offset there, in bytes. Only within a storage do addresses say what is beside what."""
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()) * tensor.itemsize


def _reach(tensor: Tensor) -> int:
    """From the first element in memory up to and with the last one, in elements."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _offsets(tensor: Tensor) -> Tensor:
    """The offsets of all elements, in elements from the first one in memory."""
    return torch.arange(_reach(tensor)).as_strided(tensor.shape, tensor.stride()).flatten()


def _overlaps_itself(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return False
    dimensions = sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    if dimensions[0][0] == 0:
        return True
    reach = 0
    for stride, size in dimensions:
        if stride <= reach:  # the elements of one row lie between those of another, or on them
            return len(set(_offsets(tensor).tolist())) < tensor.numel()
        reach += stride * (size - 1)
    return False


def _overlap(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors have an element in common. `after` begins within the reach of `before`."""
    if _reach(before) == before.numel() or before.dtype != after.dtype:
        return True
    distance = after.storage_offset() - before.storage_offset()
    return bool(torch.isin(_offsets(after) + distance, _offsets(before)).any())


# -- what cannot be exchanged -----------------------------------------------------------------------------------------


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether a subclass does the arithmetic, such as a DTensor or a quantized weight: it is no piece of memory."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


REFUSED: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (
        is_lazy,
        "a lazy tensor, still without a shape",
        "run one forward pass first: that gives lazy layers their shapes",
    ),
    (
        lambda tensor: tensor.is_nested,
        "a nested tensor",
        "tensors of one shape each: register its parts as parameters of their own",
    ),
    (
        _is_wrapper,
        "a tensor that is sharded, quantized or wrapped by a class of its own",
        "plain tensors: take the whole model before it is sharded or quantized",
    ),
    (lambda tensor: tensor.layout != torch.strided, "a sparse or packed tensor", "dense tensors: use .to_dense()"),
    (
        lambda tensor: tensor.is_meta,
        "a tensor on the meta device, without values",
        "materialize the model first: model.to_empty(device=...), and then load or initialize its values",
    ),
    (
        lambda tensor: tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0,
        "a tensor whose memory was freed, as sharding does",
        "the whole model: gather it first",
    ),
    (
        lambda tensor: tensor.is_inference(),
        "a tensor made in inference mode, which cannot be changed outside of it",
        "make or load the model outside of torch.inference_mode()",
    ),
    (
        _overlaps_itself,
        "a tensor whose elements share memory, such as an expanded one",
        "elements of their own: use .contiguous(), or .clone()",
    ),
)
"""Of tensors in floating point: the kind, what it is called, and what may be given instead."""


def _travels(name: str, tensor: Tensor) -> bool:
    """False for what stays local, such as counters. Raises ConfigError for what cannot be exchanged."""
    if not is_lazy(tensor) and tensor.is_complex():
        raise ConfigError(name, tensor.dtype, "real parameters; complex ones cannot be exchanged")
    if not is_lazy(tensor) and not tensor.is_floating_point():
        return False
    for holds, got, instead in REFUSED:
        if holds(tensor):
            raise ConfigError(name, got, instead)
    if tensor.dtype not in TRAVELS:
        types = ", ".join(str(dtype).removeprefix("torch.") for dtype in TRAVELS)
        local = "keep it local: register_buffer(..., persistent=False)"
        raise ConfigError(name, tensor.dtype, f"one of {types}: cast it with .to(), or {local}")
    return True


def _check_together(slots: tuple[Slot, ...]) -> None:
    """Raise ConfigError if they are on several devices, or if two have some of their memory in common."""
    tensors = [(slot.name, slot.tensor()) for slot in slots]
    for name, tensor in tensors:
        first_name, first = tensors[0]
        if tensor.device != first.device:
            raise ConfigError(name, str(tensor.device), f"all on one device: {first_name} is on {first.device}")
    every = [(_place(tensor), name, tensor) for name, tensor in tensors if tensor.numel()]
    active: list[tuple[int, str, Tensor]] = []  # of the same storage: end, name, tensor
    storage_before = None
    for (storage, begin), name, tensor in sorted(every, key=lambda each: each[0]):
        active = [other for other in active if other[0] > begin] if storage == storage_before else []
        for _, other_name, other in active:
            if _overlap(other, tensor):
                shares = "all of their memory in common, or none: use .clone() for one of the two"
                raise ConfigError(name, f"a tensor with some of the memory of {other_name}", shares)
        active.append((begin + _reach(tensor) * tensor.itemsize, name, tensor))
        storage_before = storage
