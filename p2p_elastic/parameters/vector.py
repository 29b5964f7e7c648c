"""A model as one flat vector: what travels, and how moves are added to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.cuda_copies import DeviceLane
from p2p_elastic.parameters.slots import Slot, find_slots, schema_hash

WIRE_DTYPE = torch.float32
CONVERTED = 1 << 22  # elements that are brought to another device or type at once: no second model there
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


class _Run(NamedTuple):
    """Neighbouring slots, and the storage [stop - start] whose views they are; None: each has a storage of its own."""

    slots: tuple[Slot, ...]
    flat: Tensor | None = None

    @property
    def start(self) -> int:
        return self.slots[0].start

    @property
    def stop(self) -> int:
        return self.slots[-1].stop

    def storage(self) -> Tensor | None:
        """`flat`, if the model's tensors still are its views: `model.to(...)` may have replaced them."""
        if self.flat is None:
            return None
        base, size = self.flat.data_ptr() - self.start * self.flat.itemsize, self.flat.itemsize
        same = all(getattr(s.owner, s.attribute).data_ptr() == base + s.start * size for s in self.slots)
        return self.flat if same else None


class ParameterVector:
    """The parameters (tied ones once) and persistent floating-point buffers of a model, as one vector of D floats.

    Tied are those that are one object, and those that have all of their memory in common, transposed too: they travel
    once, under the first name, and stay tied.

    Integer buffers (such as BatchNorm's counters) stay out. The model is not changed by building it, and may be moved
    to another device later. Every method that touches the model belongs to the training thread.

    Args:
        model: has at least one floating-point parameter.

    Attributes:
        slots: the tensors and their places.
        trainable: the first elements of the vector that are parameters; the others are buffers.
        elements: D.
        nbytes: bytes of the vector in float32.
        schema_hash: what two peers must have in common.

    Raises:
        ConfigError: the model has nothing to train, or a tensor that cannot be exchanged (`slots.REFUSED`).
    """

    def __init__(self, model: nn.Module) -> None:
        self.slots, self.trainable = find_slots(model)
        if not self.trainable:
            raise ConfigError("model", type(model).__name__, "a model with at least one floating-point parameter")
        self.elements = self.slots[-1].stop
        self.nbytes = self.elements * WIRE_DTYPE.itemsize
        self.schema_hash = schema_hash(self.slots)
        self._tied = tuple(slot for slot in self.slots if slot.ties)
        self._runs = tuple(_Run((slot,)) for slot in self.slots)
        self._lane: DeviceLane | None = None

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.slots[0].tensor().device

    def flatten(self) -> None:
        """Make the model's tensors views of one storage for the parameters, and one for the buffers.

        From then on a snapshot is one copy, and a move one addition, for any number of tensors. Parameters stay
        the objects that they are, so optimizers go on. What is not float32 or not contiguous keeps its own storage.
        """
        runs = list[_Run]()
        for key, group in itertools.groupby(self.slots, key=self._kind):
            slots = tuple(group)
            runs += [_Run((slot,)) for slot in slots] if key is None else [_flattened(slots)]
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
        if tensor.dtype != WIRE_DTYPE or not tensor.is_contiguous():
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

    def begin_snapshot(self, out: Tensor, part: Part | None = None) -> None:
        """Begin a copy of the model.

        What is copied from a GPU is in `out` only after `arrive`, which any thread may call.

        Args:
            out: [D or stop - start], float32; it is overwritten.
            part: the elements that are copied; None: all.
        """
        lane = self._device_lane()
        if lane is not None and out.is_pinned():
            lane.send(self._tensors(out, part))
            return
        for values, mine in self._tensors(out, part):
            values.copy_(mine)

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
        for values, mine in self._tensors(move, part):
            for some, ours in _pieces(values, mine):
                ours.add_(some.to(ours), alpha=share)
        for slot in self.slots:
            if slot.attribute == "running_var":
                # A move is as old as its snapshot; a variance that shrank since then must not fall below zero.
                slot.tensor().clamp_(min=0.0)

    def views(self, values: Tensor) -> dict[str, Tensor]:
        """See a vector as the model's tensors, for `functional_call`.

        Args:
            values: [D].

        Returns:
            Tensors by name, ties too: views of `values` if dtype and device allow it, otherwise copies.
        """
        found = {}
        for slot in self.slots:
            tensor = slot.tensor()
            one = values[slot.start : slot.stop].view(tensor.shape).to(tensor.device, tensor.dtype)
            found[slot.name] = one
            found.update((tie.name, tie.seen_in(one)) for tie in slot.ties)
        return found

    def load_(self, values: Tensor) -> None:
        """Replace the model's values.

        Args:
            values: [D].
        """
        self._join(values)
        for new, mine in self._tensors(values, None):
            mine.copy_(new)

    def _tensors(self, values: Tensor, part: Part | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces of `values` [D or stop - start] and, flat like them, the pieces of the model that they belong to."""
        self._rejoin()
        start, stop = part or (0, self.elements)
        for run in self._runs:
            first, last = max(start, run.start), min(stop, run.stop)
            if first >= last:
                continue
            flat = run.storage()
            if flat is not None:
                yield values[first - start : last - start], flat[first - run.start : last - run.start]
                continue
            for slot in run.slots:
                a, b = max(first, slot.start), min(last, slot.stop)
                if a >= b:
                    continue
                tensor = slot.tensor()
                if (a, b) == (slot.start, slot.stop):  # in its own shape: it need not be contiguous
                    yield values[a - start : b - start].view(tensor.shape), tensor
                elif tensor.is_contiguous():
                    yield values[a - start : b - start], tensor.view(-1)[a - slot.start : b - slot.start]
                else:  # no flat view shows it: a fragment that ends in the middle of, say, a channels-last tensor
                    whole = tensor.contiguous().view(-1)
                    yield values[a - start : b - start], whole[a - slot.start : b - slot.start]
                    tensor.copy_(whole.view(tensor.shape))


def _pieces(values: Tensor, mine: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same pieces of both, along their first dimension."""
    if mine.dim() == 0 or mine.shape[0] <= CONVERTED:
        yield values, mine
    else:
        yield from zip(torch.split(values, CONVERTED), torch.split(mine, CONVERTED), strict=True)


def _flattened(slots: tuple[Slot, ...]) -> _Run:
    start, stop = slots[0].start, slots[-1].stop
    flat = torch.empty(stop - start, dtype=WIRE_DTYPE, device=slots[0].tensor().device)
    for slot in slots:
        tensor = getattr(slot.owner, slot.attribute)
        view = flat[slot.start - start : slot.stop - start].view(tensor.shape)
        tensor.data = view.copy_(tensor.detach())
    return _Run(slots, flat)
