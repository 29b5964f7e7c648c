"""What two peers must have in common, and the first difference in words."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.schema import Schema
from p2p_elastic.parameters.vector import ParameterVector


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))


PLAIN = ParameterVector(layers())


def compiled_within() -> nn.Module:
    model = layers()
    model[1] = torch.compile(model[1])  # type: ignore[operator]
    return model


def parallel_within() -> nn.Module:
    model = layers()
    model[1] = nn.DataParallel(model[1])  # type: ignore[index, operator, arg-type]
    return model


WRAPPED = {
    "compiled": lambda: torch.compile(layers()),
    "compiled within": compiled_within,
    "parallel": lambda: nn.DataParallel(layers()),
    "parallel within": parallel_within,
    "parallel and compiled": lambda: torch.compile(nn.DataParallel(layers())),
    "compiled, parallel and compiled within": lambda: nn.DataParallel(torch.compile(compiled_within())),  # type: ignore[arg-type]
    "bfloat16": lambda: layers().to(torch.bfloat16),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_and_types_are_not_in_the_schema(kind: str) -> None:
    model = WRAPPED[kind]()
    vector = ParameterVector(model)
    assert vector.schema == PLAIN.schema
    assert vector.schema_hash == PLAIN.schema_hash
    assert vector.schema.difference(PLAIN.schema) is None
    vector.flatten()
    vector.load_(torch.arange(float(vector.elements)))
    assert torch.equal(vector.snapshot(vector.empty()), torch.arange(float(vector.elements)))
    assert set(vector.views(vector.empty())) <= set(model.state_dict())


def test_names_given_with_or_without_the_wrappers_choose_the_same() -> None:
    model = nn.DataParallel(layers())
    for name in ("0.bias", "module.0.bias"):
        assert [slot.name for slot in ParameterVector(model, [name]).slots] == ["0.bias"]


def test_a_layer_that_is_called_module_keeps_its_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert ParameterVector(model).schema.tensors == (("module.weight", (2, 2)), ("module.bias", (2,)))


def of(*tensors: tuple[str, list[int]]) -> Schema:
    return Schema.model_validate({"tensors": tensors})


HERE = of(("layers.3.weight", [64, 32]), ("layers.3.bias", [64]), ("head.bias", [10]))


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (HERE, None),
        (of(("layers.3.weight", [64, 16]), *HERE.tensors[1:]), "layers.3.weight is [64, 32] here and [64, 16] there"),
        (of(*HERE.tensors[:2]), "head.bias is missing there"),
        (of(*HERE.tensors, ("mask", [])), "mask is missing here"),
        (
            of(HERE.tensors[0], HERE.tensors[2], HERE.tensors[1]),
            "the order differs: layers.3.bias here stands where head.bias stands there",
        ),
        (of(*HERE.tensors, ("a\x1b[2J\nb", [])), "a?[2J?b is missing here"),
        (of(*HERE.tensors, HERE.tensors[0]), "a name stands there more than once"),
    ],
)
def test_the_first_difference_is_said_in_words(there: Schema, said: str | None) -> None:
    assert HERE.difference(there) == said


def test_a_schema_goes_through_json() -> None:
    text = PLAIN.schema.model_dump_json()
    assert Schema.model_validate_json(text) == PLAIN.schema
    assert Schema.model_validate_json(text).hash == PLAIN.schema_hash
    assert len(PLAIN.schema_hash) == 32


TOO_MUCH: dict[str, list[object]] = {
    "a long name": [["x" * 513, [1]]],
    "no name": [["", [1]]],
    "a large size": [["x", [2**53 + 1]]],
    "a negative size": [["x", [-1]]],
    "a broken size": [["x", [1.5]]],
    "many dimensions": [["x", [1] * 65]],
    "many tensors": [["x", [1]]] * 100_001,
    "no shape": [["x"]],
    "a type": [["x", [1], "torch.float32"]],
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_a_strangers_schema_has_bounds(kind: str) -> None:
    with pytest.raises(ValidationError):
        Schema.model_validate({"tensors": TOO_MUCH[kind]})


def test_the_largest_schema_within_the_bounds_is_read() -> None:
    assert len(of(*((f"{n}", [2**53] * 2) for n in range(100_000))).tensors) == 100_000
    assert of(("x" * 512, [0] * 64)).tensors[0][1] == (0,) * 64


def test_a_name_that_is_too_long_to_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match="names of 1 to 512 characters"):
        ParameterVector(nn.ParameterDict({"x" * 513: nn.Parameter(torch.ones(1))}))


def test_a_vector_is_seen_as_tensors_by_their_names() -> None:
    schema, values = PLAIN.schema, torch.arange(float(PLAIN.elements))
    named = schema.named(values)
    assert schema.elements == PLAIN.elements
    assert torch.equal(torch.cat([tensor.flatten() for tensor in named.values()]), values)
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == dict(schema.tensors)


def test_seams_are_where_tensors_begin() -> None:
    assert PLAIN.seams == (0, 12, 16, 20, 24, 32, 34, 38)
    model = nn.ParameterList([nn.Parameter(torch.ones(size)) for size in (2, 0, 3)])
    assert ParameterVector(model).seams == (0, 2)
