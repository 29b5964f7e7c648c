"""`p2p-elastic demo`: real peer processes on loopback, shown side by side, and compared with one that trains alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from p2p_elastic.common.metrics import metrics_text
from p2p_elastic.common.stop import Stop
from p2p_elastic.demo.processes import Process, Swarm, compare
from p2p_elastic.screens.live import Every
from p2p_elastic.screens.units import short, size
from p2p_elastic.tasks import Task, find_task, load_data

START_SECONDS = 90.0
DIGITS_EPOCHS, OTHER_EPOCHS = 300, 3  # on 2 cores digits train for a quarter of a minute
ALONE = "alone"


def run_demo(*, peers: int, task: str, data_dir: Path | None, epochs: int | None, output: Path, stop: Stop) -> None:
    """Run the demo and print its tables.

    Args:
        peers: how many train together.
        task: name of what they train; each has its own part of the data.
        data_dir: folder with the data sets; None is the default folder.
        epochs: passes of each peer over its part; None is 300 for the digits, else 3.
        output: folder for models, summaries and logs.
        stop: the user's wish to stop.

    Raises:
        P2PElasticError: if a peer failed; its last words are in the message.
        KeyboardInterrupt: if the user asked to stop.
    """
    console, started = Console(), time.monotonic()
    chosen = find_task(task)
    if epochs is None and chosen.recipe.steps is None:
        epochs = DIGITS_EPOCHS if chosen.name == "digits" else OTHER_EPOCHS
    length = [] if epochs is None else ["--epochs", str(epochs)]
    training = [*length, *(["--data-dir", str(data_dir)] if data_dir else [])]
    console.print(f"Starting {peers} peers on this machine; each has 1/{peers} of the data of task {task}.")
    with Swarm(output) as swarm:
        founding = ["--task", task, "--probability", "0.125", "--seed", "0"]
        meeting = ["--wait-for-peers", str(peers - 1)]
        # First, since it needs nobody: it loads while the founder does.
        swarm.start(ALONE, [*founding, *training, "--shard", f"1/{peers}"])
        founder = swarm.start("peer-1", [*founding, *meeting, *training, "--shard", f"1/{peers}"])
        swarm.listen_until(lambda: "listening" in founder.said, "starting the first peer", START_SECONDS, stop)
        address = founder.said["listening"]["addresses"][0]
        console.print("The first peer founded a run. The others:")
        console.print(f"    p2p-elastic join --initial-peer {address}", soft_wrap=True, highlight=False)
        for i in range(2, peers + 1):
            join = ["--initial-peer", address, "--seed", str(i), *meeting, *training, "--shard", f"{i}/{peers}"]
            swarm.start(f"peer-{i}", join)
        with _live(console, swarm):
            swarm.listen_until(swarm.all_ended, "training", stop=stop)
    _compare(console, chosen, data_dir, swarm.processes)
    console.print(f"{time.monotonic() - started:.0f} s. Models, summaries and logs are in {output}{os.sep}.")


@contextmanager
def _live(console: Console, swarm: Swarm) -> Iterator[None]:
    """Show the table of peers, redrawn in place in a terminal; elsewhere a line every few seconds."""
    done = threading.Event()

    def draw() -> None:
        if not console.is_terminal:
            due = Every(3.0)
            while not done.wait(0.2):
                if due():
                    console.print(_lines(swarm))
            return
        with Live(_table(swarm), console=console, refresh_per_second=4, transient=False) as live:
            while not done.wait(0.25):
                live.update(_table(swarm))
            live.update(_table(swarm))

    drawing = threading.Thread(target=draw, daemon=True)
    drawing.start()
    try:
        yield
    finally:
        done.set()
        drawing.join()


def _lines(swarm: Swarm) -> str:
    states = []
    for process in swarm.processes:
        last = process.last
        if last:
            measured = metrics_text(last["metrics"], "metrics -")
            exchanges = last["exchanges"]["by_outcome"].get("completed", 0)
            states.append(f"{process.name}: step {last['step']}, {measured}, {exchanges} exchanges")
    return "\n".join(states) or "starting ..."


def _table(swarm: Swarm) -> Table:
    table = Table(title="p2p-elastic demo")
    for heading in ("", "peer", "phase", "step", "loss", "validation", "steps/s", "others", "exchanges", "sent"):
        table.add_column(heading, justify="right" if heading not in ("", "peer", "phase") else "left", no_wrap=True)
    for process in sorted(swarm.processes, key=lambda process: process.name == ALONE):
        last, hello = process.last, process.said.get("listening", {})
        identity = short(hello["peer"]) if hello else "starting"
        if not last:
            table.add_row(process.name, identity, "waiting" if hello else "starting")
            continue
        rate, loss = last["steps_per_second"], last["loss"]
        table.add_row(
            process.name,
            identity,
            "done" if "end" in process.said else last["phase"],
            f"{process.said.get('end', {}).get('steps', last['step'])}/{last['steps_total']}",
            "-" if loss is None else f"{loss:.4f}",
            metrics_text(last["metrics"], "-"),
            "-" if rate is None else f"{rate:.0f}",
            str(last["members"]),
            str(last["exchanges"]["by_outcome"].get("completed", 0)),
            size(last["exchanges"]["bytes_sent"]),
        )
    return table


def _compare(console: Console, task: Task, data_dir: Path | None, processes: list[Process]) -> None:
    """Print the table at the end: each peer, the average of the swarm's parameters, and the lone peer."""
    swarm = [process for process in processes if process.name != ALONE]
    comparison = compare(task, load_data(task, data_dir), [process.folder for process in swarm])
    table = Table(title=f"Test, task {task.name}")
    for heading in ("", "test", "distance", "exchanges", "sent"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for process, distance in zip(swarm, comparison.distances, strict=True):
        summary = process.summary()
        completed, sent = summary["exchanges"]["by_outcome"].get("completed", 0), summary["exchanges"]["bytes_sent"]
        table.add_row(process.name, _tested(summary), f"{distance:.4f}", str(completed), size(sent))
    average = comparison.average
    if average is not None:
        table.add_row("average of the peers", metrics_text(average.metrics, f"loss {average.loss:.4g}"))
    alone = next(process for process in processes if process.name == ALONE).summary()
    table.add_row(f"alone, on peer-1's 1/{len(swarm)}", _tested(alone))
    console.print(table)
    console.print(
        f"distance: L2, from the average of the peers' parameters (its norm: {comparison.average_norm:.1f}). "
        f"Consensus distance, their root mean square: {comparison.consensus_distance:.4f}."
    )
    if task.sample is not None:
        console.print("What the average of the peers writes:", highlight=False)
        console.print(task.sample(comparison.model), markup=False, highlight=False)


def _tested(summary: Mapping[str, Any]) -> str:
    loss = summary["test_loss"]
    return metrics_text(summary["test_metrics"], "-" if loss is None else f"loss {loss:.4g}")
