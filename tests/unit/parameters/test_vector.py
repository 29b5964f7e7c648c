"""A model as one flat vector."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.parameters.vector import ParameterVector


def snapshot(model: nn.Module, exchange: Exchange = "trainable") -> Tensor:
    vector = ParameterVector(model, exchange)
    return vector.snapshot(vector.empty())


def convolutional() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Tied(nn.Module):
    """An embedding whose table is also the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight


class WithBuffers(nn.Module):
    """One parameter and a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("average", torch.full((3,), 5.0))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("cache", torch.full((9,), 6.0), persistent=False)


# ---------------------------------------------------------------- what is in it


def test_parameters_and_floating_buffers_are_in_integers_and_caches_are_out() -> None:
    assert snapshot(WithBuffers(), "all").tolist() == [1.0, 1.0, 5.0, 5.0, 5.0]


def test_by_default_a_buffer_stays_local_unless_it_is_a_running_statistic() -> None:
    assert snapshot(WithBuffers()).tolist() == [1.0, 1.0]


def test_batchnorm_statistics_are_in_and_its_counter_is_out() -> None:
    norm = nn.BatchNorm1d(2)
    norm.running_mean.copy_(torch.tensor([3.0, 4.0]))
    norm.running_var.copy_(torch.tensor([5.0, 6.0]))
    assert snapshot(norm).tolist() == [1.0, 1.0, 0.0, 0.0, 3.0, 4.0, 5.0, 6.0]


def test_tied_parameters_are_in_once_and_move_once() -> None:
    model = Tied()
    vector, before = ParameterVector(model), model.output.weight.detach().clone()
    assert vector.elements == 15
    vector.add_(torch.ones(15))
    assert torch.equal(model.embedding.weight, before + 1)
    assert model.output.weight is model.embedding.weight


def test_frozen_parameters_are_in_if_all_is_to_travel() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert ParameterVector(model, "all").elements == 6
    assert ParameterVector(model).elements == 2


def test_size_in_bytes_is_that_of_float32_on_the_wire() -> None:
    vector = ParameterVector(nn.Linear(3, 2).to(torch.bfloat16))
    assert (vector.elements, vector.nbytes, vector.empty().nbytes) == (8, 32, 32)
    assert vector.empty().dtype == torch.float32


@pytest.mark.parametrize("model", [nn.Sequential(), nn.ReLU(), nn.BatchNorm1d(3, affine=False)], ids=repr)
def test_a_model_with_nothing_to_train_is_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=f"model: got '{type(model).__name__}'; a model with at least one"):
        ParameterVector(model)


def test_complex_parameters_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64))
    with pytest.raises(ConfigError, match=r"0\.weight: got torch.complex64; real parameters"):
        ParameterVector(model)


# ---------------------------------------------------------------- round trips


def test_what_a_snapshot_holds_loads_into_another_model() -> None:
    source, target = (
        convolutional(),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)),
    )
    ParameterVector(target).load_(snapshot(source))
    assert torch.equal(snapshot(target), snapshot(source))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_move_is_added_where_it_belongs_and_nothing_else_changes() -> None:
    model = WithBuffers()
    ParameterVector(model, "all").add_(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert model.scale.tolist() == [2.0, 3.0]
    assert model.average.tolist() == [8.0, 9.0, 10.0]
    assert (int(model.count), bool(model.flag), model.cache.tolist()) == (7, True, [6.0] * 9)


def test_building_and_reading_does_not_change_the_model() -> None:
    model = convolutional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    snapshot(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_snapshot_is_a_copy() -> None:
    model = nn.Linear(2, 1)
    vector = ParameterVector(model)
    taken = vector.snapshot(vector.empty())
    before = taken.clone()
    vector.add_(torch.ones(3))
    assert torch.equal(taken, before)


@pytest.mark.parametrize(("share", "move", "expected"), [(0.5, 3.0, 1.5), (1.0, 3.0, 3.0), (0.0, math.nan, 0.0)])
def test_a_share_of_a_move_is_added(share: float, move: float, expected: float) -> None:
    model = nn.Linear(2, 1)
    vector = ParameterVector(model)
    before = vector.snapshot(vector.empty())
    vector.add_(torch.full((3,), move), share=share)
    assert torch.equal(vector.snapshot(vector.empty()), before + expected)


def test_a_move_keeps_the_parameters_their_gradients_and_the_optimizer_in_touch() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    weight = model.weight
    model(torch.ones(1, 2)).sum().backward()
    ParameterVector(model).add_(torch.ones(3))
    before = model.weight.detach().clone()
    optimizer.step()
    assert model.weight is weight
    assert weight.requires_grad
    assert torch.equal(model.weight, before - 1.0)


def test_a_running_variance_never_falls_below_zero() -> None:
    norm = nn.BatchNorm1d(2)  # variances of 1
    ParameterVector(norm).add_(torch.tensor([0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -3.0, -0.25]))
    assert norm.running_mean.tolist() == [-9.0, -9.0]
    assert norm.running_var.tolist() == [0.0, 0.75]


def test_channels_last_and_transposed_parameters_keep_their_places() -> None:
    model = nn.Conv2d(2, 2, 2).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(2, 2, 2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(snapshot(model), snapshot(plain))
    ParameterVector(model).add_(torch.arange(18.0))
    ParameterVector(plain).add_(torch.arange(18.0))
    assert torch.equal(model.weight, plain.weight)


def test_a_bfloat16_model_travels_as_float32_and_what_it_is_too_coarse_for_is_kept() -> None:
    model = nn.Linear(2, 1).to(torch.bfloat16)
    vector = ParameterVector(model)
    vector.load_(torch.tensor([1.0, 2.0, 3.0]))
    taken = vector.snapshot(vector.empty())
    assert (taken.dtype, taken.tolist()) == (torch.float32, [1.0, 2.0, 3.0])
    vector.add_(torch.tensor([0.5, 1e-6, -1.0]))
    assert model.weight.dtype == torch.bfloat16
    assert [p.flatten().tolist() for p in model.parameters()] == [[1.5, 2.0], [2.0]]
    torch.testing.assert_close(vector.snapshot(vector.empty()), torch.tensor([1.5, 2.000001, 2.0]), rtol=0, atol=1e-7)


# ---------------------------------------------------------------- a model that changes afterwards


def test_a_move_is_converted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p_elastic.parameters.flat.CONVERTED", 2)
    model = nn.Linear(3, 5).double()
    model.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    vector = ParameterVector(model)
    before, move = snapshot(model), torch.arange(vector.elements).float()
    vector.add_(move, share=0.5)
    torch.testing.assert_close(snapshot(model), before + 0.5 * move)


def test_a_model_that_changed_its_type_afterwards_is_still_followed() -> None:
    model = WithBuffers()
    vector = ParameterVector(model, "all")
    model.to(torch.float64)
    vector.add_(torch.ones(5))
    assert model.average.tolist() == [6.0, 6.0, 6.0]
    assert vector.snapshot(vector.empty()).tolist() == [2.0, 2.0, 6.0, 6.0, 6.0]


def test_parameters_and_buffers_that_were_replaced_afterwards_are_still_followed() -> None:
    model = WithBuffers()
    vector = ParameterVector(model, "all")
    model.average = torch.zeros(3)
    model.scale = nn.Parameter(torch.full((2,), 4.0))
    vector.add_(torch.ones(5))
    assert model.average.tolist() == [1.0, 1.0, 1.0]
    assert model.scale.tolist() == [5.0, 5.0]


# ---------------------------------------------------------------- schema


def schema(model: nn.Module) -> str:
    return ParameterVector(model).schema_hash


def test_equal_models_have_equal_schemas_whatever_their_values() -> None:
    assert schema(nn.Linear(3, 2)) == schema(nn.Linear(3, 2))
    assert len(schema(nn.Linear(3, 2))) == 32


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mass = nn.Parameter(torch.ones(2, 3))
        self.bias = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Linear(2, 3),  # other shapes
        lambda: nn.Linear(3, 2, bias=False),  # fewer
        lambda: nn.Sequential(nn.Linear(3, 2)),  # other names
        Renamed,
    ],
)
def test_other_names_or_shapes_make_another_schema(other: Callable[[], nn.Module]) -> None:
    assert schema(other()) != schema(nn.Linear(3, 2))


def test_another_type_is_no_other_schema() -> None:
    assert schema(nn.Linear(3, 2).to(torch.bfloat16)) == schema(nn.Linear(3, 2).double()) == schema(nn.Linear(3, 2))


def test_equally_many_numbers_in_another_shape_are_another_schema() -> None:
    wide, high = nn.Linear(4, 1, bias=False), nn.Linear(2, 2, bias=False)
    assert ParameterVector(wide).elements == ParameterVector(high).elements
    assert schema(wide) != schema(high)


def test_buffers_that_do_not_travel_do_not_count_for_the_schema() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.register_buffer("average", torch.zeros(3))

    assert ParameterVector(Plain(), "all").schema_hash == ParameterVector(WithBuffers(), "all").schema_hash


# -- flat storage ------------------------------------------------------------------------------------------------------


def flattened(model: nn.Module) -> ParameterVector:
    vector = ParameterVector(model)
    vector.flatten()
    return vector


def test_flattening_changes_neither_values_nor_identity_nor_training() -> None:
    model, twin = convolutional(), convolutional()
    parameters = list(model.parameters())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True) for m in (model, twin)]
    vector = flattened(model)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    images = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for one, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            one(images).square().sum().backward()
            optimizer.step()
    assert torch.equal(vector.snapshot(vector.empty()), snapshot(twin))


def test_parameters_lie_side_by_side_and_so_do_buffers_each_with_a_storage_of_its_own() -> None:
    model = convolutional()
    flattened(model)
    for tensors in (list(model.parameters()), [b for b in model.buffers() if b.is_floating_point()]):
        for before, after in itertools.pairwise(tensors):
            assert before.data_ptr() + before.nbytes == after.data_ptr()
        storages = [tensor.untyped_storage() for tensor in tensors]
        assert [storage.nbytes() for storage in storages] == [tensor.nbytes for tensor in tensors]
        assert len({storage.data_ptr() for storage in storages}) == len(tensors)


def test_a_flat_model_and_a_plain_one_give_and_take_the_same() -> None:
    flat, plain = convolutional(), convolutional()
    vectors = flattened(flat), ParameterVector(plain)
    move = torch.linspace(-1.0, 1.0, vectors[0].elements)
    for vector in vectors:
        vector.add_(move)
    assert torch.equal(*(vector.snapshot(vector.empty()) for vector in vectors))
    for vector in vectors:
        vector.load_(move.abs())
    assert torch.equal(snapshot(flat), snapshot(plain))


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("part", [(0, 1), (3, 50), (100, 137), (0, 138), (107, 108)])
def test_a_part_is_read_and_moved_and_the_rest_stays(part: tuple[int, int], flat: bool) -> None:
    model = convolutional()
    vector, before = flattened(model) if flat else ParameterVector(model), snapshot(model)
    assert vector.elements == 138
    values = vector.snapshot(vector.empty(part[1] - part[0]), part)
    assert torch.equal(values, before[slice(*part)])
    vector.add_(torch.ones(len(values)), part)
    before[slice(*part)] += 1.0
    assert torch.equal(snapshot(model), before)


@pytest.mark.parametrize("part", [(0, 5), (5, 100), (20, 108)])
def test_a_part_may_begin_in_the_middle_of_a_channels_last_tensor(part: tuple[int, int]) -> None:
    model = convolutional().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vector, before = flattened(model), snapshot(model)
    assert not model[0].weight.is_contiguous()  # type: ignore[index, union-attr, operator]
    assert torch.equal(vector.snapshot(vector.empty(part[1] - part[0]), part), before[slice(*part)])
    vector.add_(torch.ones(part[1] - part[0]), part)
    before[slice(*part)] += 1.0
    assert torch.equal(snapshot(model), before)


def test_a_model_that_was_moved_after_flattening_is_still_followed() -> None:
    model = convolutional()
    vector = flattened(model)
    model.double().float()  # other storages, and back
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert torch.equal(vector.snapshot(vector.empty()), snapshot(model))
    vector.add_(torch.ones(vector.elements))
    assert torch.equal(vector.snapshot(vector.empty()), snapshot(model))


def test_tied_parameters_stay_tied() -> None:
    model = Tied()
    flattened(model)
    assert model.output.weight is model.embedding.weight


def test_a_copy_of_a_flat_model_is_its_own() -> None:
    model = convolutional()
    vector = flattened(model)
    other, before = copy.deepcopy(model), snapshot(model)
    vector.add_(torch.ones(vector.elements))
    assert torch.equal(snapshot(other), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_snapshot_and_a_move_go_through_pinned_memory() -> None:
    model = convolutional().cuda()
    vector, before = flattened(model), snapshot(convolutional())
    out = vector.empty()
    assert out.is_pinned()
    vector.begin_snapshot(out)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # training goes on while it is copied
    vector.arrive()
    assert torch.equal(out, before)
    move = vector.bring(torch.ones(vector.elements).pin_memory())
    assert move.is_cuda
    vector.add_(move)
    after = before + 1.0
    after[: vector.trainable] += 1.0
    torch.testing.assert_close(vector.snapshot(vector.empty()), after)
