"""How many asks are declined as busy, and what exchanges cost the step rate? Live peers on this machine, in turns.

    python benchmarks/swarms/busy.py                                  # this build, and the same run without exchange
    python benchmarks/swarms/busy.py --other /elsewhere/bin/python    # and another build

Each peer trains an MLP of 0.94 MB on the task `digits`, on one thread, and begins an exchange every `--period` steps.
With each batch it sleeps for `--rest` seconds: with more peers than cores it is otherwise the CPU that is measured.
Counted is what `/v1/status` says at the end of `--seconds` less what it said at their beginning. An ask is one partner
asked for an exchange, once; shares are of the asks of all peers together. The step rate is that of the median peer; its
ratio is to the run with `--rule none` just before. Printed are the medians over the turns. Linux.

p2pd runs in a session of its own. So with `autogroup` a higher priority for this program starves it, unless p2pd gets
the same one.
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
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS, END_SECONDS = 120.0, 30.0
WARM_STEPS = 100
RUN = """
import dataclasses, sys, time
from torch import nn
import p2p_elastic.tasks as tasks
from p2p_elastic.__main__ import run

def model():
    first, last = nn.Linear(64, 512), nn.Linear(384, 10)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(512, 384), nn.ReLU(), last)

def prepare(inputs, generator):
    if generator is not None:  # none: an evaluation
        time.sleep({rest})
    return digits.prepare(inputs, generator)

digits = tasks.TASKS["digits"]
tasks.TASKS["digits"] = dataclasses.replace(digits, model=model, prepare=prepare)
sys.argv[1:] = {arguments!r}
run()
"""
JOIN = [
    *("join", "--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--threads", "1", "--log-format", "json"),
    *("--lr", "0.001", "--steps", "100000000", "--checkpoint-every", "0"),
]
Status = dict[str, Any]
Found = dict[str, float]


class Peer:
    """One `p2p-elastic join` of some build."""

    def __init__(self, python: str, folder: Path, rest: float, arguments: list[str]) -> None:
        folder.mkdir()
        self._log = folder / "log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "XDG_STATE_HOME": str(folder)}
        code = RUN.format(rest=rest, arguments=[*JOIN, "--output", str(folder / "output"), *arguments])
        with self._log.open("w") as log:
            command = [python, "-c", code]
            self.child = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)

    def said(self, event: str) -> dict[str, Any]:
        """Wait for what it says."""
        found: list[dict[str, Any]] = []

        def heard() -> bool:
            lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
            found.extend(line for line in lines if line["event"] == event)
            return bool(found)

        self.wait(heard)
        return found[0]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until that holds. Raises RuntimeError with what the peer said if it does not."""
        end = time.monotonic() + START_SECONDS
        while not condition():
            if self.child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(self._log.read_text()[-2000:])
            time.sleep(0.1)

    def status(self) -> Status:
        """What it says of itself at present, and when that was."""
        with urllib.request.urlopen(f"{self.said('listening')['http']}/v1/status", timeout=10.0) as answer:
            return {**json.load(answer), "at": time.monotonic()}


@contextmanager
def swarm(python: str, options: argparse.Namespace, peers: int, rule: str) -> Iterator[list[Peer]]:
    """Peers of one run that train."""
    with tempfile.TemporaryDirectory() as name:
        started: list[Peer] = []
        try:
            for number in range(peers):
                founding = ["--rule", rule, "--period", str(options.period), "--task", "digits"]
                joining = ["--initial-peer", started[0].said("listening")["addresses"][0]] if started else founding
                meet = ["--wait-for-peers", str(peers - 1), "--seed", str(number)]
                started.append(Peer(python, Path(name) / str(number), options.rest, [*joining, *meet]))
            for peer in started:
                peer.wait(lambda peer=peer: peer.status()["training"]["step"] >= WARM_STEPS)  # type: ignore[misc]
            yield started
        finally:
            for peer in started:
                peer.child.terminate()
            for peer in started:
                try:
                    peer.child.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    peer.child.kill()
                    peer.child.wait()


def count(python: str, options: argparse.Namespace, peers: int, rule: str) -> Found:
    """What happens in one swarm during `--seconds`."""
    with swarm(python, options, peers, rule) as started:
        time.sleep(options.warm)
        begins = [peer.status() for peer in started]
        time.sleep(options.seconds)
        return summed(begins, [peer.status() for peer in started])


def summed(begins: list[Status], ends: list[Status]) -> Found:
    """What happened between the two moments, at all peers together."""

    def total(kind: str, name: str) -> int:
        return sum(e["exchanges"][kind].get(name, 0) - b["exchanges"][kind].get(name, 0) for b, e in pairs)

    pairs = list(zip(begins, ends, strict=True))
    outcomes = {name for e in ends for name in e["exchanges"]["by_outcome"]} - {"completed", "declined"}
    completed = total("by_outcome", "completed") / 2  # at both ends
    failed = sum(total("by_outcome", name) for name in outcomes) / 2
    return {
        "asks": completed + failed + total("by_outcome", "declined"),
        "completed": completed,
        "declined as busy": total("declined_by_partner", "busy"),
        "failed": failed,
        "due while one was owed": total("skipped", "busy"),
        "steps/s": statistics.median(
            (e["training"]["step"] - b["training"]["step"]) / (e["at"] - b["at"]) for b, e in pairs
        ),
    }


def compare(python: str, options: argparse.Namespace, peers: int) -> Found:
    """One run without exchange and one with, of one build."""
    alone = count(python, options, peers, "none")
    found = count(python, options, peers, "elastic-gossip")
    found["steps/s, of those without exchange"] = found["steps/s"] / alone["steps/s"]
    found["declined as busy, of the asks"] = found["declined as busy"] / max(1.0, found["asks"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", help="the Python of another environment, with another build in it")
    parser.add_argument("--peers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--period", type=int, default=8)
    parser.add_argument("--rest", type=float, default=0.02, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--warm", type=float, default=3.0, metavar="SECONDS", help="before that")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    builds = {"this build": sys.executable, **({"the other": options.other} if options.other else {})}
    for peers in options.peers:
        found: dict[str, list[Found]] = {build: [] for build in builds}
        for _ in range(options.times):
            for build, python in builds.items():
                found[build].append(compare(python, options, peers))
                shown = {key: round(value, 3) for key, value in found[build][-1].items()}
                print(peers, build, shown, file=sys.stderr, flush=True)
        print(render(peers, found), flush=True)


def render(peers: int, found: dict[str, list[Found]]) -> str:
    """The medians over the turns, as Markdown."""
    lines = [f"| {peers} peers | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for key in next(iter(found.values()))[0]:
        cells = [statistics.median(run[key] for run in runs) for runs in found.values()]
        lines.append(f"| {key} | " + " | ".join(f"{cell:.2f}".removesuffix(".00") for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
