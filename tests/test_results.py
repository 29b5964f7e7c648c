"""What a peer leaves behind, where it cannot be written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.results import MODEL_FILE, save_json, save_model
from p2p_elastic.status import FarewellStatus


def test_a_folder_that_is_gone_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(ConfigError, match=r"cannot be written: .*No such file.*; .*--resume .*gone\)") as caught:
        save_model(nn.Linear(2, 2), folder)
    assert (caught.value.key, caught.value.got) == ("output", str(folder / MODEL_FILE))
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory;"):
        save_json(FarewellStatus(), folder / "summary.json")


def test_what_cannot_take_its_place_is_not_left_beside_it(tmp_path: Path) -> None:
    save_model(nn.Linear(2, 2), tmp_path)
    (tmp_path / MODEL_FILE).rename(tmp_path / "before")
    (tmp_path / MODEL_FILE).mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        save_model(nn.Linear(2, 2), tmp_path)
    shutil.rmtree(tmp_path / MODEL_FILE)
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
