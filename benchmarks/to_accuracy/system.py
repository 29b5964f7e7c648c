"""All peers of one system, started together, counted, and ended whatever happens; for to_accuracy.py."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from peer import Order

from p2p_elastic.errors import P2PElasticError

NAMESPACE = "P2P_ELASTIC_BENCHMARK_NAMESPACE"  # set once we are in a network namespace of our own
START_SECONDS, END_SECONDS = 180.0, 15.0
SAMPLE_SECONDS = 0.1
ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER
AVERAGED = re.compile(r"Averaged (\w+) with (\d+) peers")  # hivemind's log


def enter_private_loopback() -> bool:
    """Go on in a network namespace of our own, where nobody else's bytes are; False where that is not allowed here."""
    if os.environ.get(NAMESPACE):
        return True
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or ip is None:
        return False
    enter = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--net"]
    if subprocess.run([*enter, ip, "link", "set", "lo", "up"], capture_output=True, check=False).returncode != 0:
        return False
    os.environ[NAMESPACE] = "1"
    again = f'{ip} link set lo up && exec "$0" "$@"'
    os.execv(unshare, [*enter, "sh", "-c", again, sys.executable, *sys.argv])
    return True  # never: we are that other program now


def adopt_orphans() -> None:
    """What our children leave behind becomes our child: hivemind forks processes that survive who started them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1, 0, 0, 0)


def loopback_bytes() -> int:
    """Bytes sent over the loopback of this network namespace, with all headers; 0 where that is not known."""
    with contextlib.suppress(OSError), open("/proc/net/dev") as lines:
        for line in lines:
            if line.strip().startswith("lo:"):
                return int(line.split(":")[1].split()[8])
    return 0


@dataclass
class Record:
    """What is left of a system's run: the moments are those of the machine's monotonic clock."""

    folder: Path
    peers: int
    started: float = 0.0
    ended: float = 0.0
    sent: list[tuple[float, int]] = field(default_factory=list)  # over the loopback, by all peers
    averaged: Counter[str] = field(default_factory=Counter)  # hivemind: what, with how many -> times, over all peers

    def lines(self, rank: int) -> list[dict[str, Any]]:
        """What a peer wrote down."""
        path = self.folder / f"peer-{rank}" / "index.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def copies(self, rank: int) -> list[dict[str, Any]]:
        """The copies of its model that a peer made, in order."""
        return [line for line in self.lines(rank) if "file" in line]

    def began(self) -> list[float]:
        """When each peer began to train, those that did."""
        return [line["began"] for rank in self.ranks for line in self.lines(rank) if "began" in line]

    @property
    def ranks(self) -> range:
        return range(1, self.peers + 1)


Look = Callable[[Record], bool]
"""Asked now and then while all train; True where enough is seen."""


def run_system(orders: list[Order], seconds: float, look: Look) -> Record:
    """Start the peers of a system, let them train for so many seconds or until `look` has seen enough, and end them.

    Raises:
        P2PElasticError: a peer ended by itself, or they did not begin in time.
    """
    record = Record(Path(orders[0].folder), len(orders), started=time.monotonic())
    children: list[subprocess.Popen[bytes]] = []
    left = LeftBehind()
    with _ended(record, children, left):
        first = record.folder / "peer-1" / "addresses.json"
        for order in orders:
            initial = order.initial
            if order.rank > 1 and order.system != "all-reduce":
                _sample_until(record, children, first.exists, "the first peer's address", START_SECONDS)
                initial = json.loads(first.read_text())
            children.append(_start(order, initial))
        _sample_until(record, children, lambda: len(record.began()) == len(orders), "beginning", START_SECONDS)
        left.look()
        _sample_until(record, children, lambda: look(record), None, seconds)
        record.ended = time.monotonic()
    for rank in record.ranks:
        record.averaged.update(f"{what}, {n}" for what, n in AVERAGED.findall(_log(record, rank).read_text()))
    return record


def _start(order: Order, initial: list[str]) -> subprocess.Popen[bytes]:
    order.own.mkdir(parents=True)
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("peer.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HIVEMIND_LOGLEVEL": "INFO", "HIVEMIND_COLORS": "never"}
    with (order.own / "log").open("wb") as log:
        # In a session of its own: Ctrl-C here must not reach it before we have said that it is over.
        return subprocess.Popen(
            [*program, json.dumps({**asdict(order), "initial": initial})],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _sample_until(
    record: Record, children: list[subprocess.Popen[bytes]], done: Callable[[], bool], what: str | None, seconds: float
) -> None:
    """Count bytes until `done`; after so long it is an error where there is a `what`."""
    end = time.monotonic() + seconds
    while not done():
        record.sent.append((time.monotonic(), loopback_bytes()))
        for i, child in enumerate(children):
            if child.poll() is not None:
                raise P2PElasticError(f"peer {i + 1} ended by itself ({child.returncode}): {_tail(record, i + 1)}")
        if time.monotonic() > end:
            if what is None:
                return
            tails = "; ".join(f"{rank}: {_tail(record, rank, 200)}" for rank in range(1, len(children) + 1))
            raise P2PElasticError(f"{what} took longer than {seconds:.0f} s. {tails}")
        time.sleep(SAMPLE_SECONDS)
    record.sent.append((time.monotonic(), loopback_bytes()))


def _log(record: Record, rank: int) -> Path:
    return record.folder / f"peer-{rank}" / "log"


def _tail(record: Record, rank: int, characters: int = 1500) -> str:
    return _log(record, rank).read_text(errors="replace").strip()[-characters:] or "it said nothing"


@contextlib.contextmanager
def _ended(record: Record, children: list[subprocess.Popen[bytes]], left: LeftBehind) -> Iterator[None]:
    """Afterwards no process is left, nor their children, nor what those put where it does not go away by itself."""
    try:
        yield
        left.look()
        (record.folder / "stop").touch()
        end = time.monotonic() + END_SECONDS
        while any(child.poll() is None for child in children) and time.monotonic() < end:
            time.sleep(SAMPLE_SECONDS)
    finally:
        left.kill_all()
        for child in children:
            child.wait()
        left.remove()


class LeftBehind:
    """All descendants of this process, their sockets in the file system, and their shared memory (hivemind's)."""

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._sockets: set[Path] = set()

    def look(self) -> list[psutil.Process]:
        """Take down who is there now."""
        there = psutil.Process().children(recursive=True)
        for process in there:
            self._pids.add(process.pid)
            with contextlib.suppress(psutil.Error):
                named = [str(connection.laddr) for connection in process.net_connections("unix")]
                self._sockets.update(Path(name) for name in named if "/hivemind-" in name)
        return there

    def kill_all(self) -> None:
        """kill -9 them until there are none."""
        end = time.monotonic() + END_SECONDS
        while (there := self.look()) and time.monotonic() < end:
            for process in there:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(there, timeout=1.0)

    def remove(self) -> None:
        """Their files, once they are gone."""
        shared = [path for pid in self._pids for path in Path("/dev/shm").glob(f"torch_{pid}_*")]
        for path in (*self._sockets, *shared):
            path.unlink(missing_ok=True)
