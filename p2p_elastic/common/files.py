"""Files that are whole or not there, whatever happens meanwhile, and never at the other end of somebody's link.

Others may be able to write to a folder of ours, or have prepared it: a name in it may be a symbolic link, a pipe, or a
second name of another file. So a file is only ever made anew (`O_EXCL`), and one that is there is opened as no link.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from p2p_elastic.errors import ConfigError

DRAFT = re.compile(r"\.[0-9a-f]{16}\.part")
NO_LINKS = {errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}  # FAT, some FUSE drives
log = logging.getLogger(__name__)
A_LINK = "it is a symbolic link; remove it"


@contextlib.contextmanager
def new_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file to be written to; at the end it is on the disk. Raises OSError where that name is taken."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, mode), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def replacing(path: Path, mode: int = 0o666) -> contextlib.AbstractContextManager[BinaryIO]:
    """A new file that takes the place of `path` at the end. Until then, or after an error, the one before stays.

    Raises:
        OSError: it cannot be written.
    """
    return _placed(path, mode, os.replace)


def creating(path: Path, mode: int) -> contextlib.AbstractContextManager[BinaryIO]:
    """The same, but what has the name meanwhile keeps it: then FileExistsError. Who sees the file sees all of it."""
    return _placed(path, mode, _link)


def _link(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with new_file(path, stat.S_IMODE(draft.stat().st_mode)) as file:
            file.write(draft.read_bytes())


@contextlib.contextmanager
def _placed(path: Path, mode: int, place: Callable[[Path, Path], object]) -> Iterator[BinaryIO]:
    draft = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with new_file(draft, mode) as file:
            yield file
        place(draft, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


@contextlib.contextmanager
def output_file(path: Path, *, make_folder: bool = False) -> Iterator[BinaryIO]:
    """`replacing`, of a result, in a folder that is made where missing and wanted. Raises ConfigError."""
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise ConfigError("output", str(path), f"cannot be written: {error.strerror or error}") from error


def remove_drafts(folder: Path) -> None:
    """Remove what a crash left of files being written, in a folder where nobody else writes now. Raises OSError."""
    for path in folder.iterdir():
        if DRAFT.fullmatch(path.name):
            path.unlink()


def sync(folder: Path) -> None:
    """When this returns, the names in a folder are on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot: some network drives
            raise
    finally:
        os.close(descriptor)


def make_subfolder(folder: Path) -> None:
    """Make a folder inside one that others may have prepared. Raises OSError, also where it is a symbolic link."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, A_LINK, str(folder))


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those around it where missing, for its owner only. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):  # `parents=True` would not give them the mode
        one.mkdir(mode=0o700, exist_ok=True)


def open_lock(path: Path) -> int:
    """A descriptor of the file, made where missing, to be locked. Raises OSError, also where it is a symbolic link."""
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise OSError(error.errno, A_LINK, str(path)) if error.errno == errno.ELOOP else error from None


def read_private(path: Path, key: str, bytes_max: int, *, refuse: bool = True) -> bytes:
    """The first bytes of a file for its owner's eyes, which may be linked to.

    Raises:
        ConfigError: others can use it, unless that is not to `refuse` it but only said; or it is no file. `key` is how
            the user names it.
        OSError: it cannot be read.
    """
    # Without O_NONBLOCK opening a pipe would wait for whoever writes to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(key, str(path), "is not a regular file")
        if mode & 0o077:
            advice = f"others on this machine may read or change it: chmod 600 {shlex.quote(str(path))}"
            if refuse:
                raise ConfigError(key, str(path), advice)
            log.warning("%s: %s", path, advice)
        return file.read(bytes_max)
