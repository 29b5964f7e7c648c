"""What this process may use of the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from p2p_elastic.common.cgroup import cpu_quota, memory_limits
from p2p_elastic.errors import ConfigError

VECTORS = 5  # model sizes in RAM: snapshots, the partner's values, the move, what is on its way
DEVICE_VECTORS = 3  # on the device that trains: parameters, gradients, momentum; activations come on top
OPTIMIZER_VECTORS = {  # more of them; AdamW, also beside Muon, has two averages
    "sgd": 0,
    "adamw": 1,
    "adahessian": 3,
    "muon": 1,
    "schedule-free": 2,  # z, and a copy of the parameters while a move is added; it has one average and no momentum
}
OUTER_VECTORS = 2  # more of them: the slow parameters and the momentum of an outer optimizer


def cores(root: Path = Path("/")) -> int:
    """Count the CPU cores that this process may use.

    A quota of CPU time, as a container has, is rounded down: threads that wait for each other all stop when it is used
    up. Python's own count (`os.process_cpu_count`) knows no quota.

    Args:
        root: stands in for `/`.

    Returns:
        At least 1: of the affinity mask and the quota on Linux, all cores on other systems.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return usable if quota is None else max(1, min(usable, int(quota)))


def left_of_limits(root: Path = Path("/")) -> int | None:
    """Find how much memory the limits of a container leave.

    Args:
        root: stands in for `/`.

    Returns:
        Bytes; None if there is no limit.
    """
    return min((limit.left for limit in memory_limits(root)), default=None)


def free_memory(root: Path = Path("/")) -> int | None:
    """Find how much RAM a new program can have: of the machine, or of what the limit of a container leaves.

    Args:
        root: stands in for `/`.

    Returns:
        Bytes; None if the system does not say.
    """
    found = [size for size in (_available(root / "proc/meminfo"), left_of_limits(root)) if size is not None]
    if found:
        return min(found)
    with contextlib.suppress(OSError, ValueError):  # macOS has no such number
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def device_vectors(optimizer: str, *, outer: bool = False) -> int:
    """Count the vectors of model size on the device that trains: parameters, gradients and optimizer state.

    Args:
        optimizer: its name.
        outer: whether the run has an outer optimizer.

    Returns:
        How many model sizes of memory they take.
    """
    return DEVICE_VECTORS + OPTIMIZER_VECTORS[optimizer] + OUTER_VECTORS * outer


def check_fits(model_bytes: int, vectors: int, left: int | None) -> None:
    """Refuse a model that the limit of a container has no room for: the kernel would end the peer in the middle.

    Args:
        model_bytes: size of the model in float32.
        vectors: model sizes that a peer holds in RAM.
        left: bytes that the limit leaves; None: there is no limit. Without one the system may swap.

    Raises:
        ConfigError: if it does not fit.
    """
    need = model_bytes * vectors
    if left is not None and need > left:
        allowed = f"{need / 1e6:.0f} MB for the model ({vectors} x {model_bytes / 1e6:.1f} MB)"
        advice = "raise the memory limit of the container (`--memory`, `MemoryMax=`), or choose a smaller task"
        raise ConfigError("memory", f"{left / 1e6:.0f} MB left of the limit", f"{allowed}: {advice}")


def _available(meminfo: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
