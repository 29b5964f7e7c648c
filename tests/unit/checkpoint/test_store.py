"""The store of checkpoints: whatever happens to the disk, at least the one before is there."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file
from torch import Tensor

from p2p_elastic.checkpoint.disk import CHUNK_BYTES, Chunks, LocalDisk
from p2p_elastic.checkpoint.store import BEFORE, INDEX, KEPT, Content, OutputLock, Store, checkpoint_folder
from p2p_elastic.errors import ConfigError


class Facts(BaseModel):
    word: str


class Cut(Exception):
    """The machine is off."""


class FailingDisk:
    """A real disk that fails in the operation with the number `at`, counted from 0; a write fails in its middle.

    With `error` None the machine goes off there: nothing is done any more.
    """

    def __init__(self, at: int, error: int | None = None) -> None:
        self._disk, self._left, self._error = LocalDisk(), at, error
        self.failed = 0

    def _operate(self) -> bool:
        """Whether this operation is to fail."""
        self._left -= 1
        if self._error is None and self.failed:
            raise Cut
        self.failed += self._left == -1
        return self._left == -1

    def _fail(self) -> None:
        raise Cut if self._error is None else OSError(self._error, "failed on purpose")

    def make(self, folder: Path) -> None:
        if self._operate():
            self._fail()
        self._disk.make(folder)

    def write(self, path: Path, chunks: Chunks, *, private: bool) -> None:
        if not self._operate():
            self._disk.write(path, chunks, private=private)
            return
        blob = b"".join(map(bytes, chunks))
        path.write_bytes(blob[: len(blob) // 2])
        self._fail()

    def sync(self, folder: Path) -> None:
        if self._operate():
            self._fail()
        self._disk.sync(folder)

    def rename(self, old: Path, new: Path) -> None:
        if self._operate():
            self._fail()
        self._disk.rename(old, new)

    def remove(self, folder: Path) -> None:
        if self._operate():
            if folder.exists():  # a part of it is gone
                next(iter(sorted(folder.iterdir()))).unlink()
            self._fail()
        self._disk.remove(folder)


class FullDisk(FailingDisk):
    """No room for more than so many checkpoints."""

    def __init__(self, folder: Path, room: int) -> None:
        super().__init__(-1)
        self._folder, self._room = folder, room

    def write(self, path: Path, chunks: Chunks, *, private: bool) -> None:
        if sum(1 for one in self._folder.iterdir() if one.is_dir()) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, chunks, private=private)


def content(step: int) -> Content:
    tensors = {"model": {"weight": torch.full((3, 5), float(step)), "count": torch.tensor(step)}}
    return Content(step, Facts(word=f"at {step}"), tensors, {"identity": b"secret"})


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def newest_step(folder: Path) -> int | None:
    found = Store(folder, Facts).newest()
    if found is None:
        return None
    assert found.facts.word == f"at {found.step}"
    assert found.private == {"identity": b"secret"}
    assert torch.equal(found.tensors["model"]["weight"], torch.full((3, 5), float(found.step)))
    return found.step


def resumed(folder: Path, disk: FailingDisk | None = None) -> Store[Facts]:
    store = Store(folder, Facts, disk)
    store.newest()
    return store


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    written = Store(folder, Facts).write(content(7))
    assert written == folder / "step-000000007"
    assert newest_step(folder) == 7
    assert stat.S_IMODE((written / "identity").stat().st_mode) == 0o400


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_of_every_kind_are_read_by_safetensors_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "odd": torch.arange(7).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.empty(0, 3, dtype=dtype),
        "beside": torch.arange(5.0),
        "long": torch.arange(CHUNK_BYTES // 4 + 11).to(torch.int32),
    }
    written = Store(tmp_path / "checkpoint", Facts).write(Content(1, Facts(word="x"), {"all": tensors}))
    read = load_file(written / "all.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_a_tensor_that_the_format_has_no_name_for_is_refused(tmp_path: Path) -> None:
    tensors: dict[str, dict[str, Tensor]] = {"all": {"complex": torch.zeros(2, dtype=torch.complex128)}}
    with pytest.raises(ConfigError, match="complex"):
        Store(tmp_path / "checkpoint", Facts).write(Content(1, Facts(word="x"), tensors))


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    folder, store = tmp_path / "checkpoint", Store(tmp_path / "checkpoint", Facts)
    for step in (5, 10, 15, 15):
        store.write(content(step))
    assert steps(folder) == ["step-000000015", "step-000000015.1"]
    assert len(steps(folder)) == KEPT
    assert newest_step(folder) == 15


def operations(folder: Path, step: int) -> Iterator[int]:
    """The numbers of the operations of one write, until one is beyond its end."""
    at = 0
    while True:
        disk = FailingDisk(at)
        before = newest_step(folder)
        try:
            resumed(folder, disk).write(content(step))
        except Cut:
            assert newest_step(folder) in (before, step)
        if not disk.failed:
            return
        yield at
        at += 1


@pytest.mark.parametrize("there", [(), (10,), (10, 20)])
def test_wherever_the_machine_goes_off_the_one_before_or_the_new_one_is_whole(
    tmp_path: Path, there: tuple[int, ...]
) -> None:
    folder = tmp_path / "checkpoint"
    store = Store(folder, Facts)
    for step in there:
        store.write(content(step))
    tried = 0
    for at in operations(folder, 30):
        tried = at + 1
        found = newest_step(folder)
        assert found in (max(there, default=None), 30)
    assert tried >= 9
    assert newest_step(folder) == 30
    assert len(steps(folder)) <= KEPT
    assert not (folder / ".unfinished").exists()


@pytest.mark.parametrize("at", range(13))
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_once_costs_at_most_this_checkpoint(tmp_path: Path, at: int, error: int) -> None:
    folder = tmp_path / "checkpoint"
    Store(folder, Facts).write(content(10))
    resumed(folder).write(content(20))
    disk = FailingDisk(at, error)
    store = resumed(folder, disk)
    try:
        store.write(content(30))
    except OSError as raised:
        assert raised.errno == error
    assert newest_step(folder) in (20, 30)
    store.write(content(40))
    assert newest_step(folder) == 40
    assert len(steps(folder)) == KEPT


def test_on_a_full_disk_the_older_one_makes_room_and_the_newest_whole_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    store = Store(folder, Facts, FullDisk(folder, room=2))
    for step in (10, 20, 30):
        store.write(content(step))
    assert steps(folder) == ["step-000000020", "step-000000030"]
    tight = resumed(folder, FullDisk(folder, room=1))
    with pytest.raises(OSError, match="No space"):
        tight.write(content(40))
    assert newest_step(folder) == 30


def test_an_older_checkpoint_is_not_given_up_for_room_while_the_newer_one_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    store = Store(folder, Facts, FullDisk(folder, room=2))
    store.write(content(10))
    damaged = store.write(content(20))
    (damaged / "model.safetensors").write_bytes(b"")
    store.write(content(30))
    assert steps(folder) == ["step-000000010", "step-000000030"]


@pytest.mark.parametrize("name", ["model.safetensors", "identity", INDEX])
@pytest.mark.parametrize("harm", ["gone", "cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, harm: str
) -> None:
    folder, store = tmp_path / "checkpoint", Store(tmp_path / "checkpoint", Facts)
    store.write(content(10))
    path = store.write(content(20)) / name
    blob = path.read_bytes()
    path.chmod(0o600)
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": blob[:-1], "flipped": bytes([blob[0] ^ 1]) + blob[1:], "empty": b""}[harm],
        )
    assert newest_step(folder) == 10
    assert "step-000000020 is damaged" in caplog.text
    resumed(folder).write(content(15))
    assert steps(folder) == ["step-000000010", "step-000000015"]


def test_of_a_checkpoint_whose_private_file_others_can_read_that_is_said_and_how_to_mend_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoint"
    path = Store(folder, Facts).write(content(10)) / "identity"
    path.chmod(0o644)  # as a copy by way of a USB stick has it
    assert newest_step(folder) == 10  # some volumes set modes of their own at each mount
    assert f"chmod 600 {path}" in caplog.text


def test_what_is_not_of_this_format_or_names_files_elsewhere_is_not_read(tmp_path: Path) -> None:
    folder, store = tmp_path / "checkpoint", Store(tmp_path / "checkpoint", Facts)
    index = store.write(content(10)) / INDEX
    text = index.read_text()
    for before, after in (
        ('"format": 1', '"format": 2'),
        ('"identity"', '"../identity"'),
        ('"word"', '"words"'),
        ('"step": 10', '"step": -1'),
        ('"step": 10', '"step": 10, "more": 1'),
    ):
        assert before in text
        index.write_text(text.replace(before, after))
        assert newest_step(folder) is None
    index.write_text(text)
    assert newest_step(folder) == 10


def test_a_new_run_sets_the_checkpoints_of_the_run_before_aside_once_it_has_one_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    Store(folder, Facts).write(content(900))
    new = Store(folder, Facts)
    assert newest_step(folder) == 900
    new.write(content(10))
    assert newest_step(folder) == 10
    assert newest_step(tmp_path / BEFORE) == 900
    Store(folder, Facts).write(content(20))  # started by mistake, perhaps: the longest stays
    assert (newest_step(folder), newest_step(tmp_path / BEFORE)) == (20, 900)
    Store(folder, Facts).write(content(900))
    Store(folder, Facts).write(content(1))
    assert (newest_step(folder), newest_step(tmp_path / BEFORE)) == (1, 900)


def test_checkpoints_are_found_from_the_output_folder_and_from_their_own(tmp_path: Path) -> None:
    Store(tmp_path / "checkpoint", Facts).write(content(1))
    assert checkpoint_folder(tmp_path) == checkpoint_folder(tmp_path / "checkpoint") == tmp_path / "checkpoint"
    for wrong in (tmp_path / "nowhere", tmp_path / "checkpoint" / "step-000000001"):
        with pytest.raises(ConfigError, match="resume"):
            checkpoint_folder(wrong)


@pytest.mark.parametrize(("inside", "given"), [("checkpoint", "."), (".", "."), (".", "checkpoint"), ("runs", "..")])
def test_the_output_folder_is_around_the_checkpoints_wherever_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, given: str
) -> None:
    Store(tmp_path / "checkpoint", Facts).write(content(1))
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / inside)
    assert checkpoint_folder(Path(given)).parent.resolve() == tmp_path.resolve()


def test_one_folder_is_for_one_peer_at_a_time(tmp_path: Path) -> None:
    lock = OutputLock(tmp_path)
    with pytest.raises(ConfigError, match="still writing there"):
        OutputLock(tmp_path)
    lock.close()
    OutputLock(tmp_path).close()
