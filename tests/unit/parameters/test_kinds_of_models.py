"""Models of many kinds: what travels, that an exchange moves that and nothing else, that training and files go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.kinds_of_models import KINDS
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from p2p_elastic.checkpoint.tensor_file import safetensors_chunks
from p2p_elastic.node.results import save_model
from p2p_elastic.parameters.slots import copy_model, shell_of
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.training.trials import LossOf

RATE = 0.25


def build(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KINDS[kind].make()


def train(kind: str, model: nn.Module, steps: int = 1) -> None:
    """Some steps, each of which changes every parameter that trains."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9, nesterov=True)
    raw = KINDS[kind].raw(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for _ in range(steps):
            optimizer.zero_grad()
            output = raw(KINDS[kind].batch())
            (output.float() - torch.linspace(-1, 1, output.shape[-1])).square().mean().backward()
            assert all(p.grad is not None for p in parameters)
            optimizer.step()


def everything(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, under all their names."""
    found = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().clone() for name, tensor in found}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_vector_has_what_trains_in_order(kind: str) -> None:
    vector = ParameterVector(build(kind, 0))
    assert " ".join(slot.name for slot in vector.slots) == KINDS[kind].names
    assert [name for name, _ in vector.schema.tensors] == KINDS[kind].names.split()
    assert vector.elements == KINDS[kind].elements
    assert vector.schema == ParameterVector(build(kind, 1)).schema


@pytest.mark.parametrize("flat", [False, True])
def test_an_exchange_moves_what_travels_and_nothing_else(kind: str, flat: bool) -> None:
    models = [build(kind, seed) for seed in (0, 1)]
    for steps, model in enumerate(models, 1):
        train(kind, model, steps)
    vectors = [ParameterVector(model) for model in models]
    for vector in vectors if flat else ():
        vector.flatten()
    before = [vector.snapshot(vector.empty()) for vector in vectors]
    all_before = [everything(model) for model in models]
    delta = before[1] - before[0]
    assert bool(delta.any())
    vectors[0].add_(delta, share=RATE)
    vectors[1].add_(-delta, share=RATE)
    after = [vector.snapshot(vector.empty()) for vector in vectors]
    torch.testing.assert_close(after[0], before[0] + RATE * delta)
    torch.testing.assert_close(after[0] + after[1], before[0] + before[1])
    for model, vector, then in zip(models, vectors, all_before, strict=True):
        travelling = {name for slot in vector.slots for name in (slot.key, *(tie.key for tie in slot.ties))}
        objects = {id(p) for name, p in model.named_parameters() if name in travelling}
        names = dict(model.named_parameters(remove_duplicate=False))
        for name, value in everything(model).items():
            if name not in travelling and id(names.get(name)) not in objects:
                assert torch.equal(value.nan_to_num(), then[name].nan_to_num()), name
    for index, slot in ((n, s) for n in range(2) for s in vectors[n].slots):
        coarse = slot.tensor().flatten().float() - after[index][slot.start : slot.stop]
        assert float(coarse.abs().max() if len(coarse) else 0) <= 2**-7 * float(after[index].abs().max())


@pytest.mark.parametrize("flat", [False, True])
def test_a_shell_given_values_computes_what_a_model_with_them_does(kind: str, flat: bool) -> None:
    model = build(kind, 0)
    train(kind, model)
    vector = ParameterVector(model)
    if flat:
        vector.flatten()
    shell = shell_of(KINDS[kind].raw(model), ParameterVector(KINDS[kind].raw(model)).slots).eval()
    values = vector.snapshot(vector.empty())
    values += torch.linspace(-1e-2, 1e-2, len(values))
    views = ParameterVector(KINDS[kind].raw(model)).views(values)
    batch = KINDS[kind].batch()
    with torch.no_grad():
        found = LossOf(shell, lambda other, inputs: other(inputs)).at(views, batch)
        twin = copy_model(KINDS[kind].raw(model)).eval()
        parameters = [p.clone() for p in twin.parameters()]
        in_place = LossOf(twin, lambda other, inputs: other(inputs)).at(views, batch)
        vector.load_(values)
        expected = KINDS[kind].raw(model).eval()(batch)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(in_place, expected)
    assert all(map(torch.equal, twin.parameters(), parameters))
    kept = [t for t in (*shell.parameters(), *shell.buffers()) if not t.is_meta]
    assert sum(t.numel() for t in kept) <= sum(t.numel() for t in (*model.parameters(), *model.buffers())) - len(values)


def test_training_goes_on_as_if_its_memory_had_not_been_moved(kind: str) -> None:
    model = build(kind, 0)
    twin = copy_model(model)
    vector = ParameterVector(model)
    vector.flatten()
    for each in (model, twin):
        train(kind, each, 3)
    assert same(everything(model), everything(twin))
    assert torch.equal(vector.snapshot(vector.empty()), ParameterVector(twin).snapshot(vector.empty()))


def test_files_are_read_back(kind: str, tmp_path: Path) -> None:
    model, fresh, resumed = build(kind, 0), build(kind, 1), build(kind, 2)
    vector = ParameterVector(model)
    vector.flatten()
    train(kind, model)
    vector.add_(torch.full((vector.elements,), 1e-3))
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()}
    save_model(model, tmp_path)
    if "transposed" in kind and "tied" in kind:  # load_model refuses to look at such a model
        fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    else:
        load_model(fresh, tmp_path / "model.safetensors")
    assert same(dict(fresh.state_dict()), state)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"".join(safetensors_chunks(state)))
    resumed.load_state_dict(load_file(tmp_path / "checkpoint.safetensors"))
    assert same(dict(resumed.state_dict()), state)
    again = ParameterVector(resumed)
    again.restore_remainder(vector.remainder())
    assert torch.equal(again.snapshot(again.empty()), vector.snapshot(vector.empty()))
