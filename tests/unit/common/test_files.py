"""Files that are whole or not there, and never at the other end of a link that somebody planted."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.simulated import made_up
from pydantic import BaseModel
from torch import nn

from p2p_elastic.api.token import load_or_create
from p2p_elastic.checkpoint.store import BEFORE as CHECKPOINTS_BEFORE
from p2p_elastic.checkpoint.store import FOLDER, LOCK, Content, OutputLock, Store
from p2p_elastic.common.files import creating, new_file, read_private, remove_drafts, replacing
from p2p_elastic.demo.processes import Swarm
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.results import BEFORE, MODEL_FILE, SUMMARY_FILE, check_writable, save_json, save_model, set_aside
from p2p_elastic.peers.discovery.peer_cache import PeerCache
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.simulator.plots import Series, draw
from p2p_elastic.simulator.report import write_result
from p2p_elastic.status.schema import FarewellStatus


class Facts(BaseModel):
    name: str = "facts"


def checkpoint(folder: Path, step: int = 1) -> None:
    Store(folder / FOLDER, Facts).write(Content(step, Facts(), {"model": {}}, {"identity": b"secret"}))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- planted links


def save_summary(folder: Path) -> None:
    save_json(FarewellStatus(), folder / SUMMARY_FILE)


def lock(folder: Path) -> None:
    OutputLock(folder).close()


def picture(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw([Series("one", made_up())], folder, which=["accuracy-steps"])


def log_of_a_process(folder: Path) -> None:
    with Swarm(folder) as swarm:
        swarm.start("peer", ["join"], program=("-c", "print('{}')")).child.wait()


WRITERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: save_model(nn.Linear(1, 1), folder), MODEL_FILE),
    (lambda folder: save_model(nn.Linear(1, 1), folder), f".{MODEL_FILE}.part"),
    (save_summary, SUMMARY_FILE),
    (save_summary, f".{SUMMARY_FILE}.part"),
    (check_writable, ".writable"),
    (lock, LOCK),
    (checkpoint, FOLDER),
    (checkpoint, f"{FOLDER}/.unfinished"),
    (checkpoint, f"{FOLDER}/.dropped"),
    (checkpoint, f"{FOLDER}/step-000000001"),
    (lambda folder: write_result(made_up(), folder), "result.json"),
    (lambda folder: write_result(made_up(), folder), f".curve.csv.{os.getpid()}.part"),
    (picture, "accuracy-steps.png"),
    (picture, ".accuracy-steps.png.part"),
    (lambda folder: load_or_create(folder / "token"), "token"),
    (lambda folder: Identity.load_or_create(folder / "key"), "key"),
    (lambda folder: PeerCache(folder).save("run", (), {}), "run.json"),
    (log_of_a_process, "peer/log.jsonl"),
    (log_of_a_process, "peer/stderr.log"),
]


@pytest.mark.parametrize("kind", ["of a file", "of nothing", "of a folder", "second name"])
@pytest.mark.parametrize(
    ("write", "name"),
    WRITERS,
    ids=lambda value: value.replace(str(os.getpid()), "PID") if isinstance(value, str) else "",
)
def test_no_file_is_changed_or_made_at_the_other_end_of_a_link(
    tmp_path: Path, write: Callable[[Path], object], name: str, kind: str
) -> None:
    folder, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    (folder / name).parent.mkdir(parents=True)
    elsewhere.mkdir()
    victim = elsewhere / "victim"
    victim.write_text("{}")
    if kind == "second name":
        (folder / name).hardlink_to(victim)
    else:
        target = {"of a file": victim, "of nothing": elsewhere / "new", "of a folder": elsewhere}[kind]
        (folder / name).symlink_to(target)
    with contextlib.suppress(ConfigError, OSError):  # refused: as good as written beside it
        write(folder)
    assert [path.name for path in elsewhere.iterdir()] == ["victim"]
    assert victim.read_text() == "{}"


def test_the_lock_that_is_a_link_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"{LOCK}.*it is a symbolic link; remove it"):
        OutputLock(tmp_path)


@pytest.mark.parametrize("name", [".unfinished", ".dropped"])
def test_a_link_in_the_way_of_a_checkpoint_is_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / name).symlink_to(tmp_path)
    checkpoint(tmp_path)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["step-000000001"]


def test_what_is_set_aside_goes_into_no_linked_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    save_summary(folder)
    (folder / BEFORE).symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="symbolic link"):
        set_aside(folder)
    checkpoint(folder, step=1)
    (folder / CHECKPOINTS_BEFORE).symlink_to(elsewhere)
    checkpoint(folder, step=2)
    assert list(elsewhere.iterdir()) == []
    assert not (folder / CHECKPOINTS_BEFORE).is_symlink()


# ---------------------------------------------------------------- whole or not there


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[int]()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
    for place in (replacing(tmp_path / "a"), creating(tmp_path / "b", 0o600)):
        with place as file:
            file.write(b"x")
    files = [(tmp_path / name).stat().st_ino for name in "ab"]
    folder = tmp_path.stat().st_ino
    assert synced == [files[0], folder, files[1], folder]


@pytest.mark.parametrize("place", [replacing, creating, new_file])
def test_nothing_is_readable_for_others_even_for_a_moment(tmp_path: Path, place: Callable[..., object]) -> None:
    before = os.umask(0)
    try:
        with place(tmp_path / "private", 0o600) as file:  # type: ignore[attr-defined]
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "private") == 0o600


def test_an_error_in_the_middle_leaves_the_file_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), replacing(path) as file:
        file.write(b"half")
        raise OSError(28, "full")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileExistsError), creating(path, 0o600):
        path.write_text("of another")
    assert path.read_text() == "of another"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_half_written_is_removed_by_who_locks_the_folder(tmp_path: Path) -> None:
    names = {".hidden", "model.part", ".0123.part", "0123456789abcdef.part"}
    for name in names:
        (tmp_path / name).touch()
    with replacing(tmp_path / "file"):
        drafts = [path for path in tmp_path.iterdir() if path.name not in names]
        assert len(drafts) == 1
        OutputLock(tmp_path).close()
        assert not drafts[0].exists()
        drafts[0].touch()  # so that this one can end
    remove_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "file", LOCK}


# ---------------------------------------------------------------- for its owner's eyes


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_file_that_others_can_use_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others") as caught:
        read_private(path, "identity", 10)
    assert (caught.value.key, caught.value.got) == ("identity", str(path))
    assert os.system(caught.value.allowed.partition(": ")[2]) == 0
    assert read_private(path, "identity", 10) == b"secret"


def test_where_no_hard_link_can_be_made_a_new_file_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for _ in range(2):
        with contextlib.suppress(FileExistsError), creating(tmp_path / "key", 0o400) as file:
            file.write(b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o400
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
