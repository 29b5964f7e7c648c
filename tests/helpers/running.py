"""What tests ask of processes of `p2p-elastic join`."""

from __future__ import annotations

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


def kill(swarm: Swarm, process: Process) -> None:
    """SIGKILL, and expect nothing more of it."""
    process.child.kill()
    process.child.wait()
    swarm.processes.remove(process)
