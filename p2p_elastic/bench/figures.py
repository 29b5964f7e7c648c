"""Figures of repeated measurements: medians with their spread, and ratios within one run."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from p2p_elastic import __version__


class Spread(NamedTuple):
    """Median, smallest and largest of several runs.

    Attributes:
        median: of all.
        low: the smallest.
        high: the largest.
        runs: how many there were.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values.

        Args:
            values: at least one.

        Returns:
            Their spread.

        Example:
            >>> Spread.of([3.0, 1.0, 2.0])
            Spread(median=2.0, low=1.0, high=3.0, runs=3)
        """
        return cls(statistics.median(values), min(values), max(values), len(values))

    def to_json(self) -> dict[str, float | int]:
        """Convert it for JSON.

        Returns:
            The fields, rounded to five digits.
        """
        return {key: _rounded(value) if key != "runs" else int(value) for key, value in self._asdict().items()}


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Divide values by a base, pair by pair: what disturbs the machine for a while disturbs both of a pair.

    Args:
        values: measured.
        base: measured in the same runs.

    Returns:
        Spread of the ratios.

    Example:
        >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]).median
        2.0
    """
    return Spread.of([value / against for value, against in zip(values, base, strict=True)])


def quantile(values: Sequence[float], share: float) -> float:
    """Find the value that a share of all values does not exceed.

    Args:
        values: at least one.
        share: 0 to 1.

    Returns:
        One of the values.

    Example:
        >>> quantile([5.0, 1.0, 2.0, 3.0, 4.0], 0.5)
        3.0
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def as_json(value: Any) -> Any:
    """Convert figures for JSON: each spread as an object, and numbers of a readable length.

    Args:
        value: mappings, sequences, spreads, numbers and texts.

    Returns:
        What `json.dumps` can write.
    """
    if isinstance(value, Spread):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    return _rounded(value) if isinstance(value, float) else value


def machine() -> dict[str, Any]:
    """Describe what is measured on.

    Returns:
        Versions, system, cores and GPU.
    """
    return {
        "p2p_elastic": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_seconds(pid: int) -> float:
    """Read the CPU time that a process has used so far.

    Args:
        pid: of the process.

    Returns:
        Seconds, to the nanosecond on Linux; 0 if the system does not say.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3) of another process; /proc has 10 ms ticks
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def resident_bytes() -> int | None:
    """Read the memory of this process now.

    Returns:
        Bytes; None if the system does not say it in /proc.
    """
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def forget_peak() -> None:
    """Let `peak_bytes` count from now on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system, or not allowed: then it is the peak of the whole life
        return


def peak_bytes() -> int | None:
    """Read the most memory that this process had.

    Returns:
        Bytes; None if the system does not say it in /proc.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
