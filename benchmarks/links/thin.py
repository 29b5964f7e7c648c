"""Two peers with the MNIST model of 12 MB over shaped links: do exchanges complete, and what do they make of the link?

    python benchmarks/links/thin.py --data-dir DIR [--rates 256e3,1e6] [--rtts 0.02,0.3] [--seconds 120]
        [--copy-rate 1e6] [--only control] [--json FILE]

Linux, root, iproute2. Each link is measured by a run of its own with the default options, once the second peer has
copied the first one's parameters; the control traffic by another run in which nobody exchanges (`--rule none`). A peer
rests after each step, so that two of them and what else runs here share few cores.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shaped import ShapedLink, enter_namespace

HERE = Path(__file__).resolve().parent
PORT, HTTP_PORT = 31330, 8870
START_SECONDS, COPY_SECONDS, SETTLE_SECONDS = 600.0, 1800.0, 15.0
REST_SECONDS = 0.1
COLUMNS = ("link", "rtt", "copied in", "completed", "directly", "failed", "parts", "codec", "one takes", "under way")
TITLES = (*COLUMNS, "of all time", "control", "slowdown")
SHARES = ("under_way", "of_all", "control", "slowdown")


class Setup(NamedTuple):
    """A link, its rate while the second peer copies the first one, the folder of the data, the task, and what the
    founder is told besides."""

    rate: float
    rtt: float
    copy_rate: float
    data: Path
    task: str
    founding: tuple[str, ...]


class Run(NamedTuple):
    """Two peers on a link, their folder, and how long the second one took to begin, in seconds."""

    link: ShapedLink
    folder: Path
    copied: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--task", default="mnist", help="by name, or FILE.py:NAME")
    parser.add_argument("--codec", help="exchange whole models by this one; by default peers choose by the link")
    parser.add_argument("--rates", default="256e3,1e6,1e7", help="bits per second")
    parser.add_argument("--rtts", default="0.02,0.3", help="seconds")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each measurement")
    parser.add_argument("--copy-rate", type=float, help="bits per second while the second peer copies the first one")
    parser.add_argument("--only", choices=("control", "exchanges"), help="leave the other run out")
    parser.add_argument("--json", type=Path, help="all that was measured")
    options = parser.parse_args()
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing is left behind
    rows, whole = [], ("--codec", options.codec, "--fragment", "1") if options.codec else ()
    for rate in map(float, options.rates.split(",")):
        for rtt in map(float, options.rtts.split(",")):
            setup = Setup(rate, rtt, options.copy_rate or rate, options.data_dir, options.task, whole)
            rows.append({"rate": rate, "rtt": rtt})
            if options.only != "exchanges":
                rows[-1] |= measure_control(setup, options.seconds)
            if options.only != "control":
                rows[-1] |= measure_exchanges(setup, options.seconds)
            print(render(rows[-1]), flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1))


def measure_control(setup: Setup, seconds: float) -> dict[str, Any]:
    """Measure what peers say while nobody exchanges, as a share of the rate; and what the DHT has of it."""
    with peers(setup, "--rule", "none") as run:
        time.sleep(SETTLE_SECONDS)
        began, sent = time.monotonic(), [run.link.sent(at) for at in (0, 1)]
        time.sleep(seconds)
        after, ended = [run.link.sent(at) for at in (0, 1)], time.monotonic()
        lines = [one for at in (0, 1) for one in _lines(run.folder / f"{at}.jsonl")]
    nbytes, packets = (max(b[i] - a[i] for a, b in zip(sent, after, strict=True)) for i in (0, 1))
    calls = collections.Counter[str]()
    for one in lines:
        if "call" in one and began <= one["at"] <= ended:
            calls.update({one["call"]: 1, f"{one['call']} bytes": one["asked"] + one["answered"]})
    per_second = {"bytes": nbytes / seconds, "packets": packets / seconds}
    per_second |= {name: count / seconds for name, count in calls.items()}
    return {"control": 8 * nbytes / seconds / setup.rate, "control_per_second": per_second}


def measure_exchanges(setup: Setup, seconds: float) -> dict[str, Any]:
    """Measure exchanges with the default options."""
    with peers(setup) as run:
        time.sleep(SETTLE_SECONDS)
        began, sent = time.monotonic(), [run.link.sent(at)[0] for at in (0, 1)]
        time.sleep(seconds)
        ended, after = time.monotonic(), [run.link.sent(at)[0] for at in (0, 1)]
        says = [ask(name, path) for name in run.link.names for path in ("/v1/status", "/v1/why")]
        lines = [_lines(run.folder / f"{at}.jsonl") for at in (0, 1)]
    filled = [8 * (b - a) / setup.rate / (ended - began) for a, b in zip(sent, after, strict=True)]
    exchanges = [one for one in lines[0] if "exchange" in one]
    return {"copied": run.copied, **summary(lines, began, ended, setup.rate), "filled": filled} | {
        "exchanges": exchanges,
        "says": says,
    }


def summary(lines: list[list[dict[str, Any]]], began: float, ended: float, rate: float) -> dict[str, Any]:
    """Sum up what the peers wrote down in the time of the measurement."""
    exchanges = [one for one in lines[0] if "exchange" in one and began <= one["at"] <= ended]
    whole = [one for one in exchanges if one["outcome"] == "completed"]
    nbytes = sum(one["sent"] + one["received"] for one in whole) / 2
    under_way = sum(one["seconds"] for one in whole)
    return {
        "completed": len(whole),
        "directly": sum(one["way"]["direct"] for one in whole),
        "failed": sum(one["outcome"] not in ("completed", "declined") for one in exchanges),
        "seconds": statistics.median(one["seconds"] for one in whole) if whole else None,
        "under_way": 8 * nbytes / rate / under_way if whole else 0.0,
        "of_all": 8 * nbytes / rate / (ended - began),
        "slowdown": statistics.mean(slowdown(of_peer, began, ended) for of_peer in lines),
    }


def slowdown(lines: list[dict[str, Any]], began: float, ended: float) -> float:
    """By how much the median step during exchanges takes longer than the others, as a share of step and rest."""
    times = [(one["at"] - one["seconds"], one["at"]) for one in lines if one.get("outcome") == "completed"]
    during: list[float] = []
    other: list[float] = []
    for one in lines:
        if "step" in one and began <= one["at"] <= ended:
            under_way = any(start <= one["at"] <= end for start, end in times)
            (during if under_way else other).append(one["seconds"])
    if len(during) < 10 or len(other) < 10:
        return float("nan")
    usual = statistics.median(other)
    return (statistics.median(during) - usual) / (usual + REST_SECONDS)


@contextlib.contextmanager
def peers(setup: Setup, *options: str) -> Iterator[Run]:
    """Two peers on a link, of which the second one trains."""
    data = setup.data
    with tempfile.TemporaryDirectory() as folder, ShapedLink(setup.copy_rate, setup.rtt) as link:
        started: list[subprocess.Popen[bytes]] = []
        try:
            started.append(_start(link, 0, Path(folder), data, "--task", setup.task, *setup.founding, *options))
            address = _address(Path(folder) / "0.log")
            joined = time.monotonic()
            own = ["--task", setup.task] if ":" in setup.task else []  # a run carries no code
            started.append(_start(link, 1, Path(folder), data, "--initial-peer", address, *own))
            _until(lambda: any("step" in one for one in _lines(Path(folder) / "1.jsonl")), COPY_SECONDS)
            link.shape(setup.rate)
            yield Run(link, Path(folder), time.monotonic() - joined)
        finally:
            for process in started:
                process.send_signal(signal.SIGINT)
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(90)
                if process.poll() is None:
                    process.kill()


def _start(link: ShapedLink, at: int, folder: Path, data: Path, *more: str) -> subprocess.Popen[bytes]:
    watched = {"namespace": link.names[at], "record": str(folder / f"{at}.jsonl"), "rest": REST_SECONDS}
    options = ["--data-dir", str(data), "--threads", "1", "--steps", "1000000", "--shard", f"{at + 1}/2"]
    options += ["--host", link.addresses[at], "--port", str(PORT), "--http-port", str(HTTP_PORT)]
    options += ["--output", str(folder / f"out{at}"), "--log-format", "text", "-v", *more]
    command = [sys.executable, str(HERE / "peer.py"), json.dumps(watched), "join", *options]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / f"state{at}"), "PYTHONWARNINGS": "ignore"}
    with (folder / f"{at}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _address(log: Path) -> str:
    def said() -> list[str]:
        return re.findall(r"/ip4/10\.97\.0\.1/tcp/\d+/p2p/\w+", log.read_text())

    _until(said, START_SECONDS)
    return said()[0]


def _until(holds: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not come about within {seconds:g} s")
        time.sleep(0.5)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ask(namespace: str, path: str) -> Any:
    """What a peer's HTTP says to a program inside its namespace; None if it does not answer."""
    found: list[Any] = []

    def inside() -> None:  # a thread of its own: the namespace is a property of the thread
        enter_namespace(namespace)
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}{path}", timeout=10) as it,
        ):
            found.append(json.load(it))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    return found[0] if found else None


def render(row: dict[str, Any]) -> str:
    """Make a line of the table; what was not measured is a dash."""
    link = (row.get("says", [None])[0] or {}).get("link") or {}
    rate = f"{row['rate'] / 1e6:g} Mbit/s" if row["rate"] >= 1e6 else f"{row['rate'] / 1e3:g} kbit/s"
    cells = [rate, f"{1000 * row['rtt']:g} ms", _number(row.get("copied"), "{:.0f} s")]
    cells += [str(row.get(key, "-")) for key in ("completed", "directly", "failed")]
    cells += [str(link.get("fragments", "-")), str(link.get("codec", "-")), _number(row.get("seconds"), "{:.1f} s")]
    return f"| {' | '.join([*cells, *(_number(row.get(key), '{:.1%}') for key in SHARES)])} |".replace("%", " %")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or value != value else form.format(value)


if __name__ == "__main__":
    main()
