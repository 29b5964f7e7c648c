"""The state of a loop of any kind: what is saved, what is left out, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from p2p_elastic.checkpoint.loop_state import MODEL, LoopState, TrainingMemory
from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.outer_steps import OuterSteps
from p2p_elastic.rules.outer import Outer


class Counter:
    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def frozen_base() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def loop_of(model: nn.Module, others: dict[str, Any] | None = None) -> LoopState:
    trained = [p for p in model.parameters() if p.requires_grad]
    return LoopState(model, [torch.optim.AdamW(trained, lr=0.1)], others or {}, ParameterVector(model))


def loop_without_optimizer() -> LoopState:
    model = frozen_base()
    return LoopState(model, [], {}, ParameterVector(model))


def carried(first: LoopState, second: LoopState) -> set[str]:
    """From one to the other; the names of the tensors of the model that were in it."""
    states, tensors = first.copy()
    memory = TrainingMemory.model_validate_json(TrainingMemory(step=3, losses=(), states=states).model_dump_json())
    second.restore(memory, tensors)
    return set(tensors[MODEL])


def test_a_frozen_base_is_not_saved_and_all_else_is() -> None:
    first, second = frozen_base(), frozen_base()
    with torch.no_grad():
        first[2].weight.fill_(0.5)
    names = carried(loop_of(first), loop_of(second))
    assert {name.split(".")[0] for name in names} == {"1", "2"}
    assert torch.equal(second[2].weight, first[2].weight)


def test_what_was_frozen_later_is_saved() -> None:
    model = frozen_base()
    state = loop_of(model)
    model[2].requires_grad_(False)
    assert "2.weight" in carried(state, loop_of(frozen_base()))


def test_what_is_given_beside_goes_on() -> None:
    first, second = Counter(7), Counter()
    carried(loop_of(frozen_base(), {"counter": first}), loop_of(frozen_base(), {"counter": second}))
    assert second.count == 7


class WithExtra(nn.Linear):
    """Has a state that is no tensor."""

    def __init__(self, extra: int) -> None:
        super().__init__(2, 2)
        self.extra = extra

    def get_extra_state(self) -> dict[str, int]:
        return {"extra": self.extra}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.extra = state["extra"]


def test_an_extra_state_of_a_module_goes_on() -> None:
    second = WithExtra(0)
    carried(loop_of(WithExtra(5)), loop_of(second))
    assert second.extra == 5


def test_random_numbers_go_on() -> None:
    torch.manual_seed(1)
    state = loop_of(nn.Linear(1, 1))
    states, tensors = state.copy()
    expected = torch.rand(3)
    torch.rand(100)
    state.restore(TrainingMemory(step=1, losses=(), states=states), tensors)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (lambda: loop_of(nn.Linear(4, 2)), "its tensors are others, such as"),
        (lambda: loop_of(frozen_base(), {"scaler": Counter()}), r"given for \['scaler'\], the checkpoint has none"),
        (lambda: loop_without_optimizer(), "argument"),
    ],
    ids=["model", "state", "optimizers"],
)
def test_another_loop_is_refused_with_the_difference(other: Any, problem: str) -> None:
    with pytest.raises(
        ConfigError, match=f"resume: got 'step 3'; the model or its loop is another one here: .*{problem}"
    ):
        carried(loop_of(frozen_base()), other())


def test_an_outer_optimizer_goes_on_and_a_rank_without_one_leaves_it_alone() -> None:
    model, first, second = frozen_base(), Counter(7), Counter()
    vector = ParameterVector(model)
    carried(LoopState(model, [], {}, vector, first), LoopState(model, [], {}, vector, second))
    assert second.count == 7
    carried(LoopState(model, [], {}, vector, first), LoopState(model, [], {}, vector))


def test_an_outer_optimizer_without_a_state_is_not_in_a_checkpoint_and_none_is_gone_on_from() -> None:
    model = frozen_base()
    vector = ParameterVector(model)
    first, second = OuterSteps(vector), OuterSteps(vector)
    plain, idle = LoopState(model, [], {}, vector), LoopState(model, [], {}, vector, first)
    assert idle.copy()[0].keys() == plain.copy()[0].keys()
    second.use(Outer(0.7, 0.7))
    second.begin()
    carried(idle, LoopState(model, [], {}, vector, second))
    assert not second.on
