"""Run one version of the loop with two processes, and with what else it needs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
START_SECONDS, RUN_SECONDS, STOP_SECONDS = 30.0, 180.0, 5.0
POLL_SECONDS = 0.2
ROUNDS = 5
ADDRESS, LOSS = r"(/ip4/\d[^'\s]+/p2p/\w+)", r"last loss (\d+\.\d+)"


class Ran(NamedTuple):
    """How two processes ended; seconds of wall time."""

    well: bool
    losses: list[str]
    seconds: float
    error: str = ""


class Processes:
    """Those of one run: their output goes to files in a folder; what is left at the end is stopped."""

    def __init__(self, folder: Path, binaries: Path, environment: Mapping[str, str]) -> None:
        self.folder, self._started = folder, dict[str, subprocess.Popen[bytes]]()
        path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "OMP_NUM_THREADS": "1", "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0"}
        self._environment = {**os.environ, **own, **environment}

    def start(self, name: str, *command: str | Path) -> None:
        with (self.folder / f"{name}.txt").open("wb") as out:
            self._started[name] = subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
            )

    def said(self, name: str, pattern: str) -> list[str]:
        return re.findall(pattern, (self.folder / f"{name}.txt").read_text("utf-8", "replace"))

    def wait_for(self, name: str, pattern: str) -> str:
        """The first match of a pattern in what a process prints. Raises TimeoutError."""
        end = time.monotonic() + START_SECONDS
        while not (found := self.said(name, pattern)):
            if time.monotonic() > end or self._started[name].poll() is not None:
                raise TimeoutError(f"{name} did not print what was waited for: {self.last_line(name)}")
            time.sleep(POLL_SECONDS)
        return found[0]

    def end_well(self, *names: str) -> bool:
        """Whether these processes end by themselves, without an error."""
        end = time.monotonic() + RUN_SECONDS
        return all(self._started[name].wait(max(0.1, end - time.monotonic())) == 0 for name in names)

    def last_line(self, name: str) -> str:
        lines = (self.folder / f"{name}.txt").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def stop(self) -> None:
        """Each has a session of its own, so that what it forked ends with it."""
        for process in reversed(self._started.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def processes(binaries: Path, environment: Mapping[str, str]) -> Iterator[Processes]:
    with tempfile.TemporaryDirectory() as folder:
        started = Processes(Path(folder), binaries, environment)
        try:
            yield started
        finally:
            started.stop()


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def version_of(library: str, python: str) -> str:
    asked = f"import importlib.metadata as m; print(m.version({library.replace('_', '-')!r}))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True)
    return done.stdout.strip() or "not installed"


def run_two(name: str, python: str, steps: int) -> Ran:
    """Run `with_NAME.py` (or `plain.py`) by an interpreter, for so many steps in each of two processes."""
    began = time.monotonic()
    runner = {"plain": run_plain, "torchft": run_torchft, "flower": run_flower}.get(name, run_peers)
    ports = free_ports(3)
    environment = {"TORCHFT_LIGHTHOUSE": f"http://127.0.0.1:{ports[0]}"} if name == "torchft" else {}
    with processes(Path(python).parent, environment) as started:
        try:
            well = runner(started, name, python, steps, ports)
            error = "" if well else started.last_line("1")
        except (TimeoutError, subprocess.TimeoutExpired, OSError) as failure:
            well, error = False, str(failure)
        files = [file.stem for file in sorted(started.folder.glob("?.txt"))]
        losses = [loss for file in files for loss in started.said(file, LOSS)[-1:]]
    return Ran(well and len(losses) == 2, losses, time.monotonic() - began, error)


def run_plain(started: Processes, _name: str, python: str, steps: int, _ports: list[int]) -> bool:
    for half in ("0", "1"):
        started.start(half, python, HERE / "plain.py", str(steps), half)
    return started.end_well("0", "1")


def run_peers(started: Processes, name: str, python: str, steps: int, _ports: list[int]) -> bool:
    """The second peer gets the address that the first one prints."""
    script = HERE / f"with_{name}.py"
    started.start("0", python, script, str(steps), "0")
    address = started.wait_for("0", ADDRESS)
    started.start("1", python, script, str(steps), "1", address)
    return started.end_well("0", "1")


def run_torchft(started: Processes, name: str, python: str, steps: int, ports: list[int]) -> bool:
    lighthouse = Path(python).parent / "torchft_lighthouse"
    bind = f"127.0.0.1:{ports[0]}"
    started.start("lighthouse", lighthouse, "--bind", bind, "--min_replicas", "2", "--join_timeout_ms", "10000")
    for half, port in zip(("0", "1"), ports[1:], strict=True):
        torchrun = (python, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_port", str(port))
        started.start(half, *torchrun, HERE / f"with_{name}.py", str(steps), half)
    return started.end_well("0", "1")


def run_flower(started: Processes, name: str, python: str, steps: int, ports: list[int]) -> bool:
    """The app is a folder of its own, as `flwr run` wants it; its clients print what they reach."""
    folder, binaries = started.folder, Path(python).parent
    (folder / "app").mkdir()
    shutil.copy(HERE / f"with_{name}.py", folder / "app")
    shutil.copy(HERE / "flower_app.toml", folder / "app" / "pyproject.toml")
    link = f"127.0.0.1:{ports[0]}"
    settings = ("[superlink]", 'default = "own"', "[superlink.own]", f'address = "{link}"', "insecure = true")
    (folder / "config.toml").write_text("\n".join(settings), "utf-8")
    superlink = (binaries / "flower-superlink", "--insecure", "--port", str(ports[0]))
    started.start("superlink", *superlink, "--disable-runtime-dependency-installation")
    started.wait_for("superlink", "startup complete")
    for half, port in zip(("0", "1"), ports[1:], strict=True):
        node = (binaries / "flower-supernode", "--insecure", "--superlink", link, "--port", str(port))
        started.start(half, *node, "--node-config", f"half={half}")
    given = f"steps={steps} rounds={ROUNDS}"
    started.start("run", binaries / "flwr", "run", "app", "own", "--stream", "--run-config", given)
    return started.end_well("run")
