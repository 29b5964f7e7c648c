"""The lives of peers: one process each, its record, its p2pd and what that leaves, and its memory."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from helpers.daemons import daemons_of, runs

from p2p_elastic.demo.processes import Process, Swarm

LAUNCHER = str(Path(__file__).with_name("launch.py"))
WATCH_SECONDS = 0.3


@dataclass
class Life:
    """One process of the peer `name`, from start to end."""

    name: str
    process: Process
    record: Path
    output: Path
    began: float = field(default_factory=time.monotonic)
    over: str | None = None  # how we ended it
    _read: int = 0
    _lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.child.pid

    @property
    def peer(self) -> str | None:
        """Its peer id, once it said so."""
        said = self.process.said.get("listening")
        return None if said is None else str(said["peer"])

    def lines(self) -> list[dict[str, Any]]:
        """Its record so far, oldest first; see `launch.py`. A line that is being written comes the next time."""
        if self.record.exists():
            with self.record.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    self._lines.append(json.loads(line))
        return self._lines

    def steps(self) -> list[tuple[float, float]]:
        """(monotonic seconds, training loss) of each optimizer step."""
        return [(line["at"], line["loss"]) for line in self.lines() if "step" in line]

    def completed(self, since: float = 0.0) -> list[dict[str, Any]]:
        """The exchanges that completed since then."""
        return [line for line in self.lines() if line.get("outcome") == "completed" and line["at"] >= since]

    def trains(self) -> bool:
        return self.over is None and any("step" in line for line in self.lines())

    def daemons(self) -> list[psutil.Process]:
        return daemons_of(self.pid)


def launched(**options: Any) -> tuple[str, str]:
    """What Python runs: `p2p-elastic`, with the options of `launch.py`."""
    return LAUNCHER, json.dumps(options)


RESTING = launched(rest=0.005)  # a step of the digits takes a tenth of that


def start(
    swarm: Swarm, folder: Path, name: str, arguments: list[str], options: dict[str, Any], output: Path | None = None
) -> Life:
    """Start a life of the peer `name` with the options of `launch.py`; `folder` is inside that of the swarm."""
    folder.mkdir(parents=True)
    record = folder / "record.jsonl"
    where = [] if output is None else ["--output", str(output)]
    process = swarm.start(folder.name, [*arguments, *where], launched(record=str(record), **options))
    return Life(name, process, record, output or folder)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Watcher:
    """Looks at all lives now and then: each p2pd that they had, the sockets of those, and how much memory they take."""

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.family: dict[int, psutil.Process] = {}  # ours and every p2pd, by process id
        self.sockets: set[Path] = set()
        self.memory: dict[str, list[float]] = {}  # name of the process -> MB of it and its p2pd, one per look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking, and end what is left over: a stopped process, say."""
        self._over.set()
        self._thread.join()
        self._look()
        for process in self.left_over():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
                process.kill()
        psutil.wait_procs(list(self.family.values()), timeout=5.0)
        for left in self.sockets:
            left.unlink(missing_ok=True)

    def left_over(self) -> list[psutil.Process]:
        """Of all processes that there ever were: those that still run."""
        return [p for p in self.family.values() if runs(p)]

    def wait_for_none(self, seconds: float) -> list[psutil.Process]:
        """Those that still run after so long."""
        return psutil.wait_procs(self.left_over(), timeout=seconds)[1]

    def sockets_left(self) -> list[Path]:
        return sorted(path for path in self.sockets if path.exists())

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            self._look()

    def _look(self) -> None:
        for life in list(self.lives):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(life.pid)
                family = [process, *life.daemons()]
                for one in family:
                    self.family.setdefault(one.pid, one)
                self.sockets.update(path for daemon in family[1:] for path in _sockets(daemon))
                total = sum(one.memory_info().rss for one in family) / 1e6
                if life.process.last.get("step") and process.status() != psutil.STATUS_ZOMBIE:
                    self.memory.setdefault(life.process.name, []).append(total)


def _sockets(daemon: psutil.Process) -> list[Path]:
    """The unix sockets that it was told to use; hivemind puts two into the temporary folder."""
    paths = [Path(word.split("/unix", 1)[1]) for word in daemon.cmdline() if "/unix/" in word]
    return [q for p in paths for q in (p, p.with_name(p.name.replace("p2pd", "p2pclient", 1)))]


def say(text: str) -> None:
    """To whoever watches."""
    print(text, file=sys.stderr, flush=True)
