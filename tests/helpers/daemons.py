"""Processes that come and go while they are looked at, and the p2pd daemons among them."""

from __future__ import annotations

import psutil


def daemons_of(pid: int) -> list[psutil.Process]:
    """The daemons that this process started and that run; none where it has ended."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if runs(child, "p2pd")]


def runs(process: psutil.Process, name: str = "") -> bool:
    """Whether it is still there, and `name` is in its name."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and name in process.name()
    except psutil.NoSuchProcess:
        return False
