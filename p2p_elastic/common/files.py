"""Files that are whole or not there after a crash, and that never follow another user's link.

Other users may be able to write to a folder of this peer, or have prepared it: a name in it may be a symbolic link, a
pipe, or a second name of another file. So a file is only ever made anew (`O_EXCL`), and one that is there is opened as
no link.
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
    """Write a new file; at the end it is on the disk.

    Args:
        path: a name that is free.
        mode: permissions, before the umask.

    Yields:
        The file, to be written to.

    Raises:
        OSError: if the name is taken or the file cannot be written.
    """
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, mode), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def replacing(path: Path, mode: int = 0o666) -> contextlib.AbstractContextManager[BinaryIO]:
    """Write a file that takes the place of `path` at the end. Until then, or after an error, the one before stays.

    Args:
        path: the name that it gets.
        mode: permissions, before the umask.

    Returns:
        A context with the file to be written to.

    Raises:
        OSError: if it cannot be written.
    """
    return _placed(path, mode, os.replace)


def creating(path: Path, mode: int) -> contextlib.AbstractContextManager[BinaryIO]:
    """Write a file that appears under `path` at the end, complete, unless the name is taken by then.

    Args:
        path: the name that it gets; a file that has it by then keeps it.
        mode: permissions, before the umask.

    Returns:
        A context with the file to be written to.

    Raises:
        FileExistsError: if the name is taken; readers see all of a file or none of it.
        OSError: if it cannot be written.
    """
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
    """Write a result, as `replacing` does.

    Args:
        path: the name that it gets.
        make_folder: whether to make the folder if it is missing.

    Yields:
        The file, to be written to.

    Raises:
        ConfigError: if it cannot be written.
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise ConfigError("output", str(path), f"cannot be written: {error.strerror or error}") from error


def remove_drafts(folder: Path) -> None:
    """Remove what a crash left of files being written.

    Args:
        folder: one to which nothing else writes now.

    Raises:
        OSError: if one cannot be removed.
    """
    for path in folder.iterdir():
        if DRAFT.fullmatch(path.name):
            path.unlink()


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; a file system that cannot do that is no error.

    Args:
        folder: one that exists.

    Raises:
        OSError: if it cannot be opened or synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot: some network drives
            raise
    finally:
        os.close(descriptor)


def make_subfolder(folder: Path) -> None:
    """Make a folder inside one that other users may have prepared.

    Args:
        folder: the one to make; it may exist.

    Raises:
        OSError: if it cannot be made, or is a symbolic link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, A_LINK, str(folder))


def make_private_folder(folder: Path) -> None:
    """Make a folder, and the missing ones around it, for its owner only (mode 0700).

    Args:
        folder: the one to make; it may exist.

    Raises:
        OSError: if one of them cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):  # `parents=True` would not give them the mode
        one.mkdir(mode=0o700, exist_ok=True)


def open_lock(path: Path) -> int:
    """Open a file to be locked; it is made if it is missing.

    Args:
        path: of the file.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        OSError: if it cannot be opened, or is a symbolic link.
    """
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise OSError(error.errno, A_LINK, str(path)) if error.errno == errno.ELOOP else error from None


def read_private(path: Path, key: str, bytes_max: int, *, refuse: bool = True) -> bytes:
    """Read the first bytes of a file that is meant for its owner only. It may be a link.

    Args:
        path: of the file.
        key: option in the errors.
        bytes_max: bytes that are read at most.
        refuse: whether a file that other users can read or change is an error, or only a warning in the log.

    Returns:
        At most `bytes_max` bytes.

    Raises:
        ConfigError: if other users can use it and `refuse`, or if it is no regular file.
        OSError: if it cannot be read.
    """
    # Without O_NONBLOCK opening a pipe would wait for a process that writes to it.
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
