"""Where the sockets of p2pd are: private, in a place that can have them, and gone when their peer is."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p_elastic.errors import ConfigError
from p2p_elastic.peers.transport.socket_folder import SocketFolder

pytestmark = pytest.mark.processes

HOLD = "from p2p_elastic.peers.transport.socket_folder import SocketFolder as S; print(S().path, flush=True); input()"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR of its own, with a name that is short enough; pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield Path(folder)


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def test_it_is_in_tmpdir_for_its_owner_only_and_gone_at_the_end(base: Path) -> None:
    folder = SocketFolder()
    assert list(base.iterdir()) == [folder.path]
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert list(folder.path.iterdir()) == []
    listen(folder.path / "p2pd-x.sock")
    folder.close()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("kind", ["too long", "missing", "a file"])
def test_where_tmpdir_cannot_have_a_socket_the_next_place_has_it(
    base: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    wrong = base / ("x" * 60)
    if kind == "too long":
        wrong.mkdir()
    elif kind == "a file":
        wrong.touch()
    (base / "run").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(wrong))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base / "run"))
    folder = SocketFolder()
    assert folder.path.parent == base / "run"
    listen(folder.path / f"p2pclient-{'x' * 11}.sock")
    folder.close()
    assert kind != "too long" or list(wrong.iterdir()) == []


def test_where_no_place_does_each_is_named_with_what_is_wrong(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(prefix: str, dir: Path) -> str:
        raise OSError(30, "Read-only file system", str(dir))

    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    with pytest.raises(ConfigError, match=f"TMPDIR: got '{base}'; .*{base}: Read-only.*/var/tmp: Read-only"):
        SocketFolder()


def test_the_folder_of_a_killed_peer_is_removed_by_the_next_one_and_that_of_a_live_one_is_not(base: Path) -> None:
    peers = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = []
    for peer in peers:
        assert peer.stdout is not None
        folders.append(Path(peer.stdout.readline().strip()))
        listen(folders[-1] / "p2pd-x.sock")
        (folders[-1] / "p2p-identity").touch()
    peers[0].kill()
    peers[0].wait()
    own = SocketFolder()
    try:
        assert set(base.iterdir()) == {folders[1], own.path}
        assert len(list(folders[1].iterdir())) == 2
    finally:
        own.close()
        for peer in peers:
            peer.kill()
            peer.communicate()


def test_what_is_no_folder_of_ours_stays(base: Path) -> None:
    mine = base / "p2p-elastic-results"
    mine.mkdir()
    (mine / "peer.key").touch()
    (base / "p2p-elastic-link").symlink_to(mine)
    (base / "p2p-elastic-file").touch()
    others = {mine, base / "p2p-elastic-link", base / "p2p-elastic-file"}
    if os.getuid() == 0:
        (base / "p2p-elastic-other").mkdir()
        os.chown(base / "p2p-elastic-other", 1234, 1234)
        others.add(base / "p2p-elastic-other")
    SocketFolder().close()
    assert set(base.iterdir()) == others
    assert [path.name for path in mine.iterdir()] == ["peer.key"]


def test_peers_that_start_together_take_no_folder_from_each_other(base: Path) -> None:
    made = list[SocketFolder]()

    def start() -> None:
        made.extend(SocketFolder() for _ in range(20))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {folder.path for folder in made} == set(base.iterdir())
    assert len(made) == 80
    for folder in made:
        folder.close()


def test_a_machine_whose_tmp_is_read_only_uses_another_place() -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces for this user")
    code = "from p2p_elastic.peers.transport.socket_folder import SocketFolder as S; s = S(); print(s.path); s.close()"
    script = 'mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && exec "$@"'  # its content stays: Python, say
    environment = {key: value for key, value in os.environ.items() if key not in ("TMPDIR", "TEMP", "TMP")}
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**environment, "XDG_RUNTIME_DIR": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("/var/tmp/p2p-elastic-")
    assert not Path(done.stdout.strip()).exists()
