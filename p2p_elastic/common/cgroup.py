"""The limits of the control groups around this process, as containers and systemd set them: CPU time and memory.

Files that are missing or unreadable mean no limit. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst; Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

UNLIMITED_BYTES = 2**60  # version 1 says "no limit" with a number near 2**63
MOUNT = Path("sys/fs/cgroup")


class _Files(NamedTuple):
    """The files of one memory controller; `cache` names what it gives back before it ends a process."""

    limit: str
    used: str
    cache: tuple[str, ...]


# Active files count as free too, as in the kernel's MemAvailable: a data set that is read again and again is active.
_V2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


class MemoryLimit(NamedTuple):
    """The memory of one group.

    Attributes:
        limit: bytes that its processes may have together.
        used: bytes that they have, without files that could be read again.
    """

    limit: int
    used: int

    @property
    def left(self) -> int:
        """Bytes that a process in it can still have."""
        return min(self.limit, max(0, self.limit - self.used))


def group_paths(listing: str, controller: str) -> list[tuple[int, Path]]:
    """Find the groups around a process: its own and those above, up to the mounted root.

    In a container the path is often the host's and not there; its own group is then what is mounted.

    Args:
        listing: text of `/proc/self/cgroup`.
        controller: name of version 1, such as `memory`.

    Returns:
        Version and relative path of each, the innermost first.
    """
    found = []
    for line in listing.splitlines():
        _, controllers, path = line.split(":", 2)
        own = Path(path.lstrip("/"))
        if controllers == "" or controller in controllers.split(","):
            found += [(1 if controllers else 2, part) for part in (own, *own.parents)]
    return found


def quota_of(text: str) -> float | None:
    """Read how much CPU time a group may have.

    Args:
        text: quota and period in microseconds, as in `cpu.max`; `max` or a negative quota is no limit.

    Returns:
        Cores, such as 1.5; None if there is no limit.
    """
    quota, period = text.split()[:2]
    if quota == "max" or int(quota) < 0:
        return None
    return int(quota) / int(period)


def limit_of(limit: str, used: str, stat: str, cache: tuple[str, ...]) -> MemoryLimit | None:
    """Read the memory of a group.

    Args:
        limit: text of the file with the limit.
        used: text of the file with the usage.
        stat: text of `memory.stat`.
        cache: names in it of what does not count as used.

    Returns:
        Limit and usage; None if there is no limit.
    """
    if limit.strip() == "max" or not 0 < int(limit) < UNLIMITED_BYTES:
        return None
    sizes = dict(line.split() for line in stat.splitlines())
    return MemoryLimit(int(limit), int(used) - sum(int(sizes.get(name, 0)) for name in cache))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Find how much CPU time this process may have.

    Args:
        root: stands in for `/`.

    Returns:
        Cores, of the strictest group; None if there is no limit.
    """
    return min(_quotas(root), default=None)


def memory_limits(root: Path = Path("/")) -> Iterator[MemoryLimit]:
    """Look at the memory of each group around this process that has a limit.

    Args:
        root: stands in for `/`.

    Yields:
        Limit and usage.
    """
    for version, path in _groups(root, "memory"):
        files, folder = (_V2, root / MOUNT / path) if version == 2 else (_V1, root / MOUNT / "memory" / path)
        with contextlib.suppress(OSError, ValueError):
            stat = folder / "memory.stat"
            text = stat.read_text() if stat.exists() else ""
            found = limit_of((folder / files.limit).read_text(), (folder / files.used).read_text(), text, files.cache)
            if found is not None:
                yield found


def _quotas(root: Path) -> Iterator[float]:
    for version, path in _groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            if version == 2:
                text = (root / MOUNT / path / "cpu.max").read_text()
            else:
                folder = root / MOUNT / "cpu" / path
                text = f"{(folder / 'cpu.cfs_quota_us').read_text()} {(folder / 'cpu.cfs_period_us').read_text()}"
            if (quota := quota_of(text)) is not None:
                yield quota


def _groups(root: Path, controller: str) -> list[tuple[int, Path]]:
    with contextlib.suppress(OSError, ValueError):
        return group_paths((root / "proc/self/cgroup").read_text(), controller)
    return []
