"""The place in the vector of each tensor that travels."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.choice import Exchange, Named, all_names, choose
from p2p_elastic.parameters.memory import is_piece, overlap, place, reach_of, region
from p2p_elastic.parameters.schema import NAME_CHARACTERS_MAX, TENSORS_MAX, Schema

COMPLETE = "the model as it was: change layers and tie weights before its parameters are exchanged"


class Slot(NamedTuple):
    """One tensor of the model and its place in the vector.

    Attributes:
        owner: the module that has the tensor.
        attribute: its name there, such as "weight".
        key: its name in the model's `state_dict`, such as "_orig_mod.0.weight".
        name: the same without the names of wrappers, such as "0.weight".
        start: its first element in the vector.
        stop: the element after its last one.
        ties: further tensors in the same memory.
    """

    owner: nn.Module
    attribute: str
    key: str
    name: str
    start: int
    stop: int
    ties: tuple[Tie, ...] = ()

    def held(self) -> Tensor:
        """Look the tensor up, each time anew, since `model.to(...)` may replace it.

        Returns:
            The parameter or buffer itself.

        Raises:
            ConfigError: if the model does not have it any more, such as a weight that is parametrized by now.
        """
        for held in (self.owner._parameters, self.owner._buffers):
            if self.attribute in held:
                found = held[self.attribute]
                if found is not None:
                    return found
        raise ConfigError(self.name, "no parameter or buffer any more", COMPLETE)

    def tensor(self) -> Tensor:
        """Look the tensor up.

        Returns:
            The tensor, detached, in its own shape.
        """
        return self.held().detach()


class Tie(NamedTuple):
    """A tensor whose memory is all of that of a slot's tensor, perhaps in another shape, such as transposed.

    Only tensors that are other objects are ties: one object under two names has one slot, under the first name.

    Attributes:
        owner: the module that has the tensor.
        attribute: its name there.
        key: its name in the model's `state_dict`.
        size: its shape.
        stride: its strides.
        first_stride: the strides that the slot's tensor had when the tie was found.
    """

    owner: nn.Module
    attribute: str
    key: str
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
        first, mine = slot.held(), getattr(self.owner, self.attribute)
        if mine.data_ptr() != first.data_ptr():
            mine.data = self.seen_in(first.detach())
            first.data = mine.detach().as_strided(first.shape, self.first_stride)


class Found(NamedTuple):
    """The tensors of a model, as far as they matter to its peers.

    Attributes:
        slots: what travels.
        parameters: how many elements of the vector, the first ones, are parameters.
        frozen: owner, attribute and name of the parameters that do not travel.
    """

    slots: tuple[Slot, ...]
    parameters: int
    frozen: tuple[tuple[nn.Module, str, str], ...]


def find_slots(model: nn.Module, exchange: Exchange = "trainable") -> Found:
    """Find the slots of the tensors that travel, parameters first.

    Tensors that have all of their memory in common with one that travels do so, too, under the name of the first.

    Args:
        model: is not changed.
        exchange: what travels.

    Returns:
        The slots, and what is not in them.

    Raises:
        ConfigError: if a tensor cannot be exchanged; it gives the tensor's name. If no parameter travels.

    Example:
        >>> found = find_slots(nn.Linear(2, 3))
        >>> [(slot.name, slot.start, slot.stop) for slot in found.slots], found.parameters
        ([('weight', 0, 6), ('bias', 6, 9)], 9)
    """
    groups = _groups(model)
    every = [named for group in groups for named in group]
    chosen = {id(named.tensor) for named in choose(model, every, exchange)}
    slots, stop, parameters = list[Slot](), 0, 0
    apart = list[Named]()
    for group in groups:
        if any(id(named.tensor) in chosen for named in group):
            slots.append(_slot(group, stop))
            stop = slots[-1].stop
            parameters = stop if group[0].is_parameter else parameters
        else:
            apart += group
    if not parameters:
        raise _nothing_travels(model, every, exchange)
    _check_together(slots, apart)
    frozen = tuple((named.owner, named.attribute, named.name) for named in apart if named.is_parameter)
    return Found(tuple(slots), parameters, frozen)


def _groups(model: nn.Module) -> list[list[Named]]:
    """The tensors of a model, each object once; those that are the same memory together."""
    groups, seen = dict[object, list[Named]](), set[int]()
    for named in all_names(model):
        if id(named.tensor) not in seen:
            seen.add(id(named.tensor))
            key = region(named.tensor) if is_piece(named.tensor) else named.key
            groups.setdefault(key, []).append(named)
    return list(groups.values())


def _slot(group: list[Named], start: int) -> Slot:
    first = group[0]
    ties = tuple(
        Tie(n.owner, n.attribute, n.key, n.tensor.shape, n.tensor.stride(), first.tensor.stride()) for n in group[1:]
    )
    stop = start + first.tensor.numel()
    return Slot(first.owner, first.attribute, first.key, first.name, start, stop, ties)


def _nothing_travels(model: nn.Module, every: list[Named], exchange: Exchange) -> ConfigError:
    allowed = "a model with at least one floating-point parameter"
    if exchange == "trainable" and any(n.is_parameter and n.tensor.is_floating_point() for n in every):
        allowed += " that trains: all are frozen; call requires_grad_() on those to train, or exchange 'all'"
    elif exchange not in ("trainable", "all"):
        allowed += " that travels: choose one with exchange"
    return ConfigError("model", type(model).__name__, allowed)


def schema_of(slots: tuple[Slot, ...]) -> Schema:
    """Describe what two peers must have in common.

    Args:
        slots: of the model; a tie counts under the name of its slot.

    Returns:
        Names and shapes.

    Raises:
        ConfigError: if there are too many tensors, or too long a name, to be told to others.
    """
    if len(slots) > TENSORS_MAX:
        raise ConfigError("model", f"{len(slots)} tensors", f"at most {TENSORS_MAX} that travel")
    for slot in slots:
        if not 0 < len(slot.name) <= NAME_CHARACTERS_MAX:
            raise ConfigError("model", slot.name, f"names of 1 to {NAME_CHARACTERS_MAX} characters")
    return Schema(tensors=tuple((slot.name, tuple(slot.tensor().shape)) for slot in slots))


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy whose ties are ties, too: `copy.deepcopy` gives each parameter memory of its own.

    Args:
        model: is not changed.

    Returns:
        The copy, on the same device.
    """
    other = copy.deepcopy(model)
    for slot in (_slot(group, 0) for group in _groups(model) if len(group) > 1):
        for tie in slot.ties:
            tie._replace(owner=_owner(other, tie.key)).rejoin(slot._replace(owner=_owner(other, slot.key)))
    return other


def shell_of(model: nn.Module, slots: Iterable[Slot]) -> nn.Module:
    """A copy for `torch.func.functional_call`, which takes no memory for what travels: that is given with each call.

    Args:
        model: is not changed.
        slots: what travels.

    Returns:
        The copy. What travels is on the device "meta" there, other parameters are the model's own, and other buffers
        are copies.
    """
    copied: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    for slot in slots:
        for owner, attribute in ((slot.owner, slot.attribute), *((tie.owner, tie.attribute) for tie in slot.ties)):
            tensor = getattr(owner, attribute)
            empty = torch.empty_like(tensor, device="meta", requires_grad=False)
            copied[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, copied)


def _owner(model: nn.Module, key: str) -> nn.Module:
    return model.get_submodule(key.rpartition(".")[0])


def _check_together(slots: list[Slot], apart: list[Named]) -> None:
    """Raise ConfigError if slots are on several devices, or if one shares some of its memory with another tensor."""
    tensors = [(slot.name, slot.tensor()) for slot in slots]
    for name, tensor in tensors:
        first_name, first = tensors[0]
        if tensor.device != first.device:
            raise ConfigError(name, str(tensor.device), f"all on one device: {first_name} is on {first.device}")
    travelling = {name for name, _ in tensors}
    tensors += [(named.name, named.tensor) for named in apart]
    every = [(place(tensor), name, tensor) for name, tensor in tensors if is_piece(tensor)]
    active: list[tuple[int, str, Tensor]] = []  # of the same storage: end, name, tensor
    storage_before = None
    for (storage, begin), name, tensor in sorted(every, key=lambda each: each[0]):
        active = [other for other in active if other[0] > begin] if storage == storage_before else []
        for _, other_name, other in active:
            if travelling & {name, other_name} and overlap(other, tensor):
                shares = "all of their memory in common, or none: use .clone() for one of the two"
                raise ConfigError(name, f"a tensor with some of the memory of {other_name}", shares)
        active.append((begin + reach_of(tensor) * tensor.itemsize, name, tensor))
        storage_before = storage
