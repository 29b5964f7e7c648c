"""A small disk that can be full: a tmpfs of a few megabytes (Linux, root)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

DISK_MEGABYTES = 8
BALLAST = "ballast"


def why_not() -> str | None:
    """Why there can be no such disk here; None where there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "mounting a tmpfs needs root"
    return None


class SmallDisk:
    """A folder on a disk of its own. Leaving the context takes the disk away; what matters is copied out before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.full = 0  # how often it was

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(parents=True)
        size = f"size={DISK_MEGABYTES}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "p2p-elastic-chaos", str(self.folder)], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)

    def fill(self) -> None:
        """From now on nothing can be written."""
        with contextlib.suppress(OSError), (self.folder / BALLAST).open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        self.full += 1

    def empty(self) -> None:
        (self.folder / BALLAST).unlink(missing_ok=True)
