"""Checkpoints on disk: each one is whole or not there at all, whenever the machine stops or the disk is full.

    checkpoint/
        step-000000500/             the one before
        step-000000750/             the newest
            model.safetensors ...   tensors
            identity                a private file, for its owner's eyes
            checkpoint.json         everything else, and the SHA-256 of every other file
        .unfinished/                being written, or left behind by a crash

A checkpoint is written as `.unfinished`, synced to the disk and renamed: that one rename makes it exist. Older ones go
only after it. What is read was either written in whole or, by its digests, is known not to be: then the one before is
taken.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from p2p_elastic.checkpoint.disk import CHUNK_BYTES, Chunks, Disk, LocalDisk
from p2p_elastic.checkpoint.tensor_file import safetensors_chunks
from p2p_elastic.common.files import open_lock, read_private, remove_drafts
from p2p_elastic.errors import ConfigError
from p2p_elastic.values import Frozen

log = logging.getLogger(__name__)
FOLDER, BEFORE, INDEX, TENSORS = "checkpoint", "checkpoint-before", "checkpoint.json", ".safetensors"
UNFINISHED, DROPPED, LOCK = ".unfinished", ".dropped", ".checkpoint.lock"
KEPT = 2  # the newest, and one to fall back to if that is damaged
INDEX_BYTES_MAX = 2**24
FULL = (errno.ENOSPC, errno.EDQUOT)
NAME = re.compile(r"step-([0-9]{9,12})(?:\.([0-9]{1,9}))?")

Facts = TypeVar("Facts", bound=BaseModel)


class Content(NamedTuple):
    """What goes into a checkpoint.

    Attributes:
        step: by which it is named.
        facts: what is written as JSON.
        tensors: on the CPU, by file and name.
        private: files for their owner alone, by name.
        learnt: names in the file of the model; if one of these tensors is not finite, it is not worth keeping.
    """

    step: int
    facts: BaseModel
    tensors: Mapping[str, Mapping[str, Tensor]]
    private: Mapping[str, bytes] = MappingProxyType({})
    learnt: Collection[str] = ()


@dataclass(frozen=True)
class Found(Generic[Facts]):  # a generic NamedTuple needs Python 3.11
    """A checkpoint that was read.

    Attributes:
        folder: its path.
        step: of the checkpoint.
        facts: its JSON.
        tensors: on the CPU, by file and name.
        private: the files for their owner alone, by name.
    """

    folder: Path
    step: int
    facts: Facts
    tensors: dict[str, dict[str, Tensor]]
    private: Mapping[str, bytes]


class File(Frozen):
    """What one file of a checkpoint must be."""

    bytes: Annotated[int, Field(ge=0, lt=2**53)] = Field(description="its size")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="in hexadecimal digits")


class Index(Frozen, Generic[Facts]):
    """The content of `checkpoint.json`."""

    format: Literal[1] = Field(default=1, description="of the folder")
    step: Annotated[int, Field(ge=0, lt=10**12)] = Field(description="of the training")
    files: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}(\.safetensors)?$")], File], Field(max_length=16)
    ] = Field(description="every other file by name")
    facts: Facts = Field(description="what the owner of the store keeps")


class Store(Generic[Facts]):
    """The checkpoints of one run in one folder.

    Args:
        folder: their place, which need not be there yet.
        facts: the model that their JSON must fit.
        disk: does what is done to the disk; None: this machine's.
    """

    def __init__(self, folder: Path, facts: type[Facts], disk: Disk | None = None) -> None:
        self._folder, self._index, self._disk = folder, Index[facts], disk or LocalDisk()  # type: ignore[valid-type]
        self._begun = False
        self._read_from: tuple[int, int] | None = None

    def newest(self) -> Found[Facts] | None:
        """Read the newest whole checkpoint. What is damaged is passed over, and logged.

        Returns:
            The checkpoint; None if there is none.
        """
        for folder in reversed(self._all()):
            try:
                found = self._read(folder)
            except (OSError, ValueError, SafetensorError) as error:
                log.warning("the checkpoint %s is damaged, the one before it is taken: %s", folder, error)
                continue
            self._read_from = _order(folder)
            return found
        return None

    def write(self, content: Content) -> Path:
        """Write a checkpoint, then remove all but the newest KEPT.

        If an OSError is raised, what was there before is still there.

        Args:
            content: all of it.

        Returns:
            The new checkpoint's folder.
        """
        self._begin()
        try:
            written = self._write(content)
        except OSError as error:
            if error.errno not in FULL or not self._make_room():
                raise
            written = self._write(content)
        try:
            for folder in self._all()[:-KEPT]:
                self._drop(folder)
        except OSError as error:  # a reason to look at the disk; but this checkpoint is there
            log.warning("an old checkpoint cannot be removed: %s", error)
        return written

    # -- writing ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Before the first checkpoint: take away what a crash left, and what does not belong to this run."""
        if self._begun:
            return
        for name in (UNFINISHED, DROPPED):
            self._disk.remove(self._folder / name)
        if self._read_from is None and self._all():  # of another run: its owner may still want it
            self._set_aside()
        for folder in self._all():
            if self._read_from is not None and _order(folder) > self._read_from:
                self._drop(folder)  # damaged: or it would have been read
        self._begun = True

    def _set_aside(self) -> None:
        """Of the run before and what was set aside for its sake, the one that went further stays."""
        before = self._folder.with_name(BEFORE)
        kept = _checkpoints(before)
        if kept and _order(kept[-1]) > _order(self._all()[-1]):
            self._disk.remove(self._folder)
            log.warning("%s has the checkpoints of an earlier run still; those of the run before are gone", before)
            return
        self._disk.remove(before)
        self._disk.rename(self._folder, before)
        log.warning("the checkpoints of the run before are in %s now", before)

    def _write(self, content: Content) -> Path:
        unfinished = self._folder / UNFINISHED
        try:
            self._disk.remove(unfinished)
            self._disk.make(unfinished)
            files = {}
            for name, tensors in content.tensors.items():
                files[name + TENSORS] = self._file(unfinished / (name + TENSORS), safetensors_chunks(tensors))
            for name, blob in content.private.items():
                files[name] = self._file(unfinished / name, [blob], private=True)
            index = self._index(step=content.step, files=files, facts=content.facts)
            self._disk.write(unfinished / INDEX, [index.model_dump_json(indent=1).encode()], private=False)
            self._disk.sync(unfinished)
            target = self._free_name(content.step)
            self._disk.rename(unfinished, target)
        except OSError:
            self._tidy(unfinished)
            raise
        self._disk.sync(self._folder)
        return target

    def _file(self, path: Path, chunks: Chunks, *, private: bool = False) -> File:
        digest, size = hashlib.sha256(), 0

        def hashed() -> Iterator[bytes | memoryview]:
            nonlocal size
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        self._disk.write(path, hashed(), private=private)
        return File(bytes=size, sha256=digest.hexdigest())

    def _free_name(self, step: int) -> Path:
        """A name beyond all others of this step: the model may move after it, such as by a last exchange."""
        taken = [repeat for at, repeat in map(_order, self._all()) if at == step]
        suffix = f".{max(taken) + 1}" if taken else ""
        return self._folder / f"step-{step:09}{suffix}"

    def _tidy(self, unfinished: Path) -> None:
        try:
            self._disk.remove(unfinished)
        except OSError as error:
            log.info("an unfinished checkpoint stays until the next one: %s", error)

    def _make_room(self) -> bool:
        """Remove all checkpoints but the newest whole one. False if there is nothing to be removed."""
        for folder in reversed(self._all()):
            try:
                self._read(folder)
            except (OSError, ValueError, SafetensorError, ConfigError):
                continue
            others = [other for other in self._all() if other != folder]
            for other in others:
                self._drop(other)
            return bool(others)
        return False

    def _drop(self, folder: Path) -> None:
        """Remove a checkpoint so that no half of it is ever taken for a damaged one."""
        dropped = self._folder / DROPPED
        self._disk.remove(dropped)
        self._disk.rename(folder, dropped)
        self._disk.remove(dropped)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _all(self) -> list[Path]:
        """All checkpoints that are there, the oldest first."""
        return _checkpoints(self._folder)

    def _read(self, folder: Path) -> Found[Facts]:
        """Raises OSError, ValueError or SafetensorError if it is not as it was written; ConfigError if what is private
        is no file."""
        if (folder / INDEX).stat().st_size > INDEX_BYTES_MAX:
            raise ValueError(f"{INDEX} is too large")
        index: Index[Any] = self._index.model_validate_json((folder / INDEX).read_bytes())
        for name, file in index.files.items():
            if _looked_at(folder / name, file.bytes) != file:
                raise ValueError(f"{name} is not what was written")
        tensors = {n.removesuffix(TENSORS): load_file(folder / n) for n in index.files if n.endswith(TENSORS)}
        # Written for its owner alone; some volumes set modes of their own at each mount, and a restart works there too.
        private = {
            n: read_private(folder / n, n, f.bytes, refuse=False)
            for n, f in index.files.items()
            if not n.endswith(TENSORS)
        }
        return Found(folder, index.step, index.facts, tensors, private)


def checkpoint_folder(given: Path) -> Path:
    """Find the folder with the checkpoints.

    Args:
        given: this folder, or the output folder around it.

    Returns:
        An absolute path: the folder around "." has no other name.

    Raises:
        ConfigError: if neither has checkpoints.
    """
    for folder in (Path(os.path.abspath(given)), Path(os.path.abspath(given / FOLDER))):
        if _checkpoints(folder):
            return folder
    raise ConfigError("resume", str(given), f"an output folder with checkpoints in it, or its folder {FOLDER}")


def has_checkpoints(output: Path) -> bool:
    """Whether there is a checkpoint in an output folder, whole or not.

    Args:
        output: the folder around that of the checkpoints.

    Returns:
        True if there is one.
    """
    return bool(_checkpoints(output / FOLDER))


class OutputLock:
    """Keeps other processes from writing checkpoints into an output folder, until it is closed or this one ends.

    Args:
        folder: the output folder.

    Raises:
        ConfigError: if another process holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._descriptor = open_lock(folder / LOCK)
        except OSError as error:
            raise ConfigError("output", str(folder / LOCK), f"cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_drafts(folder)
        except BlockingIOError as error:
            self.close()
            raise ConfigError(
                "output", str(folder), "a peer is still writing there: end it, or take another"
            ) from error
        except OSError as error:  # a file system without locks, say
            log.info("%s cannot be locked, or tidied up: %s", folder, error)

    def close(self) -> None:
        """Let other processes in."""
        os.close(self._descriptor)


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=_order)


def _order(folder: Path) -> tuple[int, int]:
    """The step, and the number of the checkpoint among those of that step, from 0."""
    match = NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _looked_at(path: Path, size: int) -> File:
    """Size and digest of a file; if its size is not the expected one it is not read."""
    there = path.stat().st_size
    digest = hashlib.sha256()
    if there == size:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return File(bytes=there, sha256=digest.hexdigest())
