"""What becomes of a model, and of its vector, afterwards: its own storage, late ties, replaced layers, and NaN."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model
from safetensors.torch import save_model as save_with_safetensors
from torch import nn
from torch.nn.utils import parametrizations

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector


def model_of(width: int = 64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 4))


def flattened(model: nn.Module) -> ParameterVector:
    vector = ParameterVector(model)
    vector.flatten()
    return vector


def bytes_of(layer: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    return len(file.getvalue())


# -- storage of its own -----------------------------------------------------------------------------------------------


def test_a_file_of_one_layer_is_small_and_safetensors_finds_every_tensor(tmp_path: Path) -> None:
    model = model_of(10_000)
    small = bytes_of(model[2])  # type: ignore[index, operator, arg-type]
    vector, before = ParameterVector(model), {name: t.clone() for name, t in model.state_dict().items()}
    vector.flatten()
    assert bytes_of(model[2]) == small  # type: ignore[index, operator, arg-type]
    save_with_safetensors(model, str(tmp_path / "model.safetensors"))
    fresh = model_of(10_000)
    load_model(fresh, tmp_path / "model.safetensors")
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_vector_goes_on_after_its_model_was_given_other_memory() -> None:
    model = model_of()
    parameters = list(model.parameters())
    vector = flattened(model)
    before = vector.snapshot(vector.empty())
    for parameter in parameters:
        parameter.data = parameter.data.clone()
    vector.add_(torch.ones(vector.elements))
    assert torch.equal(vector.snapshot(vector.empty()), before + 1)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    vector.flatten()
    vector.add_(torch.ones(vector.elements))
    assert torch.equal(vector.snapshot(vector.empty()), before + 1 + 1)


def test_ties_stay_ties_in_the_memory_of_the_vector() -> None:
    table = torch.arange(6.0).view(2, 3)
    model = nn.Module()
    model.one, model.other = nn.Parameter(table), nn.Parameter(table.t())
    flattened(model)
    with torch.no_grad():
        model.one.add_(1)
    assert torch.equal(model.other, model.one.t())


def test_a_recurrent_layer_keeps_its_weights_where_they_are() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 4))
    places = [p.data_ptr() for p in model[1].parameters()]
    flattened(model)
    assert [p.data_ptr() for p in model[1].parameters()] == places


# -- changed afterwards -----------------------------------------------------------------------------------------------


class Language(nn.Module):
    """An embedding, and an output layer that may be tied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)

    def tie_weights(self) -> None:
        self.output.weight = self.embedding.weight


CHANGES: dict[str, tuple[Callable[[Language], object], str, str]] = {
    "tied": (Language.tie_weights, "output.weight", "tied to embedding.weight meanwhile"),
    "tied memory": (
        lambda m: setattr(m.output.weight, "data", m.embedding.weight.data),
        "output.weight",
        "tied to embedding.weight meanwhile",
    ),
    "another layer": (
        lambda m: setattr(m, "output", nn.Linear(3, 5)),
        "output.weight",
        "of a layer that was replaced",
    ),
    "another shape": (
        lambda m: setattr(m.output, "weight", nn.Parameter(torch.ones(6, 3))),
        "output.weight",
        r"of shape \[6, 3\] by now",
    ),
    "parametrized": (
        lambda m: parametrizations.weight_norm(m.output),
        "output.weight",
        "no parameter or buffer any more",
    ),
    "removed": (lambda m: delattr(m.output, "weight"), "output.weight", "no parameter or buffer any more"),
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_that_would_be_missed_is_named(kind: str, flat: bool) -> None:
    model = Language()
    vector = flattened(model) if flat else ParameterVector(model)
    change, key, got = CHANGES[kind]
    change(model)
    for use in (
        lambda: vector.snapshot(vector.empty()),
        lambda: vector.add_(torch.ones(vector.elements)),
        lambda: vector.load_(torch.ones(vector.elements)),
    ):
        with pytest.raises(ConfigError, match=f"{got}.*; the model as it was: change layers and tie weights") as caught:
            use()
        assert caught.value.key == key


def test_a_layer_that_was_compiled_or_made_parallel_meanwhile_is_the_same_layer() -> None:
    model = model_of()
    vector = flattened(model)
    before = vector.snapshot(vector.empty())
    model[0], model[2] = torch.compile(model[0]), nn.DataParallel(model[2])  # type: ignore[index, operator, arg-type]
    vector.add_(torch.ones(vector.elements))
    assert torch.equal(vector.snapshot(vector.empty()), before + 1)


# -- not finite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_that_are_not_finite_are_named_and_no_others(dtype: torch.dtype, wrong: float, flat: bool) -> None:
    model = model_of().to(dtype)
    vector = flattened(model) if flat else ParameterVector(model)
    assert vector.not_finite() == ()
    with torch.no_grad():
        model[2].bias[1] = wrong  # type: ignore[index, operator]
    assert vector.not_finite() == ("2.bias",)
    with torch.no_grad():
        model[0].weight[3] = -wrong  # type: ignore[index, operator]
        model[1].running_var[0] = wrong  # type: ignore[index, operator]
    assert vector.not_finite() == ("0.weight", "2.bias", "1.running_var")


def test_finite_values_whose_sum_is_not_are_finite() -> None:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, 3e38)
    vector = flattened(model)
    assert vector.not_finite() == ()
    assert vector.not_finite(torch.full((6,), 3e38)) == ()


def test_a_partners_values_are_looked_at_by_the_same_names() -> None:
    vector = ParameterVector(model_of())
    values = torch.zeros(vector.elements)
    values[vector.slots[1].start] = math.nan
    assert vector.not_finite(values) == ("0.bias",)
