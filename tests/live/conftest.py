"""The processes of a test, ended with it, and what they remember."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.forking import launch
from live_chaos.lives import RESTING

from p2p_elastic.demo.processes import Swarm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("processes")


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swarm]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Swarm(tmp_path, RESTING, launch) as swarm:
        yield swarm


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swarm]:
    """As `swarm`, but each process is started as a person starts it: for what happens at its start and its end."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Swarm(tmp_path, RESTING) as swarm:
        yield swarm
