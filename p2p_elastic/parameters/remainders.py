"""What 16-bit parameters are too coarse to hold.

A gentle move is less than half the distance between two neighbouring bfloat16 numbers, so that adding it changes
nothing, and what one end loses the other does not gain. The remainder keeps it: value = parameter + remainder.

Source: compensated summation, W. Kahan, "Further remarks on reducing truncation errors", 1965.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.slots import Slot

COARSE = (torch.float16, torch.bfloat16)
LAST_BITS = 1 << 8  # units in the last place of a float32; those of a float16 are 2**13 of them, of a bfloat16 2**16


class Remainders:
    """The remainders of a model's 16-bit parameters, in float32, each from its first move on.

    They are of moves only: a step of the optimizer rounds as it does without exchanges. Buffers have none, since a
    forward pass overwrites them.

    Args:
        slots: of the parameters.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = {slot.name: slot for slot in slots}
        self._kept: dict[str, Tensor] = {}

    def of(self, slot: Slot, tensor: Tensor, *, begin: bool) -> Tensor | None:
        """Find the remainder of a slot, on the device of its tensor.

        Args:
            slot: one of the vector.
            tensor: what is in it now.
            begin: whether to make one of zeros if there is none.

        Returns:
            [elements of the slot], float32; None if there is none.
        """
        if tensor.dtype not in COARSE or slot.name not in self._slots:
            return None
        kept = self._kept.get(slot.name)
        if kept is None and begin:
            kept = torch.zeros(tensor.numel(), device=tensor.device)
        elif kept is not None and kept.device != tensor.device:
            kept = kept.to(tensor.device)
        if kept is not None:
            self._kept[slot.name] = kept
        return kept

    def state(self) -> dict[str, Tensor]:
        """Give what is to be saved beside the parameters.

        Returns:
            The remainders themselves, in the shapes of their tensors, by name; without those of parameters that have
            other types by now.
        """
        now = {name: self._slots[name].tensor() for name in self._kept}
        return {name: self._kept[name].view(t.shape) for name, t in now.items() if t.dtype in COARSE}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Replace all remainders by copies of saved ones. Those of parameters that are not in 16 bit now are left out.

        Args:
            saved: what `state` gave.

        Raises:
            ConfigError: for a name or a shape that the model does not have.
        """
        kept = {}
        for name, values in saved.items():
            if name not in self._slots:
                raise ConfigError("remainder", name, "names of parameters that travel")
            tensor = self._slots[name].tensor()
            if values.shape != tensor.shape:
                raise ConfigError(name, f"a remainder of shape {list(values.shape)}", f"shape {list(tensor.shape)}")
            if tensor.dtype in COARSE:
                kept[name] = values.to(tensor.device, torch.float32, copy=True).reshape(-1)
        self._kept = kept


def split(values: Tensor, coarse: Tensor, rest: Tensor) -> None:
    """Put values into a 16-bit tensor, and what that is too coarse for into its remainder.

    The mean of two neighbouring 16-bit numbers lies in the middle of them, and peers that meet there differ in the last
    bits of a float32. These bits do not say how it is rounded, so that both have the same parameter.

    Args:
        values: what is to be held, in float32.
        coarse: overwritten by the nearest numbers of its type.
        rest: overwritten by the differences; 0 if a value is not finite there.
    """
    near = values.mul(1 + LAST_BITS * 2.0**-25).view(torch.int32)  # half of that more: what is cut off is rounded
    coarse.copy_(near.bitwise_and_(-LAST_BITS).view(torch.float32))
    torch.sub(values, coarse.float(), out=rest).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
