"""Which tensors can be exchanged, and tensors that share memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor, nn
from torch.func import functional_call

from p2p_elastic.checkpoint.loop_state import TrainingMemory
from p2p_elastic.checkpoint.store import Content, Store
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.results import save_model
from p2p_elastic.parameters.slots import copy_model
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.workers import Optimization


class Holder(nn.Module):
    """A parameter, and a second tensor."""

    def __init__(self, other: Tensor, *, buffer: bool) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(2, 2))
        if buffer:
            self.register_buffer("other", other)
        else:
            self.other = other if isinstance(other, nn.Parameter) else nn.Parameter(other, requires_grad=False)


class Wrapped(Tensor):
    """A subclass that does its own arithmetic, as DTensor and quantized weights do."""

    @staticmethod
    def __new__(cls) -> Wrapped:
        return torch.ones(2, 2).as_subclass(cls)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return args[0]


class Plain(Tensor):
    """A subclass that is memory like any other."""


def made_in_inference_mode() -> Tensor:
    with torch.inference_mode():
        return torch.ones(2)


def freed() -> Tensor:
    tensor = torch.ones(2)
    tensor.untyped_storage().resize_(0)
    return tensor


def negated(numbers: Tensor) -> Tensor:
    """A view of every second number with the opposite sign, which the memory does not have."""
    view = torch.view_as_complex(numbers.view(-1, 2)).conj().imag
    assert view.is_neg()
    return view


REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "tensors of one shape each"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "tensors of one shape each",
    ),
    "wrapped": (Wrapped, "before it is sharded or quantized"),
    "sparse": (lambda: torch.eye(2).to_sparse(), r"use \.to_dense\(\)"),
    "compressed": (lambda: torch.eye(2).to_sparse_csr(), r"use \.to_dense\(\)"),
    "meta": (lambda: torch.ones(2, device="meta"), r"materialize the model first: model\.to_empty"),
    "inference": (made_in_inference_mode, r"outside of torch\.inference_mode"),
    "freed": (freed, "gather it first"),
    "float8": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "float16, bfloat16: cast it .* or keep it local"),
    "expanded": (lambda: torch.ones(1, 3).expand(2, 3), r"use \.contiguous\(\), or \.clone\(\)"),
    "rows over rows": (lambda: torch.ones(6).as_strided((4, 3), (1, 1)), r"use \.contiguous\(\), or \.clone\(\)"),
}


@pytest.mark.filterwarnings("ignore:(Sparse|.*nested):UserWarning")  # that these kinds are not finished
@pytest.mark.parametrize("buffer", [False, True], ids=["parameter", "buffer"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_exchanged_is_named_at_once_with_what_to_do(kind: str, buffer: bool) -> None:
    make, advice = REFUSED[kind]
    with pytest.raises(ConfigError, match=advice) as caught:
        ParameterVector(Holder(make(), buffer=buffer), "all")
    assert caught.value.key == "other"
    ParameterVector(Holder(make(), buffer=buffer))  # what is frozen, and a buffer, stays local


def test_a_complex_parameter_is_refused_if_it_trains_and_stays_local_if_not_as_a_complex_buffer_does() -> None:
    model = Holder(torch.ones(2, dtype=torch.complex64), buffer=False)
    model.register_buffer("rotary", torch.ones(3, dtype=torch.complex64))
    for exchange in ("trainable", "all"):
        assert ParameterVector(model, exchange).elements == 4  # type: ignore[arg-type]
    model.other.requires_grad_(True)  # type: ignore[operator]
    for exchange in ("trainable", "all"):
        with pytest.raises(ConfigError, match=r"other: got torch\.complex64; real parameters"):
            ParameterVector(model, exchange)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")  # of PyTorch 2.3
@pytest.mark.parametrize(("at", "name"), [(1, "1.weight"), (2, "2.running_mean")])
def test_a_lazy_layer_is_named_before_its_first_forward_pass_and_travels_after_it(at: int, name: str) -> None:
    lazy = {1: nn.LazyLinear(3), 2: nn.LazyBatchNorm1d(affine=False)}
    model = nn.Sequential(nn.Linear(4, 4), *(lazy[at] if n == at else nn.Identity() for n in lazy))
    with pytest.raises(ConfigError, match="got 'a lazy tensor, still without a shape'; run one forward pass") as caught:
        ParameterVector(model)
    assert caught.value.key == name
    model(torch.ones(2, 4))
    assert ParameterVector(model).elements == 20 + {1: 15, 2: 8}[at]


def test_a_model_of_integers_has_nothing_to_train() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="a model with at least one floating-point parameter"):
        ParameterVector(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_two_devices_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1\.weight: got 'cuda:0'; all on one device: 0\.weight is on cpu"):
        ParameterVector(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).cuda()))


TRAVELS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.arange(12.0).view(3, 4).t(),
    "with gaps": lambda: torch.arange(24.0).view(3, 8)[:, ::2],
    "rows between rows": lambda: torch.arange(9.0).as_strided((2, 3), (3, 2)),
    "channels-last": lambda: torch.arange(16.0).view(1, 4, 2, 2).to(memory_format=torch.channels_last),
    "no elements": lambda: torch.ones(0, 3),
    "no dimension": lambda: torch.tensor(2.0),
    "double": lambda: torch.arange(3.0, dtype=torch.float64),
    "subclass": lambda: torch.arange(3.0).as_subclass(Plain),
    "negated": lambda: negated(torch.arange(6.0)),
    "integers": lambda: torch.arange(3),
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("buffer", [False, True], ids=["parameter", "buffer"])
@pytest.mark.parametrize("kind", TRAVELS)
def test_what_is_memory_of_its_own_travels_however_it_lies_there(kind: str, buffer: bool, flat: bool) -> None:
    model, before = Holder(TRAVELS[kind](), buffer=buffer), TRAVELS[kind]()
    vector = ParameterVector(model, "all")
    if flat:
        vector.flatten()
    moved = before.is_floating_point()
    assert vector.elements == 4 + before.numel() * moved
    taken = vector.snapshot(vector.empty())
    assert torch.equal(taken[4:], before.flatten().float() if moved else torch.empty(0))
    vector.add_(torch.ones(vector.elements))
    assert torch.equal(model.other.detach(), before + int(moved))  # type: ignore[operator]


# -- tensors that share memory ----------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Two layers; the second one's weight is made of the first one's."""

    def __init__(self, of: Callable[[Tensor], Tensor], *, buffer: bool = False, later: bool = False) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Module(), nn.Module(), nn.Module()
        self.last.bias = nn.Parameter(torch.zeros(3))
        table = torch.arange(12.0).view(4, 3)
        self.one.weight = nn.Parameter(table)
        if buffer:
            self.other.register_buffer("weight", of(table))
        elif later:  # the view comes first
            self.one.weight, self.other.weight = nn.Parameter(of(table)), nn.Parameter(table)
        else:
            self.other.weight = nn.Parameter(of(table))

    def forward(self, inputs: Tensor) -> Tensor:
        one, other = self.one.weight.reshape(4, 3), self.other.weight.reshape(4, 3)
        return inputs @ one.t() @ other + self.last.bias  # type: ignore[no-any-return]


TIES: dict[str, Callable[[], Tied]] = {
    "same": lambda: Tied(lambda table: table.data),
    "detached": lambda: Tied(lambda table: table.detach()),
    "transposed": lambda: Tied(lambda table: table.t()),
    "transposed first": lambda: Tied(lambda table: table.t(), later=True),
    "reshaped": lambda: Tied(lambda table: table.view(2, 6)),
    "buffer": lambda: Tied(lambda table: table.detach(), buffer=True),
}


def memory(tensor: Tensor) -> set[int]:
    """The addresses of the elements."""
    offsets = torch.arange(tensor.untyped_storage().nbytes() // 4).as_strided(
        tensor.shape, tensor.stride(), tensor.storage_offset()
    )
    return {tensor.untyped_storage().data_ptr() + 4 * int(offset) for offset in offsets.flatten()}


def tied(model: nn.Module) -> bool:
    one, other = model.one.weight.detach(), model.other.weight.detach()
    same = one.sum() == other.sum() and len(set(one.flatten().tolist()) ^ set(other.flatten().tolist())) == 0
    return bool(same) and memory(one) == memory(other)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", TIES)
def test_shared_memory_travels_once_and_stays_shared(kind: str, flat: bool) -> None:
    model = TIES[kind]()
    objects = [model.one.weight, model.other.weight]
    shapes, before = [t.shape for t in objects], [t.detach().clone() for t in objects]
    vector = ParameterVector(model)
    assert vector.elements == 15
    if flat:
        vector.flatten()
    vector.add_(torch.ones(15))
    assert model.one.weight is objects[0]
    assert model.other.weight is objects[1]
    assert [t.shape for t in objects] == shapes
    assert all(torch.equal(now, then + 1) for now, then in zip(objects, before, strict=True))
    assert tied(model)
    assert torch.equal(vector.snapshot(vector.empty())[:12], objects[0].detach().flatten())
    with torch.no_grad():
        model.other.weight.mul_(2)  # an optimizer's step
    assert torch.equal(vector.snapshot(vector.empty())[:12], objects[0].detach().flatten())
    assert tied(model)


def test_a_tie_counts_for_the_schema_under_its_first_name_as_one_object_under_two_names_does() -> None:
    model, one_object = TIES["same"](), TIES["same"]()
    one_object.other.weight = one_object.one.weight
    apart = TIES["same"]()
    apart.other.weight = nn.Parameter(apart.one.weight.detach().clone())
    hashes = [ParameterVector(m).schema_hash for m in (model, one_object, apart)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", TIES)
def test_what_another_type_or_device_parted_is_joined_again(kind: str, flat: bool) -> None:
    model = TIES[kind]()
    vector = ParameterVector(model)
    if flat:
        vector.flatten()
    model.double().float()
    assert not tied(model)
    vector.add_(torch.ones(15))
    assert tied(model)


def test_a_tie_survives_another_memory_format() -> None:
    kernel = torch.arange(16.0).view(1, 4, 2, 2)
    model = nn.Module()
    model.one, model.other = nn.Parameter(kernel), nn.Parameter(kernel.view(4, 4).t())
    vector, before = ParameterVector(model), model.other.detach().clone()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vector.add_(torch.ones(16))
    assert torch.equal(model.other, before + 1)
    assert torch.equal(model.one, kernel.new_tensor(range(1, 17)).view(1, 4, 2, 2))
    assert memory(model.one) == memory(model.other)


@pytest.mark.parametrize("kind", TIES)
def test_a_copy_of_the_model_is_its_own_and_has_the_same_ties(kind: str) -> None:
    model = TIES[kind]()
    other = copy_model(model)
    assert tied(other)
    ParameterVector(other).add_(torch.ones(15))
    assert tied(other)
    assert torch.equal(model.one.weight.flatten().sort().values, torch.arange(12.0))


@pytest.mark.parametrize("kind", TIES)
def test_other_values_are_tried_under_all_names(kind: str) -> None:
    model, inputs = TIES[kind](), torch.arange(6.0).view(2, 3)
    vector = ParameterVector(model)
    values = torch.linspace(-1, 1, 15)
    tried = functional_call(model, vector.views(values), (inputs,))
    vector.load_(values)
    torch.testing.assert_close(tried, model(inputs))


APART: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "rows beside rows": lambda table: (table[:2], table[2:]),
    "columns between columns": lambda table: (table[:, ::2], table[:, 1::2]),
    "one element each": lambda table: (table[0, 0], table[0, 1]),
    "nothing and all": lambda table: (table[:0], table),
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", APART)
def test_different_parts_of_one_storage_are_tensors_of_their_own(kind: str, flat: bool) -> None:
    model = nn.ParameterList([nn.Parameter(part) for part in APART[kind](torch.arange(16.0).view(4, 4))])
    before = [p.detach().clone() for p in model]
    vector = ParameterVector(model)
    assert vector.elements == sum(p.numel() for p in before)
    if flat:
        vector.flatten()
    vector.add_(torch.ones(vector.elements))
    assert all(torch.equal(now, then + 1) for now, then in zip(model, before, strict=True))


OVERLAPPING: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "a slice": lambda table: (table, table[:2]),
    "the slice first": lambda table: (table[:2], table),
    "rows over rows": lambda table: (table[:3], table[1:]),
    "a column": lambda table: (table[:, ::2], table[:, 2]),
    "other types": lambda table: (table, table.view(torch.bfloat16)),
    "negated": lambda table: (table.view(-1)[1::2], negated(table.view(-1))),
}


@pytest.mark.parametrize("kind", OVERLAPPING)
def test_tensors_that_share_some_of_their_memory_are_both_named(kind: str) -> None:
    parts = OVERLAPPING[kind](torch.arange(16.0).view(4, 4))
    model = nn.ParameterDict({name: nn.Parameter(part) for name, part in zip("ab", parts, strict=True)})
    with pytest.raises(ConfigError, match=r"got 'a tensor with some of the memory of [ab]'; .* use \.clone\(\)") as why:
        ParameterVector(model)
    assert {why.value.key, str(why.value.got)[-1]} == {"a", "b"}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", TIES)
def test_a_file_of_a_model_with_shared_memory_is_read_back(kind: str, flat: bool, tmp_path: Path) -> None:
    model, fresh = TIES[kind](), TIES[kind]()
    vector = ParameterVector(model)
    if flat:
        vector.flatten()
    vector.add_(torch.linspace(0, 1, 15))
    save_model(model, tmp_path, "values.safetensors", vector.views(torch.arange(15.0)))
    save_model(model, tmp_path)

    def read(name: str) -> None:
        if "transposed" in kind:  # load_model refuses to look at such a model: both are in the file
            fresh.load_state_dict(load_file(tmp_path / name))
        else:  # which wants to find shared memory once
            load_model(fresh, tmp_path / name)

    read("model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))
    read("values.safetensors")
    assert torch.equal(fresh.one.weight.flatten(), torch.arange(12.0))
    assert tied(fresh)


@pytest.mark.parametrize("kind", TIES)
def test_a_checkpoint_of_a_model_with_shared_memory_goes_on(kind: str, tmp_path: Path) -> None:
    model, other = TIES[kind](), TIES[kind]()
    vectors = [ParameterVector(m) for m in (model, other)]
    for vector in vectors:
        vector.flatten()
    vectors[0].add_(torch.linspace(0, 1, 15))
    facts = TrainingMemory(step=1, losses=(), states={})
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()}
    Store(tmp_path, TrainingMemory).write(Content(1, facts, {"model": state}))
    found = Store(tmp_path, TrainingMemory).newest()
    assert found is not None
    other.load_state_dict(found.tensors["model"])
    assert torch.equal(*(vector.snapshot(vector.empty()) for vector in vectors))
    assert tied(other)


def test_the_simulator_says_that_it_would_part_them() -> None:
    with pytest.raises(ConfigError, match=r"other\.weight: got 'the memory of one\.weight'; one parameter"):
        LoopedWorkers(TIES["same"](), nn.functional.cross_entropy, 2, Optimization())
