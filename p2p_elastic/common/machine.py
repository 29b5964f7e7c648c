"""What this process may use of the machine."""

from __future__ import annotations

import os


def cores() -> int:
    """Count the CPU cores that this process may use.

    Returns:
        At least 1: the cores of its affinity mask on Linux, all cores on other systems.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
