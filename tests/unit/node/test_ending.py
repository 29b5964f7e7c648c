"""What a peer says and leaves at its end, where something is in the way."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.participations import PEER, Said, manifest
from torch import nn

from p2p_elastic.common.stop import Stop
from p2p_elastic.errors import ConfigError
from p2p_elastic.node import ending as module
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.ending import Ending
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.status.schema import CentreStatus, ExchangeTotals
from p2p_elastic.tasks import Evaluation


def finish(
    screen: Said, model: nn.Module, output: Path, centre: torch.Tensor | None = None, *, stopped: bool = False
) -> None:
    """The end of a peer with these parameters, and this centre variable."""
    tested = Evaluation(loss=0.4, metrics={"accuracy": 0.9})
    trainer: Any = SimpleNamespace(
        model=model,
        vector=ParameterVector(model),
        meter=SimpleNamespace(step=7, validation=None, loss=0.5),
        test=lambda *_: tested,
        test_values=lambda _, stop: None if stop() else tested,
    )
    known = None if centre is None else CentreStatus(holder=PEER, here=True, term=1, exchanges=3)
    nothing = dict.fromkeys(("leaders", "joining"), lambda: None)
    seen = {"centre_value": lambda: centre, "centre": lambda: known, "exchanges": ExchangeTotals}
    peer: Any = SimpleNamespace(peer=PEER, **seen, **nothing)
    board: Any = SimpleNamespace(manifest=manifest(), phase="finishing")
    stop = Stop()
    stop.requested = stopped
    connection: Any = SimpleNamespace(board=board)
    Ending(JoinConfig(), screen, stop, connection, resumed=False).finish(trainer, peer, output, 3.0, trainer)


@pytest.mark.parametrize(("stopped", "normed", "tested"), [(0, 1, True), (1, 0, True), (1, 1, False)])
def test_the_centre_is_tested_after_ctrl_c_where_that_begins_at_once(
    stopped: bool, normed: bool, tested: bool, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) if normed else nn.Linear(2, 2)
    screen = Said()
    centre = ParameterVector(model).snapshot(ParameterVector(model).empty())
    finish(screen, model, tmp_path, centre, stopped=stopped)
    [(_, text)] = screen.events
    assert ("of the centre variable 90.00 %" in text) is tested


@pytest.mark.parametrize("in_the_way", ["model", "summary", None])
def test_the_test_accuracy_is_told_though_nothing_can_be_written(
    in_the_way: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ConfigError("output", str(tmp_path), "cannot be written: No space left on device")

    if in_the_way is not None:
        monkeypatch.setattr(module, f"save_{in_the_way}", full)
    screen = Said()
    with nullcontext() if in_the_way is None else pytest.raises(ConfigError, match="No space left"):
        finish(screen, nn.Linear(2, 2), tmp_path)
    [(event, text)] = screen.events
    assert event == "end"
    assert "Finished after 7 steps, 3.0 s. Test accuracy 90.00 %" in text
    assert ("Model:" in text) is (in_the_way is None)
    assert (tmp_path / "summary.json").exists() is (in_the_way is None)
