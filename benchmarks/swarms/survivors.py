"""How much do the others notice when a peer is killed, or stopped? Real processes on this machine.

    python benchmarks/swarms/survivors.py [--repeats 5] > FILE
    python benchmarks/swarms/survivors.py --render FILE

    kill one of 4     kill -9; three go on
    kill one of 2     kill -9; the other is alone until the killed one is started again with the same identity
    stop one of 4     SIGSTOP for --stopped seconds, then SIGCONT: it looks alive, and says nothing
    stop one of 2     the same with two

Every peer writes down the moment of each optimizer step and each exchange (tests/live_chaos/launch.py), so a pause is
the largest gap between two consecutive steps in the --window seconds after the event, to be compared with the largest
gap in as many seconds before it. Prints one JSON document per line and event to standard output; progress to standard
error.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from live_chaos.lives import Life, say, start

from p2p_elastic.demo.processes import Swarm

CASES = ("kill one of 4", "kill one of 2", "stop one of 4", "stop one of 2")
START_SECONDS, AGAIN_SECONDS = 120.0, 180.0
EXCHANGES_BEFORE = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", type=Path, help="print what is in this file as Markdown")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--window", type=float, default=10.0, metavar="SECONDS", help="before and after the event")
    parser.add_argument("--stopped", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--rest", type=float, default=0.005, metavar="SECONDS", help="after each step")
    parser.add_argument("--probability", type=float, default=1 / 32)
    options = parser.parse_args()
    if options.render is not None:
        print(render([json.loads(line) for line in options.render.read_text().splitlines()]))
        return
    del options.render
    found = []
    for case in options.cases:
        for repeat in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                found.append({"case": case, "repeat": repeat, "options": vars(options)})
                found[-1] |= run(options, case, repeat, Path(folder))
            print(json.dumps(found[-1]), flush=True)
            say(f"{case} {repeat}: {found[-1]['survivors']} {found[-1]['returned']}")
    say(render(found))


def run(options: argparse.Namespace, case: str, seed: int, folder: Path) -> dict[str, Any]:
    """One swarm, one event, and what each survivor noticed."""
    count = int(case[-1])
    with Swarm(folder) as swarm:
        lives = begin(options, swarm, folder, count, seed)
        victim, survivors = lives[seed % count], [life for i, life in enumerate(lives) if i != seed % count]
        swarm.listen(options.window)
        happened = time.monotonic()
        if case.startswith("kill"):
            returned = kill(options, swarm, folder, victim, survivors)
        else:
            returned = stop(options, swarm, victim)
        swarm.listen(max(0.0, happened + options.window - time.monotonic()))
        wanted = survivors if count > 2 or case.startswith("stop") else []
        listen_until(swarm, lambda: all(life.completed(happened) for life in wanted))
        return {
            "survivors": [noticed(life, happened, options.window, victim.peer) for life in survivors],
            "returned": returned,
        }


def begin(options: argparse.Namespace, swarm: Swarm, folder: Path, count: int, seed: int) -> list[Life]:
    """A swarm in which everybody exchanged."""
    lives: list[Life] = []
    for i in range(count):
        more = ["--probability", str(options.probability)] if not lives else ["--initial-peer", address(lives[0])]
        lives.append(start_one(options, swarm, folder, f"peer-{i + 1}", [*more, "--seed", str(100 * seed + i)]))
        if i == 0:
            listen_until(swarm, lambda: lives[0].peer is not None)
    listen_until(swarm, lambda: all(len(life.completed()) >= EXCHANGES_BEFORE for life in lives))
    return lives


def start_one(
    options: argparse.Namespace, swarm: Swarm, folder: Path, name: str, more: list[str], life: int = 1
) -> Life:
    arguments = ["--steps", "100000000", "--identity", str(folder / f"{name}.key"), *more]
    return start(swarm, folder / f"{name}.{life}", name, arguments, {"rest": options.rest})


def address(life: Life) -> str:
    return str(life.process.said["listening"]["addresses"][0])


def listen_until(swarm: Swarm, condition: Any, seconds: float = AGAIN_SECONDS) -> None:
    swarm.listen_until(condition, "waiting", seconds)


def kill(
    options: argparse.Namespace, swarm: Swarm, folder: Path, victim: Life, survivors: list[Life]
) -> dict[str, Any] | None:
    """kill -9. Of two, the killed one is started again."""
    victim.process.child.kill()
    victim.process.child.wait()
    swarm.processes.remove(victim.process)
    if len(survivors) > 1:
        return None
    again = start_one(options, swarm, folder, victim.name, ["--initial-peer", address(survivors[0])], life=2)
    listen_until(swarm, lambda: bool(again.completed() and survivors[0].completed(again.began)))
    announced = next(line["at"] for line in again.lines() if "announced" in line)
    ours, theirs = again.completed()[0]["at"], survivors[0].completed(again.began)[0]["at"]
    return {
        "seconds from its start to its first announcement": announced - again.began,
        "seconds from its first announcement to its first step": again.steps()[0][0] - announced,
        "seconds from its first announcement to its first exchange": ours - announced,
        "seconds from its first announcement to the survivor's next exchange": theirs - announced,
    }


def stop(options: argparse.Namespace, swarm: Swarm, victim: Life) -> dict[str, Any]:
    """SIGSTOP, and SIGCONT later."""
    process = psutil.Process(victim.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        swarm.listen(options.stopped)
    finally:
        process.send_signal(signal.SIGCONT)
    woke = time.monotonic()
    listen_until(swarm, lambda: bool(victim.completed(woke)))
    return {"seconds from waking to its first exchange": victim.completed(woke)[0]["at"] - woke}


def noticed(life: Life, happened: float, window: float, victim: str | None) -> dict[str, Any]:
    """What one survivor noticed of it."""
    stamps = [at for at, _ in life.steps()]
    with_others = [line for line in life.completed(happened) if line["partner"] != victim]
    failed = [
        line
        for line in life.lines()
        if line["at"] >= happened and line.get("outcome") not in (None, "completed", "declined")
    ]
    return {
        "largest gap before": gap_within(stamps, happened - window, happened),
        "largest gap after": gap_after(stamps, happened, happened + window),
        "median step": statistics.median(b - a for a, b in itertools.pairwise(stamps)),
        "exchanges gap before": gap_within([line["at"] for line in life.completed()], happened - window, happened),
        "next exchange after": with_others[0]["at"] - happened if with_others else None,
        "failed exchanges": len(failed),
    }


def gap_within(stamps: Iterable[float], begin: float, end: float) -> float | None:
    """The largest time without any of `stamps`, of the gaps that lie in [begin, end]."""
    return max((b - a for a, b in itertools.pairwise(sorted(stamps)) if begin <= a and b <= end), default=None)


def gap_after(stamps: Iterable[float], begin: float, end: float) -> float | None:
    """The same of the gaps that begin before `end` and end after `begin`: also the one in which it happened."""
    return max((b - a for a, b in itertools.pairwise(sorted(stamps)) if b >= begin and a <= end), default=None)


def render(runs: list[dict[str, Any]]) -> str:
    """One row per case: median (smallest - largest) over survivors and repeats."""
    lines = [
        "| case | events | a usual step, ms | longest pause before, ms | after, ms | time between exchanges before, s |"
        " next exchange with another, s | failed exchanges per survivor |",
        "|---" * 8 + "|",
    ]
    for case in dict.fromkeys(r["case"] for r in runs):
        each = [s for r in runs if r["case"] == case for s in r["survivors"]]
        count = sum(r["case"] == case for r in runs)
        lines.append(
            f"| {case} | {count} | {spread(each, 'median step', 1e3)} | {spread(each, 'largest gap before', 1e3)} | "
            f"{spread(each, 'largest gap after', 1e3)} | {spread(each, 'exchanges gap before')} | "
            f"{spread(each, 'next exchange after')} | {spread(each, 'failed exchanges')} |"
        )
    lines += ["", "| case | what | s |", "|---|---|---|"]
    for case in dict.fromkeys(r["case"] for r in runs):
        back = [r["returned"] for r in runs if r["case"] == case and r["returned"]]
        lines += [f"| {case} | {key} | {spread(back, key)} |" for key in (back[0] if back else ())]
    return "\n".join(lines)


def spread(each: list[dict[str, Any]], key: str, scale: float = 1.0) -> str:
    values = [scale * one[key] for one in each if one[key] is not None]
    if not values:
        return "-"
    return f"{statistics.median(values):.3g} ({min(values):.3g} - {max(values):.3g})"


if __name__ == "__main__":
    main()
