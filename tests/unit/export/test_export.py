"""`p2p-elastic export`: what it says where it cannot, and whom it takes."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from torch import Tensor, nn

from p2p_elastic.cli.main import main
from p2p_elastic.export.command import _Export, report_file
from p2p_elastic.parameters.vector import ParameterVector

NOBODY = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWRaxMR5LqJ7Pq5yQTPkVGtBRYfC1hXN1S2wFhJbTq1kKc"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["export", *arguments])
    return result.exit_code, result.output


def test_an_initial_peer_is_needed() -> None:
    code, text = run("--output", "model.safetensors")
    assert code == 2
    assert "--initial-peer" in text


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    code, text = run("--initial-peer", "somewhere", "--output", str(tmp_path / "model.safetensors"))
    assert code == 2
    assert "somewhere" in text


def test_a_folder_that_cannot_be_written_is_seen_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, text = run("--initial-peer", NOBODY, "--output", str(tmp_path / "file" / "model.safetensors"))
    assert code == 2
    assert "cannot be written" in text


def test_a_model_is_not_overwritten_by_its_report(tmp_path: Path) -> None:
    code, text = run("--initial-peer", NOBODY, "--output", str(tmp_path / "model.json"))
    assert code == 2
    assert "does not end in .json" in text


@pytest.mark.parametrize(("model", "report"), [("m.safetensors", "m.json"), ("m", "m.json")])
def test_the_report_is_beside_the_model(model: str, report: str) -> None:
    assert report_file(Path(model)).name == report


def test_one_member_that_sends_nan_does_not_spoil_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1, 1, bias=False)
    one = object.__new__(_Export)
    one._vector, one._model, one._left_out = ParameterVector(model), model, {}
    one._source, one._say = "average", lambda _: None
    sent = {"a": 1.0, "b": math.nan, "c": 3.0}
    records: Any = [SimpleNamespace(peer=peer, weight=1.0) for peer in sent]

    def fetched(_: object, record: Any, out: Tensor) -> Any:
        out.fill_(sent[record.peer])
        return SimpleNamespace(step=1, loss=0.5)

    monkeypatch.setattr(_Export, "_fetch", fetched)
    monkeypatch.setattr(_Export, "_write", lambda _, values, taken, data: (values.tolist(), [t.peer for t in taken]))
    assert one._take(records, None) == ([2.0], ["a", "c"])
    assert one._left_out == {"b": "its parameters are not finite"}
