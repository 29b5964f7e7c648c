"""What optimizers keep beside the parameters, and what has to move with them.

Schedule-free optimizers train at y = (1 - b) z + b x, keep z beside the parameters, and compute x, which is evaluated,
from y and z. A move that changed y alone would move x by 1 / b of it, and be taken back in the steps that follow; one
that changes y and z alike moves all three alike.

Source: Defazio et al., The Road Less Scheduled, arXiv 2405.15682, section 2 (its x, y and z).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BESIDE = "z"
"""Under which a schedule-free optimizer has z in its state (https://github.com/facebookresearch/schedule_free)."""


class Before(NamedTuple):
    """A parameter before a move.

    Attributes:
        parameter: y, any shape; it is changed in place.
        beside: z, of the same shape.
        values: y as it was.
    """

    parameter: Tensor
    beside: Tensor
    values: Tensor


def look(optimizers: Sequence[torch.optim.Optimizer]) -> list[Before]:
    """Copy the parameters that have a z, before a move.

    Args:
        optimizers: of any kind.

    Returns:
        The copies; empty, and nothing is copied, if no optimizer is schedule-free.
    """
    found = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                beside = optimizer.state[parameter].get(BESIDE) if parameter in optimizer.state else None
                if isinstance(beside, Tensor) and beside.shape == parameter.shape:
                    found.append(Before(parameter, beside, parameter.detach().clone()))
    return found


@torch.no_grad()
def follow(before: Sequence[Before]) -> None:
    """Move each z as its parameter was moved.

    Args:
        before: as `look` found it, right before the move.
    """
    for parameter, beside, values in before:
        beside.add_(parameter.detach().to(beside.dtype) - values.to(beside.dtype))
