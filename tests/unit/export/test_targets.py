"""What an exported model becomes: tensors by their names, within bounds of memory and of the file's format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from p2p_elastic.errors import ConfigError
from p2p_elastic.export import targets
from p2p_elastic.export.targets import RawTensors
from p2p_elastic.parameters.schema import Schema


def test_what_travels_is_written_by_its_names(tmp_path: Path) -> None:
    target = RawTensors(Schema(tensors=(("layer.weight", (2, 3)), ("layer.bias", (2,)), ("scale", ()))))
    assert target.evaluate(torch.arange(9.0), anew=True) is None
    target.write(tmp_path / "raw.safetensors")
    found = load_file(tmp_path / "raw.safetensors")
    assert found["layer.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["layer.bias"].tolist() == [6, 7]
    assert found["scale"].item() == 8


def test_more_than_the_memory_has_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "free_memory", lambda: 10**9)
    with pytest.raises(ConfigError, match=r"memory: got '.* GB'; at least the .* GB that the model takes"):
        RawTensors(Schema(tensors=(("x", (2**40,)),)))


@pytest.mark.parametrize("names", [("x", "x"), ("__metadata__",)])
def test_names_that_a_file_cannot_have_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="raw: got"):
        RawTensors(Schema(tensors=tuple((name, (1,)) for name in names)))
