"""What is done to the disk for a checkpoint: each operation may fail, or be the last thing that happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from p2p_elastic.common.files import make_subfolder, new_file, sync

CHUNK_BYTES = 2**20  # hashed and written at once, without holding Python's lock: training goes on meanwhile

Chunks = Iterable["bytes | memoryview"]


class Disk(Protocol):
    """What may fail or be the last thing that happens. All raise OSError."""

    def make(self, folder: Path) -> None:
        """Make a folder, and those around it, if they are missing.

        Args:
            folder: its path.
        """

    def write(self, path: Path, chunks: Chunks, *, private: bool) -> None:
        """Write a new file; when this returns it is on the disk.

        Args:
            path: of the file; nothing is there yet.
            chunks: its content.
            private: whether its owner alone may read it.
        """

    def sync(self, folder: Path) -> None:
        """Put the names in a folder on the disk, before this returns.

        Args:
            folder: its path.
        """

    def rename(self, old: Path, new: Path) -> None:
        """Give a folder another name, at once.

        Args:
            old: is there.
            new: is not there yet.
        """

    def remove(self, folder: Path) -> None:
        """Remove a folder with all that is in it, if it is there; a crash may leave a part.

        Args:
            folder: its path.
        """


class LocalDisk:
    """The `Disk` of this machine."""

    def make(self, folder: Path) -> None:
        """Make a folder and the one around it.

        Args:
            folder: its path.
        """
        make_subfolder(folder.parent)
        make_subfolder(folder)

    def write(self, path: Path, chunks: Chunks, *, private: bool) -> None:
        """Write and sync a new file.

        Args:
            path: of the file.
            chunks: its content.
            private: mode 0o400 instead of what the umask leaves of 0o666.
        """
        with new_file(path, 0o400 if private else 0o666) as file:
            file.writelines(chunks)

    def sync(self, folder: Path) -> None:
        """Sync a folder.

        Args:
            folder: its path.
        """
        sync(folder)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a folder.

        Args:
            old: its path.
            new: its new path.
        """
        old.rename(new)

    def remove(self, folder: Path) -> None:
        """Remove a folder, or the link that is in its place.

        Args:
            folder: its path.
        """
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
