"""What a machine must have: memory, CPU, disk and link of a peer, for each task. Linux.

    python benchmarks/speed/minimum.py --data-dir DIR [--tasks digits,mnist] [--seconds 25]

Two peers run on this machine, with one thread each and the run's defaults; the second one is looked at. `idle` stands
by for a centre and trains nothing. Memory is the most that was resident, of Python and of libp2p's program apart; the
link is what exchanges sent and received; the disk is the run's folder at the end. Best with the CPU build of PyTorch,
which small machines have.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from footprint import cpu, peak, said, started

TASKS = "idle,digits,mnist-small,mnist,stdlib-gpt-small,stdlib-gpt"
IDLE = ("--rule", "easgd", "--role", "centre")
FIRST_STEP_SECONDS = 300.0


def status(http: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{http}/v1/status", timeout=30.0) as answer:
        return dict(json.load(answer))


def after_first_step(http: str) -> dict[str, Any]:
    """Wait until a peer trains, or stands by."""
    end = time.monotonic() + FIRST_STEP_SECONDS
    while time.monotonic() < end:
        found = status(http)
        if found["training"]["step"] > 0:
            return found
        time.sleep(0.5)
    raise TimeoutError(f"no step within {FIRST_STEP_SECONDS:g} s")


def measure(task: str, data_dir: Path | None, seconds: float) -> str:
    """A row of the table."""
    what = IDLE if task == "idle" else ("--task", task, "--steps", "100000000")
    data = ("--data-dir", str(data_dir)) if data_dir is not None and "mnist" in task else ()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(sys.executable, folder, "first", False, *what, *data):
            address = said(folder, "first", "listening")["addresses"][0]  # type: ignore[index]
            said(folder, "first", "founded")
            joins = what if task == "idle" else what[2:]
            with started(sys.executable, folder, "second", False, *joins, *data, "--initial-peer", address) as second:
                http = str(said(folder, "second", "listening")["http"])
                if task == "idle":
                    time.sleep(5.0)
                    before = status(http)
                else:
                    before = after_first_step(http)
                daemons = [child for child in second.children(recursive=True) if "p2pd" in child.name()]
                began, spent = time.monotonic(), sum(map(cpu, [second, *daemons]))
                time.sleep(seconds)
                after, took = status(http), time.monotonic() - began
                spent = sum(map(cpu, [second, *daemons])) - spent
                memory = f"{peak(second):.0f} MB | {sum(map(peak, daemons)):.0f} MB"
        disk = subprocess.run(["du", "-sk", str(folder / "second")], capture_output=True, text=True).stdout.split()[0]
    moved = sum(after["exchanges"][way] - before["exchanges"][way] for way in ("bytes_sent", "bytes_received"))
    rate = (after["training"]["step"] - before["training"]["step"]) / took
    return (
        f"| `{task}` | {memory} | {spent / took:.2f} cores | {rate:.3g} | {moved / took / 1e6:.2g} MB/s"
        f" | {int(disk) / 1024:.1f} MB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--data-dir", type=Path, help="where MNIST is, or is to be")
    parser.add_argument("--seconds", type=float, default=25.0)
    asked = parser.parse_args()
    print(
        "| task | memory of the peer, peak | of libp2p's program | CPU | steps/s | link, both ways | disk of the run |"
    )
    print("|---|---|---|---|---|---|---|")
    for task in asked.tasks.split(","):
        print(measure(task, asked.data_dir, asked.seconds), flush=True)


if __name__ == "__main__":
    main()
