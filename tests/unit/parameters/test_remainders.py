"""16-bit parameters: no move is lost, and what one end gains the other loses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector, Part

SIXTEEN = (torch.bfloat16, torch.float16)


def model_of(values: Tensor, dtype: torch.dtype) -> nn.Module:
    """Two parameters in 16 bit."""
    half = len(values) // 2
    return nn.ParameterList([nn.Parameter(part.to(dtype, copy=True)) for part in (values[:half], values[half:])])


def values_of(vector: ParameterVector) -> Tensor:
    return vector.snapshot(vector.empty())


def parameters_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])


def exchange(one: ParameterVector, other: ParameterVector, rate: float, part: Part | None = None) -> None:
    """A symmetric exchange: both move by the same, in opposite directions."""
    a, b = values_of(one), values_of(other)
    delta = (b - a)[slice(*part)] if part else b - a
    one.add_(delta, part, share=rate)
    other.add_(-delta, part, share=rate)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 100.0]), dtype=st.sampled_from(SIXTEEN))
def test_a_pair_keeps_its_sum_and_meets_however_gently_it_moves(seed: int, scale: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    models = [model_of(scale * torch.randn(64, generator=generator), dtype) for _ in range(2)]
    vectors = [ParameterVector(model) for model in models]
    start = [parameters_of(model).double() for model in models]
    largest = max(float(parameters.abs().max()) for parameters in start)
    for _ in range(200):
        exchange(vectors[0], vectors[1], 0.05)
    end = [values_of(vector).double() for vector in vectors]
    assert float((sum(end) - sum(start)).abs().max()) <= 200 * 2**-24 * largest
    assert float((end[0] - end[1]).abs().max()) <= 2**-19 * largest
    # One value at both, to float32. Only if it lies where the type rounds up or down do its last bits say which.
    rounded = [parameters_of(model) for model in models]
    middle = (rounded[0] + rounded[1]).double() / 2
    assert bool(((rounded[0] == rounded[1]) | ((end[0] - middle).abs() <= 2**-15 * largest)).all())


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_a_pair_that_met_has_the_same_parameters_though_means_lie_in_the_middle(dtype: torch.dtype) -> None:
    starts = [torch.randn(1000, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    models = [model_of(start, dtype) for start in starts]
    vectors = [ParameterVector(model) for model in models]
    mean = (parameters_of(models[0]) + parameters_of(models[1])) / 2
    assert int((mean.to(dtype) != mean).sum()) > 300
    for _ in range(200):
        exchange(vectors[0], vectors[1], 0.05)
    assert int((parameters_of(models[0]) != parameters_of(models[1])).sum()) <= 5


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_two_values_one_step_apart_meet(dtype: torch.dtype, rate: float) -> None:
    one = torch.tensor([1.0, 3.0], dtype=dtype)
    other = one + torch.tensor([1.0, 2.0]).to(dtype) * torch.finfo(dtype).eps
    assert bool((one != other).all())
    models = [model_of(start, dtype) for start in (one, other)]
    vectors = [ParameterVector(model) for model in models]
    for _ in range(300):
        exchange(vectors[0], vectors[1], rate)
    torch.testing.assert_close(values_of(vectors[0]), values_of(vectors[1]), rtol=1e-6, atol=0)
    torch.testing.assert_close(values_of(vectors[0]), (one.float() + other.float()) / 2, rtol=1e-6, atol=0)
    assert torch.equal(parameters_of(models[0]), parameters_of(models[1]))


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_every_element_that_differs_moves_in_one_exchange(dtype: torch.dtype) -> None:
    models = [model_of(torch.randn(1000, generator=torch.Generator().manual_seed(n)), dtype) for n in range(2)]
    vectors = [ParameterVector(model) for model in models]
    before, wanted = values_of(vectors[0]), values_of(vectors[1])
    exchange(vectors[0], vectors[1], 0.05)
    torch.testing.assert_close(values_of(vectors[0]), before.lerp(wanted, 0.05))
    assert bool(((values_of(vectors[0]) != before) | (before == wanted)).all())


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("part", [(0, 3), (2, 9), (5, 6), (0, 10)])
def test_a_part_moves_with_its_remainder_and_the_rest_stays(part: Part, dtype: torch.dtype) -> None:
    models = [model_of(torch.linspace(-1, 1, 10) * (n + 1), dtype) for n in range(2)]
    vectors = [ParameterVector(model) for model in models]
    before, other = values_of(vectors[0]), values_of(vectors[1])
    exchange(vectors[0], vectors[1], 0.01, part)
    expected = before.clone()
    expected[slice(*part)] = before.lerp(other, 0.01)[slice(*part)]
    torch.testing.assert_close(values_of(vectors[0]), expected)
    taken = vectors[0].snapshot(vectors[0].empty(part[1] - part[0]), part)
    assert torch.equal(taken, values_of(vectors[0])[slice(*part)])


@pytest.mark.parametrize("flat", [False, True])
def test_a_channels_last_parameter_keeps_its_remainder_in_the_order_of_the_vector(flat: bool) -> None:
    model = nn.Conv2d(2, 3, 2).to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vector, before = ParameterVector(model), values_of(ParameterVector(model))
    if flat:
        vector.flatten()
    move = torch.linspace(1e-5, 2e-5, vector.elements)
    vector.add_(move)
    vector.add_(move[5:20], (5, 20))
    expected = before + move
    expected[5:20] += move[5:20]
    torch.testing.assert_close(values_of(vector), expected, rtol=0, atol=1e-7)
    assert vector.remainder()["weight"].shape == (3, 2, 2, 2)


def test_what_is_loaded_is_held_to_the_last_bit() -> None:
    vector = ParameterVector(model_of(torch.zeros(10), torch.bfloat16))
    values = torch.randn(10, generator=torch.Generator().manual_seed(0))
    vector.load_(values)
    assert torch.equal(values_of(vector), values)


def test_a_step_of_the_optimizer_leaves_the_remainder_as_it_is() -> None:
    model = model_of(torch.ones(2), torch.bfloat16)
    vector = ParameterVector(model)
    vector.add_(torch.full((2,), 1e-3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(values_of(vector), torch.full((2,), 2.001), rtol=0, atol=1e-7)


def test_there_is_a_remainder_from_the_first_move_on_and_of_16_bit_parameters_only() -> None:
    model = nn.Sequential(nn.Linear(2, 2).to(torch.bfloat16), nn.Linear(2, 2), nn.BatchNorm1d(2).to(torch.float16))
    vector = ParameterVector(model)
    vector.flatten()
    vector.snapshot(vector.empty())
    vector.add_(torch.ones(vector.elements), share=0.0)
    assert vector.remainder() == {}
    vector.add_(torch.ones(vector.elements))
    kept = vector.remainder()
    assert list(kept) == ["0.weight", "0.bias", "2.weight", "2.bias"]  # without running statistics
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    assert kept["0.weight"].shape == (2, 2)


def test_a_remainder_is_saved_and_restored() -> None:
    model, other = (model_of(torch.ones(4), torch.bfloat16) for _ in range(2))
    vector, resumed = ParameterVector(model), ParameterVector(other)
    vector.add_(torch.linspace(1e-4, 1e-2, 4))
    saved = {name: tensor.clone() for name, tensor in vector.remainder().items()}
    other.load_state_dict(model.state_dict())
    resumed.restore_remainder(saved)
    assert torch.equal(values_of(resumed), values_of(vector))
    resumed.add_(torch.ones(4))
    assert torch.equal(saved["0"], vector.remainder()["0"]), "it is a copy"
    resumed.restore_remainder({})
    assert torch.equal(values_of(resumed), parameters_of(other))


def test_a_remainder_of_another_model_is_refused() -> None:
    vector = ParameterVector(model_of(torch.ones(4), torch.bfloat16))
    with pytest.raises(ConfigError, match="remainder: got '7'; names of parameters that travel"):
        vector.restore_remainder({"7": torch.zeros(2)})
    with pytest.raises(ConfigError, match=r"1: got 'a remainder of shape \[3\]'; shape \[2\]"):
        vector.restore_remainder({"1": torch.zeros(3)})


def test_a_checkpoint_in_16_bit_is_read_by_a_model_in_32_bit_without_its_remainder() -> None:
    vector = ParameterVector(model_of(torch.ones(4), torch.float32))
    vector.restore_remainder({"0": torch.full((2,), 1e-3)})
    assert torch.equal(values_of(vector), torch.ones(4))
    assert vector.remainder() == {}


def test_a_parameter_that_became_wider_has_no_remainder_any_more() -> None:
    model = model_of(torch.ones(4), torch.bfloat16)
    vector = ParameterVector(model)
    vector.add_(torch.full((4,), 1e-3))
    model.float()
    assert torch.equal(values_of(vector), torch.ones(4))
    assert vector.remainder() == {}


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e6])
def test_a_value_that_is_not_finite_leaves_no_remainder(wrong: float) -> None:
    model = model_of(torch.ones(2), torch.float16)
    vector = ParameterVector(model)
    vector.add_(torch.tensor([wrong, 1e-4]))
    assert not bool(model[0].isfinite())  # type: ignore[index, operator]
    assert vector.not_finite() == ("0",)
    vector.load_(torch.ones(2))
    assert torch.equal(values_of(vector), torch.ones(2))


def test_values_are_tried_in_the_models_own_type() -> None:
    vector = ParameterVector(model_of(torch.ones(4), torch.bfloat16))
    vector.add_(torch.full((4,), 1e-3))
    tried = vector.views(values_of(vector))
    assert all(torch.equal(one, torch.ones(2, dtype=torch.bfloat16)) for one in tried.values())


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_numbers_of_the_type_leave_no_remainder_and_of_no_value_is_anything_lost(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    exact = torch.tensor([0.0, 1.0, -3.0, info.max, info.min, info.tiny, 0.1, -0.1]).to(dtype).float()
    between = torch.tensor([1e-9, -1e-30, math.pi, -math.e * 1e4, 1.0 + 2.0**-20, 0.1, info.tiny / 3, -65000.0])
    for values, is_exact in ((exact, True), (between, False)):
        model = model_of(torch.zeros(8), dtype)
        model.scalar = nn.Parameter(torch.tensor(0.0, dtype=dtype))
        vector = ParameterVector(model)
        vector.load_(torch.cat([values, torch.tensor([1.0])]))
        assert torch.equal(values_of(vector)[:8], values)
        assert bool(torch.cat(list(vector.remainder().values())[:2]).any()) is not is_exact


def test_a_remainder_is_kept_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p_elastic.parameters.flat.IN_CACHE", 2)
    vector = ParameterVector(nn.Linear(3, 5).to(torch.bfloat16))
    before, move = values_of(vector), torch.linspace(0, 1e-3, vector.elements)
    vector.add_(move, share=0.5)
    torch.testing.assert_close(values_of(vector), before + 0.5 * move, rtol=0, atol=1e-7)
