"""How long, and for how many bytes, until four peers have learnt a task: ours, hivemind.Optimizer, all-reduce.

    python benchmarks/to_accuracy/to_accuracy.py --data-dir DIR > FILE
    python benchmarks/to_accuracy/to_accuracy.py --data-dir DIR --systems ours,all-reduce --repeats 3 --plot FILE.png
    python benchmarks/to_accuracy/to_accuracy.py --task stdlib-gpt --target-loss 2 --batch-size 16 --systems ...
    python benchmarks/to_accuracy/to_accuracy.py --data-dir DIR --ours "--probability 0.0156 --lr 0.05"

Systems, in turn, each with all of its peers at the same time on this machine:

    ours                `p2p-elastic join` as it is, over libp2p
    hivemind-local      hivemind.Optimizer(use_local_updates=True): peers step alone, parameters are averaged per epoch
    hivemind-gradients  hivemind.Optimizer as it is by default: gradients are gathered, and averaged per epoch
    all-reduce          torch.distributed (gloo): gradients are averaged before each step, in one flat bucket
    hivemind            short for both of hivemind

The same for all: the task's model and its initial parameters, disjoint shards of the data and the order of the
batches, the batch size of a peer, SGD with Nesterov momentum or the optimizer that the task brings (with its clipping
and warm-up; its learning rate does not fall), one torch thread per peer, copies of the parameters that each peer writes
to disk at the same pace. Its own of each system: learning rate, momentum, and what else it can set.
What a system is started with stands in DEFAULTS; "--ours ...", "--all-reduce ..." and so on replace it.

The clock runs from the moment when the last peer began to train (`seconds`), or when the first was started
(`seconds_with_start`). It stops when the median peer's model reaches the target on the whole test split, and does so
at the next evaluated moment, too; the same for the average of the peers' parameters (`reached_by_the_average`). All of
this is evaluated after the run. A run ends when a glance at few examples says that the target was reached, or after
--seconds.

Bytes are those on the loopback, with all headers and all that a system says besides, over the number of peers. The
benchmark runs in a network namespace of its own where it may (Linux, root or user namespaces: `private_loopback`);
otherwise the bytes are those of everybody on this machine. What our peers count themselves is in `counted_by_peers`.

Writes one JSON document to standard output: options, every run, medians over the repeats, ratios of ours to others
(below 1 where ours needs less; `at_most` where the other one never reached the target in its run). Progress goes to
standard error.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click
import torch
from judge import Judge, Peek, Verdict
from peer import TRAIN, Order, joining, rival_options
from system import LeftBehind, adopt_orphans, enter_private_loopback, run_system

from p2p_elastic.errors import ConfigError, P2PElasticError
from p2p_elastic.tasks import find_task

DEFAULTS = {
    "ours": "--probability 0.03125 --lr 0.03 --momentum 0.9",
    "hivemind-local": "--lr 0.03 --momentum 0.9 --target-batch-size 32768 --matchmaking-time 1 --group 4 "
    "--refresh 0.2 --float16",
    "hivemind-gradients": "--lr 0.1 --momentum 0.9 --target-batch-size 1024 --matchmaking-time 1 --group 4 "
    "--refresh 0.2 --float16",
    "all-reduce": "--lr 0.1 --momentum 0.9",
}
SHORT = {"hivemind": ("hivemind-local", "hivemind-gradients")}
COMPARED = ("seconds", "seconds_with_start", "samples_per_peer", "bytes_per_peer", "bytes_per_peer_with_start")


def main() -> int:
    options = parse()
    private = enter_private_loopback()
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    torch.set_num_threads(1)
    try:
        document = run(options, private)
    except P2PElasticError as error:
        print(f"to_accuracy.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        LeftBehind().kill_all()
    json.dump(document, sys.stdout, indent=2)
    print()
    return 0


def interrupted(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Whatever was started is ended on the way out."""
    raise KeyboardInterrupt


def parse() -> argparse.Namespace:
    """The options; a mistake in those of a system is found before anything is started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=".", help="folder with the unpacked data set")
    parser.add_argument("--task", default="mnist", help="see `p2p-elastic tasks`")
    parser.add_argument("--systems", default="ours,hivemind,all-reduce", metavar="A,B", help="which, in this order")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--target", type=float, default=0.97, help="accuracy on the test split, 0..1")
    parser.add_argument("--target-loss", type=float, metavar="NATS", help="loss on the test split, instead")
    parser.add_argument("--repeats", type=int, default=1, help="each with another seed")
    parser.add_argument("--batch-size", type=int, default=128, help="of each peer")
    parser.add_argument("--seconds", type=float, default=300.0, help="a run that has not reached the target ends")
    parser.add_argument("--every", type=float, default=0.5, metavar="SECONDS", help="a peer copies its model ...")
    parser.add_argument("--growth", type=float, default=0.04, help="... or after so much of its time so far, if more")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="accuracy over time and over bytes (matplotlib)")
    for system, default in DEFAULTS.items():
        takes = "options of p2p-elastic join" if system == "ours" else "'--help' says what there is"
        parser.add_argument(f"--{system}", default=default, metavar="OPTIONS", help=f"{takes}  [{default}]")
    options = parser.parse_args()
    options.by_loss = options.target_loss is not None
    if options.by_loss:
        options.target = -options.target_loss
    options.systems = [name for part in options.systems.split(",") for name in SHORT.get(part, (part,))]
    try:
        for system in options.systems:
            check(system, of_system(options, system))
    except (ConfigError, click.ClickException) as error:
        parser.error(error.format_message() if isinstance(error, click.ClickException) else str(error))
    return options


def check(system: str, given: list[str]) -> None:
    """Raises ConfigError or click's errors; the rivals' parser exits."""
    if system not in TRAIN:
        raise ConfigError("systems", system, f"allowed: {', '.join([*TRAIN, *SHORT])}")
    if system == "ours":
        joining(given)
    else:
        rival_options(system, given)


def of_system(options: argparse.Namespace, system: str) -> list[str]:
    return shlex.split(getattr(options, system.replace("-", "_"), ""))


def run(options: argparse.Namespace, private: bool) -> dict[str, Any]:
    """Every repeat of every system, and what they come to."""
    task = find_task(options.task)
    judge = Judge(task, task.load(Path(options.data_dir)), by_loss=options.by_loss)
    runs = []
    for repeat in range(options.repeats):
        for system in options.systems:
            runs.append({"system": system, "repeat": repeat, **run_one(options, system, repeat, judge)})
            say(f"{system} {repeat}: {told(runs[-1])}")
    medians = {system: median_of([r for r in runs if r["system"] == system]) for system in options.systems}
    document: dict[str, Any] = {
        "options": {**vars(options), "plot": None if options.plot is None else str(options.plot)},
        "torch": torch.__version__,
        "private_loopback": private,
        "medians": medians,
        "ratios": ratios(medians),
        "runs": runs,
    }
    for name, ratio in document["ratios"].items():
        say(f"{name}{' at most' * ratio['at_most']}: " + ", ".join(f"{key} {ratio[key]:.3f}" for key in COMPARED))
    if options.plot is not None:
        from plot import plot

        plot(runs, options.target, options.plot)
    return document


def run_one(options: argparse.Namespace, system: str, repeat: int, judge: Judge) -> dict[str, Any]:
    """One system, from the start of its processes to the evaluation of what they left."""
    with tempfile.TemporaryDirectory() as folder:
        orders = [
            Order(
                system=system,
                rank=rank,
                peers=options.peers,
                task=options.task,
                data_dir=str(Path(options.data_dir).resolve()),
                batch_size=options.batch_size,
                seed=100 * repeat + rank,
                init_seed=100 * repeat + 1,  # ours: the founder's seed
                every=options.every,
                growth=options.growth,
                folder=folder,
                options=of_system(options, system),
                initial=[],
            )
            for rank in range(1, options.peers + 1)
        ]
        say(f"{system} {repeat}: {shlex.join(orders[0].options)}")
        peek = Peek(judge, options.target, time.monotonic)
        record = run_system(orders, options.seconds, peek)
        say(f"{system} {repeat}: trained for {record.ended - max(record.began()):.0f} s, last glances {peek.mean:.4f}")
        return Verdict(record, judge, options.target, options.batch_size).report()


def told(one: dict[str, Any]) -> str:
    """A run in one line."""
    reached, average = one["reached"], one["reached_by_the_average"]
    by_average = "never" if average is None else f"{average['seconds']:.1f} s"
    if reached is None:
        return f"not reached (median {one['end']['median']:.4f} at the end); by the average: {by_average}"
    return (
        f"{reached['seconds']:.1f} s ({reached['seconds_with_start']:.1f} s with the start), "
        f"{reached['samples_per_peer']:.0f} samples and {reached['bytes_per_peer'] / 1e6:.1f} MB per peer; "
        f"by the average: {by_average}"
    )


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats; None where one of them did not reach the target."""
    found: dict[str, Any] = {"runs": len(runs), "reached": sum(r["reached"] is not None for r in runs)}
    for which in ("reached", "reached_by_the_average", "end"):
        all_did = all(r[which] is not None for r in runs)
        found[f"median_{which}"] = (
            {key: statistics.median(r[which][key] for r in runs) for key in COMPARED} if all_did else None
        )
    return found


def ratios(medians: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What ours needs, over what each other one needs; `hivemind` is the faster way to use it.

    Where the other one did not reach the target, its whole run is what it needs at least (`at_most`).
    """
    if "ours" not in medians or (ours := medians["ours"]["median_reached"]) is None:
        return {}
    needs = {s: m["median_reached"] or m["median_end"] for s, m in medians.items() if s != "ours"}
    bound = {s: medians[s]["median_reached"] is None for s in needs}
    ways = [s for s in needs if s in SHORT["hivemind"]]
    if ways:
        fastest = min(ways, key=lambda s: (bound[s], needs[s]["seconds"]))
        needs["hivemind"], bound["hivemind"] = needs[fastest], bound[fastest]
    return {f"ours / {s}": {"at_most": bound[s]} | {k: ours[k] / needs[s][k] for k in COMPARED} for s in needs}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
