"""An optimizer that writes its own copies of the parameters back is noticed; no other one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.training.undone import MOVES, UndoneMoves


class WithMasters:
    """SGD on fp32 masters of bf16 parameters, as mixed-precision optimizers do it."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self.masters = [p.detach().float().clone() for p in self._parameters]
        self._sgd = torch.optim.SGD(self.masters, lr=0.01, momentum=0.9)

    def step(self) -> None:
        for master, parameter in zip(self.masters, self._parameters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        self._sgd.step()
        with torch.no_grad():
            for master, parameter in zip(self.masters, self._parameters, strict=True):
                parameter.copy_(master)

    def take_over(self) -> None:
        for master, parameter in zip(self.masters, self._parameters, strict=True):
            master.copy_(parameter.detach())


def train(model: nn.Module, optimizer: Any, moved: Callable[[], None] = lambda: None, size: float = 0.05) -> bool:
    vector = ParameterVector(model)
    watch = UndoneMoves(vector)
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    for step in range(40 * MOVES):
        inputs = torch.randn(8, 16, generator=generator).to(dtype)
        loss: Tensor = (model(inputs).float() - inputs.float().sum(1, keepdim=True)).square().mean()
        model.zero_grad()
        loss.backward()
        optimizer.step()
        watch.stepped()
        if step % 5 == 0:
            before = watch.look()
            vector.add_(size * torch.randn(vector.elements, generator=generator))
            watch.moved(before)
            moved()
    return watch.undone


def model_of(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 1)).to(dtype)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
        lambda p: torch.optim.Rprop(p),
    ],
    ids=["sgd", "adamw", "rmsprop", "rprop"],
)
@pytest.mark.parametrize("size", [1e-3, 0.05, 1.0])
def test_an_optimizer_without_copies_takes_no_move_back(optimizer: Any, size: float) -> None:
    model = model_of()
    assert not train(model, optimizer(model.parameters()), size=size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_with_masters_takes_all_back_unless_it_takes_the_parameters_over(dtype: torch.dtype) -> None:
    model = model_of(dtype)
    assert train(model, WithMasters(model))
    healed = model_of(dtype)
    optimizer = WithMasters(healed)
    assert not train(healed, optimizer, optimizer.take_over)
