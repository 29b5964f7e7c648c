"""What tests ask of processes of `p2p-elastic join`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from p2p_elastic.demo.processes import Process, Swarm

START_SECONDS = 120.0  # loading PyTorch on a busy machine


def completed(process: Process) -> int:
    """How many exchanges."""
    return int(process.last.get("exchanges", {}).get("by_outcome", {}).get("completed", 0))


def members(process: Process) -> int:
    """How many others it sees."""
    return int(process.last.get("members", 0))


def centre(process: Process) -> dict[str, Any]:
    """What it says of the centre variable; nothing where there is none."""
    return process.last.get("centre") or {}


def is_whole(path: Path) -> bool:
    """Whether a file is there and written to its end: of what `torch.save` writes in place, the end comes last."""
    return path.exists() and (path.suffix not in (".ckpt", ".pkl") or zipfile.is_zipfile(path))


def kill(swarm: Swarm, process: Process) -> None:
    """SIGKILL, and expect nothing more of it."""
    process.child.kill()
    process.child.wait()
    swarm.processes.remove(process)
