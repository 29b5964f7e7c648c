"""AdamW as a peer trains with it: by name, and in tasks that bring it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from p2p_elastic.tasks.base import OptimizerSettings

DEFAULT_LEARNING_RATE = 0.001
"""PyTorch's."""
BETAS = (0.9, 0.95)


def build_adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Build AdamW; what is a vector (LayerNorm, biases) does not decay.

    Args:
        parameters: those that train.
        settings: of the peer.

    Returns:
        The optimizer.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101.
    """
    return torch.optim.AdamW(decaying(parameters, settings), lr=settings.learning_rate, betas=BETAS)


def decaying(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Part parameters into those that decay and vectors, which do not.

    Args:
        parameters: those that train.
        settings: of the peer.

    Returns:
        One or two groups of an optimizer.
    """
    given = list(parameters)
    matrices = {"params": [p for p in given if p.dim() > 1], "weight_decay": settings.weight_decay or 0.0}
    vectors = {"params": [p for p in given if p.dim() <= 1], "weight_decay": 0.0}
    return [group for group in (matrices, vectors) if group["params"]]
