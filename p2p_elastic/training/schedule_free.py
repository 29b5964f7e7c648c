"""Schedule-free AdamW, and what any loop with a schedule-free optimizer needs when its parameters are moved.

Such an optimizer trains at y = (1 - b) z + b x, keeps z beside the parameters, and computes x, which is evaluated, from
y and z. A move that changed y alone would move x by 1 / b of it, and be taken back in the steps that follow; one that
changes y and z alike moves all three alike.

Source: Defazio et al., The Road Less Scheduled, arXiv 2405.15682, section 2 (its x, y and z). The optimizers are those
of https://github.com/facebookresearch/schedule_free, and so are the names in their state and groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.adamw import decaying
from p2p_elastic.tasks.base import OptimizerSettings

DEFAULT_LEARNING_RATE = 0.0025
"""The library's. Measured with 0.001, 0.0025, 0.01. mnist-small, validation loss after 400 steps, mean of three seeds:
0.346, 0.288, 0.232; AdamW with 0.001 and 0.003 0.315 and 0.263. stdlib-gpt, 8 examples a step, after 150 steps, one
seed: 2.57, 2.47, 2.88; AdamW 2.61 and 2.52.
"""
BESIDE = "z"  # in the state of a parameter
COUNTED: Mapping[str, Any] = MappingProxyType({"k": 0, "weight_sum": 0.0, "lr_max": -1.0})  # in a group, at its start


def build_schedule_free(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Build schedule-free AdamW; what is a vector (LayerNorm, biases) does not decay.

    Args:
        parameters: those that train.
        settings: of the peer.

    Returns:
        The optimizer; to be put in its `train` mode before the first step.

    Raises:
        ConfigError: if the library is not installed.
    """
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        need = "the package schedulefree: pip install 'p2p-elastic[schedule-free]'"
        raise ConfigError("optimizer", "schedule-free", need) from error
    built: torch.optim.Optimizer = AdamWScheduleFree(decaying(parameters, settings), lr=settings.learning_rate)
    return built


def switch(optimizer: torch.optim.Optimizer, mode: Literal["train", "eval"]) -> None:
    """Make the parameters y, at which it trains, or x, which is evaluated, if the optimizer is schedule-free.

    Args:
        optimizer: of any kind.
        mode: "train" or "eval".
    """
    change = getattr(optimizer, mode, None)
    if change is not None:
        change()


def forget(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Drop what optimizers gathered about parameters that were replaced.

    A schedule-free one counts its steps in its groups: without that count its averages would be taken for old ones, and
    the first steps would be many times too long.

    Args:
        optimizers: of any kind.
    """
    for optimizer in optimizers:
        optimizer.state.clear()
        for group in optimizer.param_groups:
            if COUNTED.keys() <= group.keys():
                group.update(COUNTED)


class _Before(NamedTuple):
    """A parameter before a move: y, which is changed in place, z of the same shape, and y as it was."""

    parameter: Tensor
    beside: Tensor
    values: Tensor


@contextmanager
def moving_along(optimizers: Sequence[torch.optim.Optimizer], *, waits: bool) -> Iterator[None]:
    """Move each z as its parameter is moved inside.

    Args:
        optimizers: of any kind; nothing is copied if none is schedule-free.
        waits: whether a move is expected; if not, nothing is done.

    Yields:
        Nothing.
    """
    before = list(_with_z(optimizers)) if waits else []
    yield
    with torch.no_grad():
        for parameter, beside, values in before:
            beside.add_(parameter.detach().to(beside.dtype) - values.to(beside.dtype))


def _with_z(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[_Before]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                beside = optimizer.state[parameter].get(BESIDE) if parameter in optimizer.state else None
                if isinstance(beside, Tensor) and beside.shape == parameter.shape:
                    yield _Before(parameter, beside, parameter.detach().clone())
