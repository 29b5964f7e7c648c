from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import pytest
from helpers.simulated import made_up

from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator import plots
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.report import headline, read_result, to_json, write_result


def test_a_result_reads_back_as_it_was(tmp_path: Path) -> None:
    result = made_up().model_copy(update={"leaders": {0: 3, 1: 4}, "faults": {"drop": 2}})
    write_result(result, tmp_path / "new" / "folder")
    assert read_result(tmp_path / "new" / "folder") == result
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == ["curve.csv", "result.json"]


def test_a_simulation_that_diverged_is_strict_json_and_reads_back(tmp_path: Path) -> None:
    result = made_up(consensus_distance=math.nan, training_loss=math.inf)
    write_result(result, tmp_path)
    assert "NaN" not in to_json(result)
    assert "Infinity" not in to_json(result)
    point = read_result(tmp_path).points[0]
    assert math.isnan(point.consensus_distance)
    assert point.training_loss is None


def test_accuracies_that_are_no_numbers_read_back(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = made_up(accuracies=(0.5, math.nan), average_accuracy=math.nan)
    write_result(result, tmp_path)
    again = read_result(tmp_path)
    assert repr(again) == repr(result)
    assert len(plots.draw([plots.Series("none", again)], tmp_path)) == 3


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"points": [{}]}', "\x00", '{"points": 3}'])
def test_what_is_no_result_is_an_error_that_names_the_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(ConfigError, match=r"result: got '.*result.json'; "):
        read_result(tmp_path)


def test_the_curve_has_a_row_per_evaluation_and_a_column_per_worker(tmp_path: Path) -> None:
    write_result(made_up(), tmp_path)
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert float(rows[2]["accuracy_2"]) == pytest.approx(0.79)
    assert rows[0]["centre_accuracy"] == ""


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output: got .*cannot be written"):
        write_result(made_up(), tmp_path / "file")


def test_the_headline_is_the_last_evaluation_and_prefers_the_centre() -> None:
    end = headline(made_up(centre_accuracy=0.9))
    assert end is not None
    assert (end.metric, end.score, end.average, end.first) == ("accuracy", 0.9, pytest.approx(0.8), pytest.approx(0.8))
    assert headline(made_up(points=0)) is None


# ---------------------------------------------------------------- pictures


def test_pictures_are_pngs_of_a_sensible_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    series = [plots.Series(f"run {i}", made_up(build({"workers": 2, "seed": i}))) for i in range(3)]
    files = plots.draw(series, tmp_path, title="three", stem="x-")
    assert [file.name for file in files] == [f"x-{name}.png" for name in plots.PICTURES]
    for file in files:
        assert file.read_bytes()[1:4] == b"PNG"
        assert file.stat().st_size < 150_000


def test_pictures_without_anything_to_show_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    alone = plots.Series("alone", made_up(bytes_per_worker=0.0, consensus_distance=0.0))
    assert [file.name for file in plots.draw([alone], tmp_path)] == ["accuracy-steps.png"]
    assert plots.draw([plots.Series("stopped", made_up(points=0))], tmp_path) == []
    assert plots.draw([], tmp_path) == []


def test_odd_values_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    odd = [
        plots.Series("diverged", made_up(consensus_distance=math.nan)),
        plots.Series("perfect", made_up(average_accuracy=1.0, accuracies=(1.0, 1.0))),
        plots.Series("nothing right", made_up(average_accuracy=0.0, accuracies=(0.0, 0.0))),
        plots.Series("one point", made_up(points=1)),
        plots.Series("silent", made_up(bytes_per_worker=0.0)),
    ]
    for one in odd:
        assert plots.draw([one], tmp_path, form="svg")
    assert len(plots.draw(odd, tmp_path)) == 3


def test_without_matplotlib_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'p2p-elastic\[plots\]'"):
        plots.draw([plots.Series("one", made_up())], tmp_path)


def test_strict_json_is_what_other_programs_read() -> None:
    assert json.loads(to_json(made_up()))["config"]["workers"] == 2
