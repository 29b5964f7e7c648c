"""What does being watched cost? Training throughput of a live peer under 50 requests per second, against none.

    python benchmarks/speed/endpoint.py --data-dir DIR [--task mnist] [--rate 50] [--windows 12] [--seconds 5]

Quiet and watched windows alternate within one run, so that what else the machine does hits both. Requests go round
/v1/status, /metrics, /health and /v1/peers, at a fixed rate, from a process of its own. Writes one JSON document.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import urllib.parse
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from p2p_elastic.demo.processes import Process, Swarm

PATHS = ("/v1/status", "/metrics", "/health", "/v1/peers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--windows", type=int, default=12, help="of each kind")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder)) as swarm:
        peer = swarm.start("peer", ["--task", options.task, "--data-dir", options.data_dir, "--epochs", "100000"])
        swarm.listen_until(lambda: peer.last.get("step", 0) > 0 or _trains(peer), "beginning to train", 120.0)
        swarm.listen(3.0)
        result = measure(peer, options)
    json.dump({"options": vars(options), **result}, sys.stdout, indent=1)
    print()


def measure(peer: Process, options: argparse.Namespace) -> dict[str, Any]:
    url = peer.said["listening"]["http"]
    quiet, watched, answered = list[float](), list[float](), 0
    for _ in range(options.windows):
        quiet.append(speed(url, options.seconds))
        mine, theirs = multiprocessing.Pipe()
        load = multiprocessing.Process(target=ask, args=(url, options.rate, theirs))
        load.start()
        mine.recv()  # it has begun
        watched.append(speed(url, options.seconds))
        mine.send("stop")
        answered += mine.recv()
        load.join()
    return {
        "steps_per_second_quiet": quiet,
        "steps_per_second_watched": watched,
        "requests_per_second": answered / (options.windows * options.seconds),
        "ratio_of_medians": statistics.median(watched) / statistics.median(quiet),
        "median_of_ratios": statistics.median(w / q for w, q in zip(watched, quiet, strict=True)),
    }


def speed(url: str, seconds: float) -> float:
    """Steps per second over so long."""
    began, first = time.monotonic(), _step(url)
    time.sleep(seconds)
    return (_step(url) - first) / (time.monotonic() - began)


def ask(url: str, rate: float, control: Connection) -> None:
    """Ask at a fixed rate until told to stop; then say how often it was answered with 200."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)
    control.send("begun")
    began, answered = time.monotonic(), 0
    for nth, path in enumerate(itertools.cycle(PATHS), 1):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        answered += answer.status == 200
        if control.poll(max(0.0, began + nth / rate - time.monotonic())):
            break
    control.send(answered)


def _get(url: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)
    connection.request("GET", "/v1/status")
    found: dict[str, Any] = json.load(connection.getresponse())
    connection.close()
    return found


def _step(url: str) -> int:
    return int(_get(url)["training"]["step"])


def _trains(peer: Process) -> bool:
    return "listening" in peer.said and _get(peer.said["listening"]["http"])["training"]["phase"] == "training"


if __name__ == "__main__":
    main()
