"""Run `p2p-elastic` as it is, but watched or troubled from outside: `python launch.py OPTIONS ARGUMENTS...`

OPTIONS is one JSON object:

    record      file for one line per step, exchange and announcement, stamped with this machine's monotonic clock
    rest        seconds to sleep after each step: several peers share few cores, and none should starve
    clock       seconds by which this peer's wall clock is wrong
    fsync       seconds that each fsync and rename take longer: a slow disk
    namespace   network namespace to live in (root)
    snapshots   {"folder": ..., "seconds": ..., "for": ...}: a copy of the parameters, `seconds` apart
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLONE_NEWNET = 0x40000000


def enter_namespace(name: str) -> None:
    """Move the calling thread, and what it starts from now on, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{name}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")


def shift_clock(seconds: float) -> None:
    """From now on `time.time` is wrong by so much; the monotonic clock is not."""
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + seconds
    time.time_ns = lambda: true_ns() + int(seconds * 1e9)


def slow_disk(seconds: float) -> None:
    """From now on whatever makes a file durable takes longer."""
    for name in ("fsync", "replace", "rename"):
        setattr(os, name, _late(getattr(os, name), seconds))


def _late(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def late(*arguments: Any, **more: Any) -> Any:
        time.sleep(seconds)
        return call(*arguments, **more)

    return late


def rest_between_steps(seconds: float) -> None:
    """Sleep after each step: several peers share few cores, and most tests wait for something else than training."""
    from p2p_elastic.training.meter import Meter

    stepped = Meter.stepped

    def step(meter: Meter, loss: float) -> None:
        stepped(meter, loss)
        time.sleep(seconds)

    Meter.stepped = step  # type: ignore[method-assign, assignment]


def record_to(path: Path) -> None:
    """Write down each step, exchange and announcement, so that nothing is lost when we are killed."""
    from p2p_elastic.peers.exchange import journal
    from p2p_elastic.peers.lifecycle import announcer as presence
    from p2p_elastic.training.meter import Meter

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(**line: Any) -> None:
        os.write(file, json.dumps({"at": time.monotonic(), **line}).encode() + b"\n")

    stepped, announce = Meter.stepped, presence.Presence.announce
    enter, settled = journal.Journal.enter, journal.Journal.settled

    def step(meter: Meter, loss: float) -> None:
        stepped(meter, loss)
        write(step=meter.step, loss=loss)

    def entered(log: journal.Journal, entry: journal.Entry, *more: Any, **named: Any) -> None:
        enter(log, entry, *more, **named)
        write(exchange=entry.id, partner=entry.partner, outcome=entry.outcome.value, reason=entry.reason)

    def added(log: journal.Journal, exchange_id: str, *more: Any, **named: Any) -> None:
        settled(log, exchange_id, *more, **named)
        write(added=exchange_id)

    async def announced(mine: presence.Presence) -> None:
        await announce(mine)
        write(announced=mine.sequence)

    presence.Presence.announce = announced  # type: ignore[method-assign, assignment]
    Meter.stepped = step  # type: ignore[method-assign, assignment]
    journal.Journal.enter, journal.Journal.settled = entered, added  # type: ignore[method-assign, assignment]


def take_snapshots(folder: Path, seconds: float, during: float) -> None:
    """Copy the parameters between two steps, `seconds` apart; the file's name is the time."""
    import torch

    from p2p_elastic.parameters.vector import ParameterVector
    from p2p_elastic.training.attach import Gossiping
    from p2p_elastic.training.trainer import Trainer

    folder.mkdir(parents=True, exist_ok=True)
    train, moments = Trainer.train, {"first": 0.0, "last": 0.0}

    def watched(
        trainer: Trainer, peer: Gossiping, should_stop: Callable[[], bool], on_step: Callable[[], None]
    ) -> None:
        def look_then_ask() -> bool:
            now = time.monotonic()
            moments["first"] = moments["first"] or now
            if now - moments["last"] >= seconds and now - moments["first"] <= during:
                moments["last"] = now
                vector = ParameterVector(trainer.model)
                values = vector.snapshot(vector.empty()).cpu().contiguous()
                part = folder / f"{now:.3f}.{trainer.meter.step}.part"
                values.view(torch.uint8).numpy().tofile(part)
                part.rename(part.with_suffix(".f32"))
            return should_stop()

        train(trainer, peer, look_then_ask, on_step)  # asks before each step

    Trainer.train = watched  # type: ignore[method-assign]


def main() -> None:
    options = json.loads(sys.argv[1])
    sys.path[0] = str(ROOT)  # our own folder's names are not for the program
    sys.argv = ["p2p-elastic", *sys.argv[2:]]
    if "namespace" in options:
        enter_namespace(options["namespace"])
    if options.get("clock"):
        shift_clock(options["clock"])
    if "record" in options:
        record_to(Path(options["record"]))
    if options.get("rest"):
        rest_between_steps(options["rest"])
    if "snapshots" in options:
        wanted = options["snapshots"]
        take_snapshots(Path(wanted["folder"]), wanted["seconds"], wanted["for"])
    if options.get("fsync"):
        slow_disk(options["fsync"])
    from p2p_elastic.cli.main import run

    run()


if __name__ == "__main__":
    main()
