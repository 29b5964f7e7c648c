"""What a peer takes: memory, CPU until its first step, and CPU while nothing happens; two builds side by side.

    python benchmarks/speed/footprint.py                                  # this build
    python benchmarks/speed/footprint.py --other /elsewhere/bin/python    # and another one, in turns

Two peers train the task `digits` on one thread each and exchange; the second one is looked at. Then the same with a
model of 100 MB, and a peer that holds a centre and waits. Memory is resident memory above that of a bare `import torch`
in the same environment; memory in models is what the peak grows by from the small to the large model, divided by its
size. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MODEL_MB, HIDDEN = 100.0, 4950  # 64 * H + H * H + 10 * H parameters
LARGE = f"""
import dataclasses, sys
from torch import nn
import p2p_elastic.tasks as tasks
made = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, {HIDDEN}), nn.ReLU(), nn.Linear({HIDDEN}, {HIDDEN}), nn.ReLU(),
                             nn.Linear({HIDDEN}, 10))
tasks.TASKS["digits"] = dataclasses.replace(tasks.TASKS["digits"], model=made)
"""
RUN = """
import sys
from p2p_elastic.__main__ import run
sys.argv[1:] = {arguments!r}
run()
"""
JOIN = [
    *("join", "--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--threads", "1", "--log-format", "json"),
    *("--lr", "0.001"),
]
SETTLED_SECONDS, IDLE_SECONDS, START_SECONDS = 20.0, 20.0, 120.0


@contextmanager
def started(python: str, folder: Path, name: str, large: bool, *arguments: str) -> Iterator[psutil.Popen]:
    """A peer, and the end of it and of what it started."""
    code = (LARGE if large else "") + RUN.format(arguments=[*JOIN, "--output", str(folder / name), *arguments])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "XDG_STATE_HOME": str(folder)}
    with open(folder / f"{name}.log", "w") as log:
        process = psutil.Popen([python, "-c", code], stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30.0)
        except psutil.TimeoutExpired:
            process.kill()


def said(folder: Path, name: str, event: str, seconds: float = START_SECONDS) -> dict[str, object]:
    """Wait for what a peer says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for line in (folder / f"{name}.log").read_text().splitlines():
            if line.startswith("{") and (found := json.loads(line)).get("event") == event:
                return dict(found)
        time.sleep(0.05)
    raise TimeoutError(f"no {event} from {name}:\n{(folder / f'{name}.log').read_text()[-2000:]}")


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU of a process, without those of p2pd."""
    times = process.cpu_times()
    return float(times.user + times.system)


def peak(process: psutil.Process) -> float:
    """The most that was resident, in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def resident(process: psutil.Process) -> float:
    """What is resident, in MB."""
    return float(process.memory_info().rss) / 2**20


def bare(python: str) -> tuple[float, float]:
    """Resident MB and seconds of CPU of `import torch`."""
    code = "import torch, psutil; p = psutil.Process(); print(p.memory_info().rss / 2**20, sum(p.cpu_times()[:2]))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    memory, seconds = done.stdout.split()
    return float(memory), float(seconds)


def pair(python: str, *, large: bool) -> dict[str, float]:
    """Two peers; of the second: CPU until its first step, memory, that of its p2pd."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(python, folder, "first", large, "--steps", "10000000", "--period", "8"):
            address = said(folder, "first", "listening")["addresses"][0]  # type: ignore[index]
            said(folder, "first", "founded")
            joins = ("--steps", "10000000", "--initial-peer", str(address))
            with started(python, folder, "second", large, *joins) as second:
                said(folder, "second", "caught_up")
                first_step = cpu(second)
                time.sleep(SETTLED_SECONDS)
                daemons = [child for child in second.children(recursive=True) if "p2pd" in child.name()]
                return {
                    "cpu": first_step,
                    "resident": resident(second),
                    "peak": peak(second),
                    "p2pd": sum(map(resident, daemons)),
                }


def idle(python: str) -> float:
    """The share of a core that a peer takes which holds a centre that nobody comes to, p2pd included, in percent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(python, folder, "centre", False, "--rule", "easgd", "--role", "centre") as centre:
            said(folder, "centre", "founded")
            time.sleep(5.0)
            everybody = [centre, *centre.children(recursive=True)]
            before = sum(map(cpu, everybody))
            time.sleep(IDLE_SECONDS)
            return 100.0 * (sum(map(cpu, everybody)) - before) / IDLE_SECONDS


def measure(python: str) -> dict[str, float]:
    """Everything of one build, once."""
    memory, seconds = bare(python)
    small, large = pair(python, large=False), pair(python, large=True)
    return {
        "MB above import torch": small["resident"] - memory,
        "CPU s to the first step": small["cpu"],
        "of these import torch": seconds,
        "p2pd MB": small["p2pd"],
        "peak, in models of 100 MB": (large["peak"] - small["peak"]) / MODEL_MB,
        "idle, % of a core": idle(python),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", help="the Python of another environment, with another build in it")
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    builds = [sys.executable, *([asked.other] if asked.other else [])]
    found: dict[str, list[dict[str, float]]] = {python: [] for python in builds}
    for _ in range(asked.times):
        for python in builds:
            found[python].append(measure(python))
            print(python, {key: round(value, 2) for key, value in found[python][-1].items()}, flush=True)
    medians = [
        {key: statistics.median(run[key] for run in found[python]) for key in found[python][0]} for python in builds
    ]
    print("| | " + " | ".join(["this build", "the other", "ratio"][: 1 + 2 * (len(builds) - 1)]) + " |")
    print("|---|" + "---|" * (1 + 2 * (len(builds) - 1)))
    for key, ours in medians[0].items():
        others = [f"{medians[1][key]:.2f}", f"{ours / medians[1][key]:.2f}"] if len(medians) > 1 else []
        print(f"| {key} | " + " | ".join([f"{ours:.2f}", *others]) + " |")


if __name__ == "__main__":
    main()
