"""What of a model travels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.parameters.vector import ParameterVector


def names(model: nn.Module, exchange: Exchange = "trainable") -> list[str]:
    return [slot.name for slot in ParameterVector(model, exchange).slots]


class Masked(nn.Module):
    """A layer with a causal mask, a counter, a rotary table and a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("rotary", torch.ones(3, dtype=torch.complex64))
        self.register_buffer("cache", torch.ones(5), persistent=False)


def adapted() -> nn.Module:
    """A frozen layer, and one that trains."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def test_by_default_what_trains_travels_and_a_frozen_base_does_not() -> None:
    assert names(adapted()) == ["1.weight", "1.bias"]
    assert names(adapted(), "all") == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_by_default_constant_integer_and_complex_buffers_stay_local() -> None:
    assert names(Masked()) == ["linear.weight", "linear.bias"]
    assert names(Masked(), "all") == ["linear.weight", "linear.bias", "mask"]


class Lookalike(nn.Module):
    """A normalisation layer of someone's own."""

    def __init__(self, *, buffers: tuple[str, ...] = ("running_mean", "running_var")) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        for name in buffers:
            self.register_buffer(name, torch.ones(2))


@pytest.mark.parametrize(
    ("layer", "travel"),
    [
        (nn.BatchNorm1d(2), True),
        (nn.BatchNorm3d(2, affine=False), True),
        (nn.SyncBatchNorm(2), True),
        (nn.InstanceNorm2d(2, track_running_stats=True), True),
        (nn.InstanceNorm2d(2, affine=True, track_running_stats=True), True),
        (Lookalike(), True),
        (Lookalike(buffers=("running_mean",)), False),
        (nn.BatchNorm1d(2).requires_grad_(False), False),
        (Lookalike().requires_grad_(False), False),
    ],
    ids=repr,
)
def test_running_statistics_travel_if_their_layer_trains(layer: nn.Module, travel: bool) -> None:
    found = names(nn.Sequential(nn.Linear(2, 2), layer))
    assert [name for name in found if "running" in name] == (["1.running_mean", "1.running_var"] if travel else [])


def test_statistics_of_a_layer_without_parameters_travel_if_what_is_around_it_trains() -> None:
    base = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)).requires_grad_(False)
    head = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    assert names(nn.Sequential(base, head)) == ["1.0.weight", "1.0.bias", "1.1.0.running_mean", "1.1.0.running_var"]


def test_a_function_chooses_among_floating_point_tensors_by_name_and_value() -> None:
    asked = list[str]()

    def chosen(name: str, tensor: Tensor) -> bool:
        asked.append(name)
        return tensor.dim() == 2

    assert names(Masked(), chosen) == ["linear.weight", "mask"]
    assert asked == ["linear.weight", "linear.bias", "mask"]


@pytest.mark.parametrize("exchange", [["0.bias", "1.weight"], {"1.weight", "0.bias"}, ("1.weight", "0.bias")])
def test_names_choose_and_the_order_stays_that_of_the_model(exchange: list[str]) -> None:
    assert names(adapted(), exchange) == ["0.bias", "1.weight"]


def test_a_tied_parameter_may_be_chosen_by_its_second_name() -> None:
    model = nn.ModuleDict({"table": nn.Linear(2, 3, bias=False), "output": nn.Linear(2, 3, bias=False)})
    model["output"].weight = model["table"].weight
    assert names(model, ["output.weight"]) == ["table.weight"]


def test_a_name_that_the_model_has_not_is_refused_with_the_names_near_to_it() -> None:
    with pytest.raises(ConfigError, match=r"exchange: got '1\.wieght'; names .*, such as 1\.weight"):
        ParameterVector(adapted(), ["0.bias", "1.wieght"])


def test_names_of_what_cannot_travel_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"count: got torch\.int64; a floating-point tensor"):
        ParameterVector(Masked(), ["linear.weight", "count"])
    with pytest.raises(ConfigError, match=r"rotary: got torch\.complex64; real parameters"):
        ParameterVector(Masked(), ["linear.weight", "rotary"])
    with pytest.raises(ConfigError, match="exchange: got 'cache'"):
        ParameterVector(Masked(), ["linear.weight", "cache"])


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="exchange: got 'lora'; 'trainable', 'all', names, or a function"):
        ParameterVector(adapted(), "lora")


def test_a_model_of_which_nothing_trains_is_refused_with_what_to_do() -> None:
    model = adapted().requires_grad_(False)
    with pytest.raises(ConfigError, match=r"parameter that trains: all are frozen; call requires_grad_\(\)"):
        ParameterVector(model)
    assert ParameterVector(model, "all").elements == 30


@pytest.mark.parametrize("exchange", [[], ["mask"], lambda name, tensor: False])
def test_a_choice_without_parameters_is_refused(exchange: Exchange) -> None:
    with pytest.raises(ConfigError, match="a model with at least one floating-point parameter that travels"):
        ParameterVector(Masked(), exchange)


def test_a_frozen_parameter_in_the_memory_of_one_that_trains_travels_with_it() -> None:
    table = torch.arange(6.0).view(2, 3)
    model = nn.Module()
    model.first = nn.Parameter(table.t(), requires_grad=False)
    model.second = nn.Parameter(table)
    vector = ParameterVector(model)
    assert [slot.name for slot in vector.slots] == ["first"]
    vector.flatten()
    vector.add_(torch.ones(6))
    assert torch.equal(model.second, torch.arange(1.0, 7.0).view(2, 3))
    assert torch.equal(model.first, model.second.t())


def test_a_cache_that_is_a_view_of_some_of_a_parameter_is_named() -> None:
    model = nn.Linear(2, 4)
    model.register_buffer("rows", model.weight.detach()[:2], persistent=False)
    with pytest.raises(ConfigError, match="got 'a tensor with some of the memory of weight'") as caught:
        ParameterVector(model)
    assert caught.value.key == "rows"
