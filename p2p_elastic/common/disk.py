"""How much room is left on the disk of a folder, asked for without ever waiting for that disk."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LOOK_SECONDS = 5.0


class Space(NamedTuple):
    """The room of a disk.

    Attributes:
        free_bytes: that this user may still write.
        size_bytes: of the whole disk.
    """

    free_bytes: int
    size_bytes: int


class DiskSpace:
    """The room where a folder is. May be called from any thread, and never blocks: a network disk may hang for hours.

    Args:
        folder: that is written to.
        clock: monotonic seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._found: Space | None = None
        self._lock = threading.Lock()
        self._begin()

    def __call__(self) -> Space | None:
        """Say how much room there was at the last look, and begin another if that is old.

        Returns:
            The room; None if it is not known, or the disk has not answered yet.
        """
        with self._lock:
            if self._clock() - self._looked_at >= LOOK_SECONDS and not self._thread.is_alive():
                self._begin()
        return self._found

    def wait(self) -> None:
        """Wait until the look under way is over."""
        self._thread.join()

    def _begin(self) -> None:
        self._looked_at = self._clock()
        self._thread = threading.Thread(target=self._look, name="disk-space", daemon=True)  # a hung disk keeps nobody
        self._thread.start()

    def _look(self) -> None:
        try:
            size, _, free = shutil.disk_usage(self._folder)
        except OSError:
            self._found = None
        else:
            self._found = Space(free, size)
