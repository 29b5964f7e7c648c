"""A task is tried before it is trained: what is wrong with it is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import TASKS, Data, Recipe, Split, Task, cross_entropy, load_data, no_metrics
from p2p_elastic.tasks.checking import check_task

POINTS = Split(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)


def task_of(**changes: Any) -> Task:
    given: dict[str, Any] = {
        "name": "points",
        "model": lambda: nn.Linear(2, 2),
        "data": lambda _: Data(POINTS),
        "recipe": Recipe(4, 0.1),
    }
    return Task(**{**given, **changes})


def broken(model: nn.Module, batch: Any) -> Any:
    raise KeyError("inputs")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "My Task"}, r"task: got 'My Task'; a name of small letters"),
        ({"data": lambda _: [1, 2]}, r"data: got 'list'; .* a Data"),
        ({"loss": broken}, r"task: got 'points'; .*test_checking\.py, line \d+: KeyError: 'inputs'"),
        ({"loss": lambda m, b: cross_entropy(m, b).mean()}, r"loss: got \[\]; .* a tensor \[B\]"),
        ({"loss": lambda _m, _b: 1.0}, r"loss: got 'float'; .* a tensor \[B\]"),
        ({"loss": lambda m, b: cross_entropy(m, b) * torch.inf}, r"loss: got .*; of a fresh model .* finite"),
        ({"loss": lambda _m, b: b[0].sum(dim=1)}, r"loss: got 'a constant'; one with a gradient"),
        ({"metrics": lambda _m, _b: 0.5}, r"metrics: got 'float'"),
        ({"metrics": lambda _m, _b: {"loss": (1, 1)}}, r"metrics: got 'loss'"),
        ({"metrics": lambda _m, _b: {"a\nb": (1, 1)}}, r"metrics: got 'a\\nb'"),
        ({"metrics": lambda _m, _b: {"f1": 0.5}}, r"metrics: got 0.5; f1 of task points: \(sum, count\)"),
    ],
)
def test_a_task_that_cannot_be_trained_is_refused_with_the_reason(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_data(task_of(**changes), None)


def test_a_task_without_metrics_and_splits_passes_and_random_numbers_stay() -> None:
    before = torch.get_rng_state()
    data = load_data(task_of(metrics=no_metrics), None)
    assert (data.validation, data.test) == (None, None)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["digits"])
def test_built_in_tasks_pass(name: str) -> None:
    check_task(TASKS[name], TASKS[name].load(None))
