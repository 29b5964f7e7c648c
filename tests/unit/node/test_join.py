"""How a live peer is put together: what is made sure before it begins, and what it says then."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.participations import ADDRESS, PEER, Said, manifest

from p2p_elastic.checkpoint.store import OutputLock
from p2p_elastic.common.stop import Stop
from p2p_elastic.errors import ConfigError
from p2p_elastic.node import join as module
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.connection import Connection
from p2p_elastic.node.join import JOIN_LINE, TaskPeer
from p2p_elastic.node.run_finder import RunFinder
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.manifest import RunManifest

CPU = torch.device("cpu")


def task_peer(screen: Said, *initial_peers: str) -> TaskPeer:
    network: Any = SimpleNamespace(
        run_before=lambda _: None,
        identity=SimpleNamespace(peer=PEER),
        access=SimpleNamespace(private=False),
        host=SimpleNamespace(addresses=(ADDRESS,)),
        directory=SimpleNamespace(found=lambda manifest: None),
    )
    config = JoinConfig(initial_peer=initial_peers)
    connection: Any = Connection(JoinConfig(), Identity.generate(), CPU, screen, JOIN_LINE)
    connection.network, connection.thread = network, SimpleNamespace(call=lambda *_: None)
    connection.window = SimpleNamespace(url="http://127.0.0.1:8870")
    connection.board = SimpleNamespace(manifest=None, phase="starting")
    return TaskPeer(config, screen, Stop(), connection)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskPeer, "_take_part", lambda *_: None)
    monkeypatch.setattr(RunFinder, "check_model", lambda *_: None)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("founds", [True, False])
def test_others_are_told_how_to_join_once_it_is_known_that_there_is_something_to_join(
    founds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFinder, "join", lambda self: manifest())
    screen = Said()
    task_peer(screen, *([] if founds else [ADDRESS])).run()
    told = [event for event, _ in screen.events]
    assert told.index("joinable") > max(told.index("loading"), told.index("listening"))
    assert dict(screen.events)["joinable"] == f"others join with:\n    p2p-elastic join --initial-peer {ADDRESS}"


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("alone", [True, False])
def test_nobody_is_told_to_join_who_could_not_join_itself(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join(finder: RunFinder) -> RunManifest:
        finder.alone = alone
        if not alone:
            raise ConfigError("run", None, "the initial peer does not know it")
        return manifest()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFinder, "join", join)
    screen = Said()
    with nullcontext() if alone else pytest.raises(ConfigError):
        task_peer(screen, ADDRESS).run()
    told = dict(screen.events)
    assert "others join" not in "".join(told.values())
    assert "watch it: http://127.0.0.1:8870/" in told["listening"]


@pytest.mark.parametrize(
    ("address", "problem"), [("bla", "not a multiaddr such as"), ("/ip4/192.168.1.7/tcp/31330", "peer id included")]
)
def test_an_address_that_is_none_is_named(address: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"initial-peer: got '{address}'; .*{problem}"):
        module.join(JoinConfig(initial_peer=(address,)), Said(), Stop())


def test_an_old_spelling_of_our_own_address_is_seen_to_be_ours(tmp_path: Path) -> None:
    own = Identity.load_or_create(tmp_path / "key").peer
    config = JoinConfig(identity=tmp_path / "key", initial_peer=(f"/ip4/192.168.1.7/tcp/31330/ipfs/{own}",))
    with pytest.raises(ConfigError, match="an address of another peer"):
        module.join(config, Said(), Stop())


# ---------------------------------------------------------------- its folder


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


def founder(config: JoinConfig, screen: Any = None) -> TaskPeer:
    screen = screen or Quiet()
    connection: Any = Connection(config, Identity.generate(), CPU, screen, JOIN_LINE)
    connection.network = SimpleNamespace(
        identity=connection.network.identity,
        access=connection.network.access,
        host=SimpleNamespace(addresses=()),
        directory=Quiet(),
        clock=Quiet(),
    )
    connection.network.run_before = lambda _: None
    connection.thread = connection.board = connection.window = Quiet()
    return TaskPeer(config, screen, Stop(), connection)


def test_nobody_else_may_write_into_the_folder_that_a_peer_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained_in: list[Path] = []

    def take_part(*arguments: Any) -> None:
        trained_in.append(arguments[-1])
        assert not others_may_write_into(trained_in[0])

    monkeypatch.setattr(TaskPeer, "_take_part", take_part)
    founder(JoinConfig(task="digits")).run()
    assert others_may_write_into(trained_in[0])


def test_a_folder_is_ours_before_its_newest_checkpoint_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint" / "step-000000001").mkdir(parents=True)

    def read(config: JoinConfig) -> Any:
        assert not others_may_write_into(tmp_path)
        raise ConfigError("resume", str(config.resume), "read")

    monkeypatch.setattr(module, "resume", read)
    with pytest.raises(ConfigError, match="read"):
        module.join(JoinConfig(resume=tmp_path), Quiet(), Stop())  # type: ignore[arg-type]
    assert others_may_write_into(tmp_path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"shard": "1300/1300"}, "at most as many shards as examples, 1257"),
        ({"batch_size": 1258}, "batch-size: got 1258; at most the number of training examples, 1,257"),
    ],
)
def test_a_founder_that_cannot_train_tells_nobody_of_its_run(
    options: dict[str, Any], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screen = Said()
    one = founder(JoinConfig(task="digits", **options), screen)
    with pytest.raises(ConfigError, match=problem):
        one.run()
    assert [event for event, _ in screen.events] == ["loading"]
    assert list(tmp_path.iterdir()) == []


def test_who_begins_anew_in_a_folder_with_checkpoints_is_told_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint" / "step-000000001").mkdir(parents=True)
    monkeypatch.setattr(module, "_join", lambda *_: None)
    screen = Said()
    module.join(JoinConfig(output=tmp_path), screen, Stop())
    assert f"--resume {tmp_path} or --resume-or-found" in dict(screen.events)["checkpoint"]
