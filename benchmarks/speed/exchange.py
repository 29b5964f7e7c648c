"""One exchange between two processes: ours, a bare libp2p stream, and hivemind's DecentralizedAverager.

    python benchmarks/speed/exchange.py [--size 4,100,400] [--rounds 9] [--plot FILE.png]
    python benchmarks/speed/exchange.py --other /elsewhere/bin/python    # and another build's exchange

All of them take turns within one run, so that whatever else the machine does hits all alike: in each round ours in
float32 and in float16, two bare streams (ours without messages, checks and move; and hivemind's own asyncio API) with
the float32 bytes both ways, of which the faster one is `bare`, and one round of the averager with two peers in float32
and in Float16, matchmaking included. An exchange of ours is from the call that takes the snapshot until the move is
added. CPU seconds are of all processes that take part; `memory` is, for ours, the most beyond the model in model sizes
per peer, and for the averager what its processes hold beyond the same before it was built (PSS). Writes one JSON
document to standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_elastic.bench.exchange import ExchangeOptions, Held, Sample, ends, fixed_memory, summary
from p2p_elastic.bench.figures import as_json, cpu_seconds, machine, ratio

WORKER = Path(__file__).with_name("exchange_rival.py")
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4,100,400", help="millions of bytes of the model in float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--other", help="the Python of another environment, with another build in it")
    parser.add_argument("--plot", type=Path, help="write a picture")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started has to be ended
    fixed = fixed_memory(ExchangeOptions())
    rows, failed = [], False
    for size in options.size.split(","):
        try:
            rows.append(as_json(compare(float(size), options.rounds, fixed, options.other)))
        except RuntimeError as error:  # a rival that gives up at this size takes nothing away from the other sizes
            failed = True
            print(f"{size} MB: {error}", file=sys.stderr)
    json.dump({"bench": "exchange", "machine": machine(), "rows": rows}, sys.stdout, indent=1)
    print(flush=True)
    if options.plot is not None:  # last: it may lack matplotlib
        plot(rows, options.plot)
    if failed:
        sys.exit(1)


@dataclass
class Contender:
    """Who takes part: one exchange of it, the memory that it took, and the bare stream between the same processes."""

    name: str
    work: Callable[[], Sample]
    memory: Callable[[], Any] | None = None
    bare: Contender | None = None


def _ours(stack: contextlib.ExitStack, megabytes: float, codec: str, fixed: Held) -> Contender:
    two = stack.enter_context(ends(ExchangeOptions(), megabytes, codec, None))
    held = two.memory().models(fixed, megabytes)
    bare = Contender("bare sockets", functools.partial(two.swap, round(megabytes * 1e6)))
    return Contender(f"ours {codec}", two.exchange, lambda: held, bare)


def compare(megabytes: float, rounds: int, fixed: Held, other: str | None) -> dict[str, Any]:
    """Every contender in turns, at this size."""
    with contextlib.ExitStack() as stack:
        contenders = [_ours(stack, megabytes, codec, fixed) for codec in ("none", "float16")]
        if other is not None:
            two = stack.enter_context(ends(ExchangeOptions(), megabytes, "none", None, other))
            contenders.append(Contender("other none", two.exchange))
        for kind, codec in (("bare", "none"), ("averager", "none"), ("averager", "float16")):
            rival = stack.enter_context(Rival(kind, megabytes, codec))
            name = "bare hivemind" if kind == "bare" else f"{kind} {codec}"
            grown = functools.partial(rival.grown_models, megabytes) if kind == "averager" else None
            contenders.append(Contender(name, rival.round, grown))
        for one in contenders:
            print(f"{megabytes:g} MB: warming up {one.name}", file=sys.stderr)
            for _ in range(WARM_UP):
                one.work()
        held = {one.name: one.memory() for one in contenders if one.memory}
        contenders.append(contenders[0].bare)  # last: it takes memory in the same processes
        contenders[-1].work()
        found = {one.name: list[Sample]() for one in contenders}
        for number in range(rounds):
            print(f"{megabytes:g} MB: round {number + 1} of {rounds}", file=sys.stderr)
            for one in contenders:
                found[one.name].append(one.work())
    seconds = {name: [sample.seconds for sample in samples] for name, samples in found.items()}
    bare = min(("bare hivemind", "bare sockets"), key=lambda name: statistics.median(seconds[name]))
    against = (("ours none", bare), ("ours float16", bare), ("averager none", "ours none"))
    pairs = (*against, ("averager float16", "ours float16"), *([("ours none", "other none")] if other else []))
    return {
        "megabytes": megabytes,
        "contenders": {name: summary(samples) for name, samples in found.items()},
        "ratios": {f"{one} / {other}": ratio(seconds[one], seconds[other]) for one, other in pairs},
        "bare": bare,
        "memory": held,
    }


class Rival:
    """Two processes of `exchange_rival.py` and whatever they start; all of that is gone at the end."""

    def __init__(self, kind: str, megabytes: float, codec: str) -> None:
        self._kind, self._elements, self._codec = kind, round(megabytes * 1e6 / 4), codec
        self._ends: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Rival:
        addresses: list[str] = []
        try:
            for rank in range(2):
                self._ends.append(self._start(rank, addresses))
                addresses = addresses or self._read(self._ends[-1])["addresses"]
            self._read(self._ends[-1])
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, rank: int, addresses: list[str]) -> subprocess.Popen[str]:
        options = {"kind": self._kind, "rank": rank, "elements": self._elements, "codec": self._codec}
        command = [sys.executable, "-W", "ignore", str(WORKER), json.dumps({**options, "initial_peers": addresses})]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def __exit__(self, *_: object) -> None:
        pids = self._pids()  # the averager's forks outlive whoever started them
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.stdin.write("quit\n")
                end.stdin.flush()
        deadline = time.monotonic() + 10.0
        for end in self._ends:
            with contextlib.suppress(subprocess.TimeoutExpired):
                end.wait(max(0.1, deadline - time.monotonic()))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for end in self._ends:
            end.wait()
            end.stdin.close()
            end.stdout.close()

    def _read(self, end: subprocess.Popen[str]) -> dict[str, Any]:
        while line := end.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self._kind} ended")

    def _pids(self) -> list[int]:
        found, todo = [], [end.pid for end in self._ends]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    todo += map(int, children.read_text().split())
        return found

    def round(self) -> Sample:
        """One round; its seconds are those of the slower end."""
        pids = self._pids()
        before = sum(map(cpu_seconds, pids))
        asked = self._ends if self._kind == "averager" else self._ends[1:]
        for end in asked:
            end.stdin.write("round\n")
            end.stdin.flush()
        seconds = max(self._read(end)["seconds"] for end in asked)
        return Sample(seconds, sum(map(cpu_seconds, pids)) - before)

    def grown_models(self, megabytes: float) -> float:
        """What each end's processes hold now, beyond a model and what they held without one, in model sizes (PSS)."""
        with Rival(self._kind, 0.004, self._codec) as small:
            without = _pss_bytes(small._pids())
        return (_pss_bytes(self._pids()) - without) / 2 / (megabytes * 1e6) - 1.0


def _pss_bytes(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars of the medians, with the spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(rows[0]["contenders"])
    figure, axes = pyplot.subplots(1, len(rows), figsize=(4 * len(rows), 4.2), layout="constrained")
    for axis, row in zip([axes] if len(rows) == 1 else axes, rows, strict=True):
        spreads = [row["contenders"][name]["seconds"] for name in names]
        medians = [s["median"] for s in spreads]
        errors = [[s["median"] - s["low"] for s in spreads], [s["high"] - s["median"] for s in spreads]]
        colours = ["tab:green" if n.startswith("ours") else "tab:gray" if "bare" in n else "tab:red" for n in names]
        axis.barh(names[::-1], medians[::-1], xerr=[e[::-1] for e in errors], color=colours[::-1], capsize=3)
        axis.set_title(f"{row['megabytes']:g} MB")
        axis.set_xlabel("seconds (median, smallest, largest)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
