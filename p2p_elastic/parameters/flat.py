"""Storage that many tensors of a model are views of, and pieces of it beside those of a vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from p2p_elastic.parameters.slots import Slot

WIRE_DTYPE = torch.float32
CONVERTED = 1 << 22  # elements that are brought to another device or type at once: no second model there
IN_CACHE = 1 << 17  # elements of a 16-bit tensor on a CPU that are moved at once: seven operations each


class Run(NamedTuple):
    """Neighbouring slots.

    Attributes:
        slots: in the order of the vector.
        flat: the storage [stop - start] whose views they are; None: each has a storage of its own.
    """

    slots: tuple[Slot, ...]
    flat: Tensor | None = None

    @property
    def start(self) -> int:
        """The first element in the vector."""
        return self.slots[0].start

    @property
    def stop(self) -> int:
        """The element after the last one."""
        return self.slots[-1].stop

    def storage(self) -> Tensor | None:
        """Look whether the model's tensors still are views of `flat`: `model.to(...)` may have replaced them.

        Returns:
            `flat` if they are; otherwise None.
        """
        if self.flat is None:
            return None
        base, size = self.flat.data_ptr() - self.start * self.flat.itemsize, self.flat.itemsize
        same = all(slot.held().data_ptr() == base + slot.start * size for slot in self.slots)
        return self.flat if same else None


class Piece(NamedTuple):
    """Elements of a vector, and what belongs to them in the model, in one shape.

    Attributes:
        values: of the vector.
        mine: of the model.
        rest: the remainder of `mine`; None if it has none.
    """

    values: Tensor
    mine: Tensor
    rest: Tensor | None = None


def smaller(piece: Piece) -> Iterator[Piece]:
    """Divide a piece along its first dimension.

    Args:
        piece: of any size.

    Yields:
        Pieces of at most `CONVERTED` rows; with a remainder on a CPU, of `IN_CACHE`.
    """
    rows = IN_CACHE if piece.rest is not None and piece.rest.device.type == "cpu" else CONVERTED
    if piece.mine.dim() == 0 or piece.mine.shape[0] <= rows:
        yield piece
        return
    values, mine = torch.split(piece.values, rows), torch.split(piece.mine, rows)
    rest = [None] * len(mine) if piece.rest is None else torch.split(piece.rest, rows)
    yield from map(Piece, values, mine, rest)


def flattened(slots: tuple[Slot, ...]) -> Run:
    """Move tensors into one storage.

    Args:
        slots: neighbours, all in float32 and contiguous on one device.

    Returns:
        They, and the storage.
    """
    start, stop = slots[0].start, slots[-1].stop
    flat = torch.empty(stop - start, dtype=WIRE_DTYPE, device=slots[0].tensor().device)
    for slot in slots:
        tensor = slot.held()
        view = _alone(flat[slot.start - start : slot.stop - start]).view(tensor.shape)
        tensor.data = view.copy_(tensor.detach())
    return Run(slots, flat)


def _alone(piece: Tensor) -> Tensor:
    """See the same memory as a storage of its own.

    What saves models (safetensors, and accelerate with it) takes tensors of one storage for one tensor, and leaves out
    all but one; `torch.save` writes the whole storage for each.
    """
    if not piece.numel() or piece.device.type not in ("cpu", "cuda"):
        return piece
    return from_dlpack(piece)
