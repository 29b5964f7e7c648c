"""How a live peer is put together: what is made sure before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from p2p_elastic import join as joining
from p2p_elastic.checkpoint import OutputLock
from p2p_elastic.config import JoinConfig
from p2p_elastic.errors import ConfigError
from p2p_elastic.peers.identity import Identity
from p2p_elastic.stop import Stop


class Quiet:
    """A screen, a window, a directory: whatever is asked of it, it does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: []


def others_may_write_into(folder: Path) -> bool:
    try:
        OutputLock(folder).close()
    except ConfigError:
        return False
    return True


def participation(config: JoinConfig) -> joining._Participation:
    network = SimpleNamespace(
        identity=Identity.generate(), host=SimpleNamespace(addresses=()), directory=Quiet(), clock=Quiet()
    )
    parts: Any = (Quiet(), Stop(), Quiet(), network, Quiet(), Quiet())
    return joining._Participation(config, *parts)


def test_nobody_else_may_write_into_the_folder_that_a_peer_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained_in: list[Path] = []

    def take_part(*arguments: Any) -> None:
        trained_in.append(arguments[-1])
        assert not others_may_write_into(trained_in[0])

    monkeypatch.setattr(joining._Participation, "_take_part", take_part)
    participation(JoinConfig(task="digits")).run(torch.device("cpu"))
    assert others_may_write_into(trained_in[0])


def test_a_folder_is_ours_before_its_newest_checkpoint_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint" / "step-000000001").mkdir(parents=True)

    def read(config: JoinConfig) -> Any:
        assert not others_may_write_into(tmp_path)
        raise ConfigError("resume", str(config.resume), "read")

    monkeypatch.setattr(joining, "resume", read)
    with pytest.raises(ConfigError, match="read"):
        joining.join(JoinConfig(resume=tmp_path), Quiet(), Stop())  # type: ignore[arg-type]
    assert others_may_write_into(tmp_path)


def test_a_founder_that_cannot_train_tells_nobody_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    one = participation(JoinConfig(task="digits", shard="1300/1300"))
    one._screen.say = lambda event, *_, **__: said.append(event)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="at most as many shards as examples, 1257"):
        one.run(torch.device("cpu"))
    assert said == ["loading"]
    assert list(tmp_path.iterdir()) == []
