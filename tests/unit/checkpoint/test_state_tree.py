"""Nested states through JSON and tensors: nothing is lost, and nothing is executed."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from p2p_elastic.checkpoint.state_tree import pack, unpack
from p2p_elastic.errors import ConfigError


def through_json(state: object) -> Any:
    packed, tensors = pack(state, "own.thing")
    return unpack(json.loads(json.dumps(packed, allow_nan=False)), tensors)


@pytest.mark.parametrize(
    "state",
    [
        None,
        True,
        -7,
        2**200,
        1.5,
        math.inf,
        -math.inf,
        "text",
        b"\x00\xff",
        [],
        (),
        {},
        set(),
        [1, [2, (3, {4})]],
        {"a": 1, 0: 2, (1, 2): 3, None: 4, "0": 5},
        Counter({3: 2}),
        {"tensor": "not one", "dict": [1]},
    ],
    ids=repr,
)
def test_what_goes_in_comes_out(state: object) -> None:
    found = through_json(state)
    assert found == state
    assert type(found) is type(state)


def test_numbers_of_numpy_are_numbers_and_ordered_dicts_are_dicts() -> None:
    assert through_json({"x": np.float64(0.5), "n": np.int64(3)}) == {"x": 0.5, "n": 3}
    assert through_json(OrderedDict(b=1, a=2)) == {"b": 1, "a": 2}
    assert math.isnan(through_json(math.nan))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8]
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_tensors_keep_shape_type_and_values(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    given = torch.ones(shape).to(dtype)
    found = through_json({1: given, "1": given + given, "deep": [given.clone()]})
    assert torch.equal(found[1], given)
    assert torch.equal(found["1"], given + given)
    assert found["deep"][0].dtype is dtype


def test_what_was_packed_does_not_change_any_more() -> None:
    given = torch.zeros(3)
    packed, tensors = pack({"x": given}, "x")
    given += 1
    assert torch.equal(unpack(packed, tensors)["x"], torch.zeros(3))


def test_arrays_stay_arrays() -> None:
    state = np.random.RandomState(3)
    other = np.random.RandomState(4)
    other.set_state(through_json(state.get_state()))
    assert other.random_sample(5).tolist() == np.random.RandomState(3).random_sample(5).tolist()


class Holder:
    pass


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"a": [Holder()]}, "own.thing.a.0 is a Holder"),
        ({"f": print}, "own.thing.f is a builtin"),
        ({"d": torch.float32}, "own.thing.d is a dtype"),
        ({"p": Path("x")}, "own.thing.p is a"),
        ({"o": np.array([None])}, "own.thing.o is an array of object"),
        ({"s": torch.eye(2).to_sparse()}, "own.thing.s is a torch.sparse_coo tensor"),
        ({"m": torch.empty(2, device="meta")}, "own.thing.m is a torch.strided tensor on meta"),
    ],
)
def test_what_no_checkpoint_can_hold_is_named(state: object, named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        pack(state, "own.thing")
    assert named in str(raised.value)


def test_a_state_that_contains_itself_is_refused() -> None:
    state: list[Any] = []
    state.append(state)
    with pytest.raises(ConfigError, match="does it contain itself"):
        pack(state, "x")


@pytest.mark.parametrize("packed", [{"code": "x"}, {"dict": [], "tuple": []}, {}])
def test_what_is_no_state_is_refused(packed: Any) -> None:
    with pytest.raises(ValueError, match="a state has"):
        unpack(packed, {})


SCHEDULERS = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
    "multi-step": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 2, 5]),
    "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3),
}
if hasattr(torch.optim, "Adafactor"):  # since PyTorch 2.5
    OPTIMIZERS["adafactor"] = lambda p: torch.optim.Adafactor(p, 0.01)


def trains(optimizer: str, scheduler: str) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(1)
    model = nn.Linear(3, 1)
    made = OPTIMIZERS[optimizer](model.parameters())
    return model, made, SCHEDULERS[scheduler](made)


def train(parts: tuple[nn.Module, torch.optim.Optimizer, Any], steps: int) -> None:
    model, optimizer, scheduler = parts
    inputs = torch.arange(12.0).view(4, 3) / 12

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (model(inputs) - 1).square().mean()
        value.backward()
        return value

    for _ in range(steps):
        value = optimizer.step(loss)
        plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        scheduler.step(*([value.detach()] if plateau else []))


@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # SequentialLR's own, before PyTorch 2.5
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_schedule_goes_on_exactly(optimizer: str, scheduler: str) -> None:
    goes_on_exactly(optimizer, scheduler)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_goes_on_exactly(optimizer: str) -> None:
    goes_on_exactly(optimizer, "step")


def goes_on_exactly(optimizer: str, scheduler: str) -> None:
    whole, first, second = (trains(optimizer, scheduler) for _ in range(3))
    train(whole, 12)
    train(first, 7)
    for source, target in zip(first, second, strict=True):
        target.load_state_dict(through_json(source.state_dict()))
    train(second, 5)
    assert torch.equal(whole[0].weight, second[0].weight)  # type: ignore[arg-type]
    assert whole[1].param_groups[0]["lr"] == second[1].param_groups[0]["lr"]
