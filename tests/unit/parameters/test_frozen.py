"""A hash of the base that does not travel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from p2p_elastic.parameters.vector import ParameterVector


def base(change: Callable[[nn.Module], object] = lambda model: None) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    model[0].requires_grad_(False)
    change(model)
    return ParameterVector(model).frozen_hash


def nudge(model: nn.Module) -> None:
    model[0].bias.data[3] += 1e-6  # type: ignore[index, operator]


def transpose(model: nn.Module) -> None:
    weight = model[0].weight  # type: ignore[index, operator]
    weight.data = weight.detach().t().contiguous().t()


def test_it_is_empty_if_every_parameter_travels() -> None:
    assert ParameterVector(nn.Linear(2, 2)).frozen_hash == ""


def test_the_same_base_has_the_same_hash_and_another_base_another() -> None:
    assert base() == base()
    assert len(base()) == 32
    assert base() != base(nudge)
    assert base() != base(lambda model: model.to(torch.bfloat16))
    assert base() != base(lambda model: model[0].bias.requires_grad_(True))  # type: ignore[index, operator]


def test_neither_what_trains_nor_how_values_lie_in_memory_nor_a_wrapper_matters() -> None:
    assert base() == base(lambda model: nn.init.zeros_(model[1].weight))  # type: ignore[index, operator]
    assert base() == base(transpose)
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    assert ParameterVector(nn.DataParallel(model)).frozen_hash == ParameterVector(model).frozen_hash


def test_large_tensors_are_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = base(lambda model: model.to(torch.bfloat16)), base(), base(transpose)
    monkeypatch.setattr("p2p_elastic.parameters.frozen.PIECE_BYTES", 20)  # less than a row
    assert (base(lambda model: model.to(torch.bfloat16)), base(), base(transpose)) == whole
    monkeypatch.setattr("p2p_elastic.parameters.frozen.PIECE_BYTES", 100)  # some rows
    assert base() == whole[1]


@pytest.mark.filterwarnings("ignore:(Sparse|.*nested):UserWarning")
@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, dtype=torch.int8),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.tensor(True),
        torch.ones(0),
        torch.ones(2, 2).to_sparse(),
        torch.ones(3).expand(2, 3),
        torch.ones(2, device="meta"),
    ],
    ids=lambda value: f"{value.dtype}, {value.layout}, {value.device}",
)
def test_frozen_parameters_of_any_kind_are_hashed(value: torch.Tensor) -> None:
    model = nn.Linear(2, 2)
    model.table = nn.Parameter(value, requires_grad=False)
    vector = ParameterVector(model)
    assert vector.elements == 6
    assert len(vector.frozen_hash) == 32
    if value.numel() and not value.is_meta and value.layout == torch.strided:
        model.table = nn.Parameter(torch.zeros_like(value), requires_grad=False)
        assert ParameterVector(model).frozen_hash != vector.frozen_hash


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_is_the_same_on_a_gpu() -> None:
    assert base(lambda model: model.cuda()) == base()
