"""What a peer leaves behind, where it cannot be written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.results import BEFORE, MODEL_FILE, SUMMARY_FILE, save_json, save_model, set_aside
from p2p_elastic.status import FarewellStatus


def test_a_folder_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(ConfigError, match=r"cannot be written: .*No such file") as caught:
        save_model(nn.Linear(2, 2), folder)
    assert (caught.value.key, caught.value.got) == ("output", str(folder / MODEL_FILE))
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory$"):
        save_json(FarewellStatus(), folder / "summary.json")


def test_what_cannot_take_its_place_is_not_left_beside_it(tmp_path: Path) -> None:
    save_model(nn.Linear(2, 2), tmp_path)
    (tmp_path / MODEL_FILE).rename(tmp_path / "before")
    (tmp_path / MODEL_FILE).mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        save_model(nn.Linear(2, 2), tmp_path)
    shutil.rmtree(tmp_path / MODEL_FILE)
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_of_the_runs_before_the_longest_is_set_aside(tmp_path: Path) -> None:
    def results(steps: int) -> None:
        set_aside(tmp_path)
        save_model(nn.Linear(steps, 1), tmp_path)
        (tmp_path / SUMMARY_FILE).write_text(f'{{"steps": {steps}}}')

    def kept() -> int:
        return int(load_file(tmp_path / BEFORE / MODEL_FILE)["weight"].shape[1])

    results(400)
    assert not (tmp_path / BEFORE).exists()
    results(1)  # started by mistake
    assert kept() == 400
    results(2)
    assert kept() == 400
    results(500)
    assert kept() == 400
    results(3)
    assert kept() == 500
    assert sorted(path.name for path in (tmp_path / BEFORE).iterdir()) == [MODEL_FILE, SUMMARY_FILE]
