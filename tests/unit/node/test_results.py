"""What a peer leaves behind, where it cannot be written."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.node.results import BEFORE, CENTRE_FILE, MODEL_FILE, SUMMARY_FILE, save_json, save_model, set_aside
from p2p_elastic.status.schema import FarewellStatus


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


def test_a_crash_while_results_are_set_aside_loses_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted([MODEL_FILE, CENTRE_FILE, SUMMARY_FILE])
    really = {"replace": os.replace, "unlink": Path.unlink}
    for crash in range(1, 7):  # 3 are removed and 3 are moved
        folder, left = tmp_path / str(crash), crash

        def counted(what: str, *arguments: Any, **more: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            really[what](*arguments, **more)

        for part, steps in ((folder / BEFORE, 1), (folder, 2)):
            part.mkdir(parents=True, exist_ok=True)
            for name in names:
                (part / name).write_text(f'{{"steps": {steps}}}')
        with monkeypatch.context() as broken:
            broken.setattr(os, "replace", partial(counted, "replace"))
            broken.setattr(Path, "unlink", lambda *a, **k: counted("unlink", *a, **k))
            with pytest.raises(KeyboardInterrupt):
                set_aside(folder)
        set_aside(folder)
        assert sorted(path.name for path in folder.iterdir()) == [BEFORE]
        assert {path.name: path.read_text() for path in (folder / BEFORE).iterdir()} == dict.fromkeys(
            names, '{"steps": 2}'
        )


def test_the_model_of_a_run_that_was_killed_during_its_test_is_set_aside_too(tmp_path: Path) -> None:
    save_model(nn.Linear(7, 1), tmp_path)
    set_aside(tmp_path)
    save_model(nn.Linear(1, 1), tmp_path)
    assert load_file(tmp_path / BEFORE / MODEL_FILE)["weight"].shape == (1, 7)


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[int]()
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))

    def replaced(old: Path, new: Path) -> None:
        assert old.stat().st_ino in synced
        replace(old, new)

    monkeypatch.setattr(os, "replace", replaced)
    save_model(nn.Linear(2, 2), tmp_path)
    save_json(FarewellStatus(), tmp_path / SUMMARY_FILE)
    assert len(synced) == 4  # and the folder after each of them


def test_a_model_of_any_layout_reads_back_with_tied_parameters_written_once(tmp_path: Path) -> None:
    def model() -> nn.Module:
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.weight = first.weight
        convolution = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)
        return nn.ModuleList([first, second, convolution, nn.BatchNorm1d(2), nn.Linear(2, 2, dtype=torch.bfloat16)])

    written, read = model(), model()
    save_model(written, tmp_path)
    load_model(read, str(tmp_path / MODEL_FILE))
    for name, tensor in written.state_dict().items():
        assert torch.equal(tensor, read.state_dict()[name]), name
    with safe_open(str(tmp_path / MODEL_FILE), "pt") as file:
        assert file.metadata() == {"format": "pt", "1.weight": "0.weight"}
        assert "1.weight" not in file.keys()  # noqa: SIM118  # not a mapping
