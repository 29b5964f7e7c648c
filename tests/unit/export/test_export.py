"""`p2p-elastic export`: what it says where it cannot, and whom it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

from p2p_elastic.cli.main import main
from p2p_elastic.export import command
from p2p_elastic.export.command import report_file
from p2p_elastic.parameters.schema import Schema
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.tasks import find_task

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


SENT = {"a": 1.0, "b": math.nan, "c": 3.0}


class Swarm:
    """In the place of the network and of the observer in it: members that send the same number in every place."""

    def __init__(self, *_: object) -> None:
        self.fetcher = SimpleNamespace(bytes_received=12)

    async def nothing(self, *_: object) -> None:
        pass

    open = close = stay = leave = nothing

    async def members(self, enough: Callable[[list[PeerRecord]], object]) -> list[PeerRecord]:
        found = [PeerRecord(peer=p, run="run", schema_hash="0" * 32, step=1, loss=0.5) for p in SENT]
        assert enough(found)
        return found

    async def difference(self, schema: Schema) -> None:
        return None

    async def take(self, member: PeerRecord, out: Tensor, *, of_centre: bool) -> Any:
        out.fill_(SENT[member.peer])
        return SimpleNamespace(step=member.step, loss=member.loss)


def test_one_member_that_sends_nan_does_not_spoil_the_average(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def run_of(*_: object) -> Any:
        return SimpleNamespace(run="run", task="digits", rule="elastic-gossip", describe=str)

    async def attached(*_: object) -> None:
        pass

    for name in ("LiveNetwork", "Observer"):
        monkeypatch.setattr(command, name, Swarm)
    monkeypatch.setattr(command, "attached", attached)
    monkeypatch.setattr(command, "known_run", run_of)
    monkeypatch.setattr(command, "installed_task", lambda manifest, _given: find_task(manifest.task))
    output = tmp_path / "model.safetensors"
    report = command.export(command.ExportOptions((NOBODY,), output), lambda _: None, lambda: False)
    assert {float(x) for values in load_file(output).values() for x in values.flatten()} == {2.0}
    assert [t.peer for t in report.taken] == ["a", "c"]
    assert report.left_out == {"b": "its parameters are not finite"}
