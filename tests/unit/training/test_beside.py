"""What optimizers keep beside the parameters moves with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p_elastic.training.beside import follow, look

B, RATE, WHERE = 0.9, 0.1, torch.tensor([3.0, -2.0])
MOVE = torch.tensor([0.5, 4.0])


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (arXiv 2405.15682, equations 3 to 5): the parameters are y, and x is computed of y and z."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            group["steps"] += 1
            for y in group["params"]:
                z = self.state[y].setdefault("z", y.detach().clone())
                x = self.x(y)
                z.sub_(y.grad, alpha=RATE)
                x = x + (z - x) / group["steps"]
                y.copy_((1.0 - B) * z + B * x)

    def x(self, y: Tensor) -> Tensor:
        """What is evaluated."""
        return (y.detach() - (1.0 - B) * self.state[y]["z"]) / B


def descend(y: Tensor, optimizer: ScheduleFree, towards: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        ((y - towards) ** 2).sum().backward()
        optimizer.step()


def moved(*, followed: bool) -> tuple[Tensor, Tensor]:
    """y and x in a world that was moved together with y half way, relative to one in which nothing happened."""
    found = []
    for moves in (True, False):
        y = torch.zeros(2, requires_grad=True)
        optimizer = ScheduleFree([y])
        descend(y, optimizer, WHERE, 5)
        if moves:
            before = look([optimizer])
            with torch.no_grad():
                y.add_(MOVE)
            if followed:
                follow(before)
        descend(y, optimizer, WHERE + MOVE if moves else WHERE, 5)
        found.append((y.detach(), optimizer.x(y)))
    return found[0][0] - found[1][0], found[0][1] - found[1][1]


def test_a_move_takes_all_of_a_schedule_free_optimizer_along() -> None:
    for shift in moved(followed=True):
        assert torch.allclose(shift, MOVE, atol=1e-5)


def test_otherwise_what_is_evaluated_would_go_elsewhere() -> None:
    y, x = moved(followed=False)
    assert float((x - MOVE).norm()) > 0.05 * float(MOVE.norm())
    assert float((y - MOVE).norm()) > 0.05 * float(MOVE.norm())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_nothing_is_copied_for_other_optimizers(kind: Any) -> None:
    y = torch.zeros(2, requires_grad=True)
    optimizer = kind([y], lr=0.1)
    y.sum().backward()
    optimizer.step()
    assert look([optimizer]) == []


def test_a_z_of_another_shape_is_something_else() -> None:
    y = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([y], lr=0.1)
    optimizer.state[y]["z"] = torch.zeros(3)
    assert look([optimizer]) == []
