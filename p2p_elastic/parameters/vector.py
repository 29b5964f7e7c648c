"""A model as one flat vector: what travels, and how moves are added to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.parameters.copying import Copying
from p2p_elastic.parameters.cuda_copies import DeviceLane
from p2p_elastic.parameters.flat import WIRE_DTYPE as WIRE_DTYPE  # which others import from here
from p2p_elastic.parameters.flat import Piece, Run, flattened, smaller
from p2p_elastic.parameters.frozen import hash_of
from p2p_elastic.parameters.remainders import Remainders, split
from p2p_elastic.parameters.slots import COMPLETE, Slot, find_slots, schema_of

Part = tuple[int, int]
"""The elements of the vector from the first number up to, not including, the second."""


def place_of(part: Part | None) -> slice:
    """Find a part in a whole vector.

    Args:
        part: its first element and the one after its last; None: all of the vector.

    Returns:
        The slice.

    Example:
        >>> place_of((2, 5)), place_of(None)
        (slice(2, 5, None), slice(None, None, None))
    """
    return slice(None) if part is None else slice(*part)


class ParameterVector:
    """What travels of a model, as one vector of D floats: parameters, tied ones once, and then buffers.

    Tied are those that are one object, and those that have all of their memory in common, transposed too: they travel
    once, under the first name, and stay tied.

    By default the parameters travel that train, and the running statistics of normalisation layers; what is frozen,
    other buffers, counters and complex numbers stay local. The model is not changed by building it, and may be moved to
    another device later; its layers must stay. Every method that touches the model belongs to the training thread.

    The value of a 16-bit parameter is the parameter plus a remainder in float32, which is made at the first move: so
    no move is lost, however gentle. What the optimizer does to the parameter leaves the remainder as it is.

    Args:
        model: has at least one floating-point parameter that travels.
        exchange: what travels: "trainable", "all" that is in floating point, names, or a function of name and tensor.

    Attributes:
        slots: the tensors and their places.
        trainable: the first elements of the vector that are parameters; the others are buffers.
        elements: D.
        nbytes: bytes of the vector in float32.
        schema: what two peers must have in common.
        schema_hash: the same in 32 hexadecimal digits.
        seams: the first element of each slot, ascending; slots without elements left out.

    Raises:
        ConfigError: no parameter travels, a name is not one of the model, or a tensor cannot be exchanged
            (`choice.REFUSED`). The methods raise it if the model has lost or tied tensors since then.
    """

    def __init__(self, model: nn.Module, exchange: Exchange = "trainable") -> None:
        self._model = model
        self.slots, self.trainable, self._frozen = find_slots(model, exchange)
        self.elements = self.slots[-1].stop
        self.nbytes = self.elements * WIRE_DTYPE.itemsize
        self.schema = schema_of(self.slots)
        self.schema_hash = self.schema.hash
        self.seams = tuple(slot.start for slot in self.slots if slot.start < slot.stop)
        self._tied = tuple(slot for slot in self.slots if slot.ties)
        self._runs = tuple(Run((slot,)) for slot in self.slots)
        self._remainders = Remainders(slot for slot in self.slots if slot.start < self.trainable)
        self._lane: DeviceLane | None = None

    @cached_property
    def frozen_hash(self) -> str:
        """The hash of the parameters that do not travel, as they are when it is first asked for.

        Returns:
            32 hexadecimal digits; "" if all travel.
        """
        return hash_of((name, getattr(owner, attribute)) for owner, attribute, name in self._frozen)

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.slots[0].tensor().device

    def flatten(self) -> None:
        """Move the model's tensors side by side: the parameters into one piece of memory, the buffers into another.

        From then on a snapshot is one copy, and a move one addition, for any number of tensors. Parameters stay
        the objects that they are, so optimizers go on. What is not float32 or not contiguous keeps its own storage,
        and so do the weights of recurrent layers: cuDNN wants these in one piece that it laid out.
        """
        runs = list[Run]()
        for key, group in itertools.groupby(self.slots, key=self._kind):
            slots = tuple(group)
            runs += [Run((slot,)) for slot in slots] if key is None else [flattened(slots)]
        self._runs = tuple(runs)
        self._rejoin()
        self._device_lane()  # now, while there is one thread

    def _rejoin(self) -> None:
        """Let tensors that shared memory when this was built share it again, if something parted them."""
        for slot in self._tied:
            for tie in slot.ties:
                tie.rejoin(slot)

    def _kind(self, slot: Slot) -> object:
        tensor = slot.tensor()
        if tensor.dtype != WIRE_DTYPE or not tensor.is_contiguous() or isinstance(slot.owner, nn.RNNBase):
            return None
        return slot.start < self.trainable, tensor.device

    def empty(self, elements: int | None = None) -> Tensor:
        """An uninitialised vector, in memory that a GPU can read.

        Args:
            elements: its length; None: D.

        Returns:
            float32 [elements], pinned if the model is on a GPU.
        """
        size = self.elements if elements is None else elements
        return torch.empty(size, dtype=WIRE_DTYPE, pin_memory=self.device.type == "cuda")

    def snapshot(self, out: Tensor, part: Part | None = None) -> Tensor:
        """Copy the model, or a part of it, and wait until the copy is whole.

        Args:
            out: [D or stop - start], float32; it is overwritten.
            part: the elements that are copied; None: all.

        Returns:
            `out`.
        """
        self.begin_snapshot(out, part)
        self.arrive()
        return out

    def begin_snapshot(self, out: Tensor, part: Part | None = None, copying: Copying | None = None) -> None:
        """Begin a copy of the model.

        What is copied from a GPU is in `out` only after `arrive`, which any thread may call.

        Args:
            out: [D or stop - start], float32; it is overwritten.
            part: the elements that are copied; None: all.
            copying: is told how far the copy is.
        """
        lane = self._device_lane()
        if lane is not None and out.is_pinned():
            lane.send(self._pieces(out, part))
            return
        copied = 0
        for piece in self._pieces(out, part):
            for values, mine, rest in [piece] if copying is None else smaller(piece):
                values.copy_(mine)
                if rest is not None:
                    values.add_(rest.to(values))
                copied += values.numel()
                if copying is not None:
                    copying.reached(copied)

    @property
    def has_arrived(self) -> bool:
        """Whether the last snapshot that was begun is whole."""
        return self._lane is None or self._lane.has_sent

    def arrive(self) -> None:
        """Wait until the last snapshot that was begun is whole."""
        if self._lane is not None:
            self._lane.wait()

    def bring(self, move: Tensor) -> Tensor:
        """Bring a move to the model's GPU before `add_` needs it, if the GPU has memory for it. For any thread.

        Args:
            move: [n], float32.

        Returns:
            The copy on the GPU; `move` itself if there is no GPU, no memory there, or `move` is not pinned.
        """
        return move if self._lane is None or not move.is_pinned() else self._lane.bring(move)

    def _join(self, brought: Tensor) -> None:
        if self._lane is not None and brought.device.type == "cuda":
            self._lane.join(brought)

    def _device_lane(self) -> DeviceLane | None:
        if self._lane is None and self.device.type == "cuda":
            self._lane = DeviceLane(self.device)
        return self._lane

    def add_(self, move: Tensor, part: Part | None = None, share: float = 1.0) -> None:
        """Add `share` times a move to the model, or to a part of it, in place.

        Args:
            move: [D or stop - start], float32, on the CPU or as `bring` returned it.
            part: the elements that move; None: all.
            share: 0 adds nothing, whatever is in `move`.
        """
        self._join(move)
        if share == 0.0:
            return
        for piece in self._pieces(move, part, begin=True):
            for some, ours, rest in smaller(piece):
                if rest is None:
                    ours.add_(some.to(ours), alpha=share)
                else:
                    split(ours.float().add_(rest).add_(some.to(rest), alpha=share), ours, rest)
        for slot in self.slots:
            if slot.attribute == "running_var":
                # A move is as old as its snapshot; a variance that shrank since then must not fall below zero.
                slot.tensor().clamp_(min=0.0)

    def views(self, values: Tensor) -> dict[str, Tensor]:
        """See a vector as the model's tensors, for `functional_call`. 16-bit ones are rounded: no remainder is used.

        Args:
            values: [D].

        Returns:
            Tensors by their names in the `state_dict`, ties too: views of `values` if dtype and device allow it,
            otherwise copies.
        """
        found = {}
        for slot in self.slots:
            tensor = slot.tensor()
            one = values[slot.start : slot.stop].view(tensor.shape).to(tensor.device, tensor.dtype)
            found[slot.key] = one
            found.update((tie.key, tie.seen_in(one)) for tie in slot.ties)
        return found

    def load_(self, values: Tensor, part: Part | None = None) -> None:
        """Replace the model's values, or those of a part of it.

        Args:
            values: [D or stop - start].
            part: the elements that are replaced; None: all.
        """
        self._join(values)
        for piece in self._pieces(values, part, begin=True):
            for new, mine, rest in smaller(piece):
                if rest is None:
                    mine.copy_(new)
                else:
                    split(new.to(rest), mine, rest)

    def remainder(self) -> dict[str, Tensor]:
        """Give what 16-bit parameters are too coarse for, to be saved beside them.

        Returns:
            float32 tensors by name, of the parameters' shapes; not copies. Empty before the first move.
        """
        return self._remainders.state()

    def restore_remainder(self, saved: Mapping[str, Tensor]) -> None:
        """Take up remainders that were saved, after the model's state was loaded; those that there are do not fit it.

        Args:
            saved: what `remainder` gave; {} for a state that was saved without.

        Raises:
            ConfigError: for a name or a shape that the model does not have.
        """
        self._remainders.restore(saved)

    def not_finite(self, values: Tensor | None = None) -> tuple[str, ...]:
        """Name the tensors with an element that is not finite.

        Args:
            values: [D], such as a partner's; None: those of the model.

        Returns:
            Their names in the order of the vector. Usually none, which takes one sum.
        """
        if values is not None:
            tensors = {slot.name: values[slot.start : slot.stop] for slot in self.slots}
            sums = [values.sum()]
        else:
            tensors = {slot.name: slot.tensor() for slot in self.slots}
            flats = [run.storage() for run in self._runs]
            apart = (slot.tensor() for run, f in zip(self._runs, flats, strict=True) if f is None for slot in run.slots)
            sums = [t.sum(dtype=WIRE_DTYPE) for t in itertools.chain((f for f in flats if f is not None), apart)]
        if bool(torch.stack(sums).sum().isfinite()):  # if one is not, no sum with it is
            return ()
        return tuple(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))

    def _pieces(self, values: Tensor, part: Part | None, *, begin: bool = False) -> Iterator[Piece]:
        """Pieces of `values` [D or stop - start], and what belongs to them. `begin`: 16-bit ones get a remainder."""
        placed = [(run, run.storage()) for run in self._runs]
        self._check(placed)
        self._rejoin()
        start, stop = part or (0, self.elements)
        for run, flat in placed:
            first, last = max(start, run.start), min(stop, run.stop)
            if first < last and flat is not None:
                yield Piece(values[first - start : last - start], flat[first - run.start : last - run.start])
                continue
            for slot in run.slots:
                a, b = max(first, slot.start), min(last, slot.stop)
                if a < b:
                    yield from self._of_slot(
                        slot, values[a - start : b - start], slice(a - slot.start, b - slot.start), begin
                    )

    def _of_slot(self, slot: Slot, values: Tensor, place: slice, begin: bool) -> Iterator[Piece]:
        tensor = slot.tensor()
        kept = self._remainders.of(slot, tensor, begin=begin)
        rest = None if kept is None else kept[place]
        if tensor.is_contiguous():
            yield Piece(values, tensor.view(-1)[place], rest)
        elif len(values) == tensor.numel():
            yield Piece(values.view(tensor.shape), tensor, None if rest is None else rest.view(tensor.shape))
        else:  # no flat view shows it: a fragment that ends in the middle of, say, a channels-last tensor
            whole = tensor.contiguous().view(-1)
            yield Piece(values, whole[place], rest)
            tensor.copy_(whole.view(tensor.shape))

    def _check(self, placed: list[tuple[Run, Tensor | None]]) -> None:
        """Raise ConfigError if the model has other layers than when this was built, or if two slots are one by now."""
        here = {id(module) for module in self._model.modules()}
        for slot in self.slots:
            if id(slot.owner) not in here:
                raise ConfigError(slot.name, "a tensor of a layer that was replaced", COMPLETE)
        if all(flat is not None for _, flat in placed):
            return
        first = dict[int, Slot]()
        for slot in self.slots:
            tensor = slot.held()
            if tensor.numel() != slot.stop - slot.start:
                raise ConfigError(slot.name, f"a tensor of shape {list(tensor.shape)} by now", COMPLETE)
            if tensor.numel() and first.setdefault(tensor.data_ptr(), slot) is not slot:
                got = f"a tensor that was tied to {first[tensor.data_ptr()].name} meanwhile"
                raise ConfigError(slot.name, got, COMPLETE)
