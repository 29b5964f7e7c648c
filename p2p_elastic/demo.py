"""`p2p-elastic demo`: real peer processes on loopback, shown side by side, and compared with one that trains alone."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table
from safetensors.torch import load_model
from torch import Tensor, nn

from p2p_elastic.display import Every, percent, short, size
from p2p_elastic.errors import P2PElasticError
from p2p_elastic.join import MODEL_FILE, SUMMARY_FILE
from p2p_elastic.stop import Stop
from p2p_elastic.tasks import Task, evaluate, find_task, initial_model, reestimate_batchnorm
from p2p_elastic.vector import ParameterVector

START_SECONDS = 90.0
END_SECONDS = 6.0  # a stopped peer is over within 5
DIGITS_EPOCHS, OTHER_EPOCHS = 80, 3
ALONE = "alone"


@dataclass
class Process:
    """One `p2p-elastic join` and what it last said."""

    name: str
    folder: Path
    child: subprocess.Popen[str]
    said: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def last(self) -> Mapping[str, Any]:
        return self.said.get("progress", {})

    def ended_well(self) -> bool:
        return "end" in self.said and (self.folder / SUMMARY_FILE).exists()


class Swarm:
    """The processes, each read by a thread of its own. Leaving the context ends all of them."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.processes: list[Process] = []
        self._lines: queue.Queue[tuple[Process, dict[str, Any]]] = queue.Queue()
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.child.poll() is None:
                process.child.terminate()
        end = time.monotonic() + END_SECONDS
        for process in self.processes:
            try:
                process.child.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait()
        for reader in self._readers:
            reader.join()

    def start(self, name: str, arguments: list[str]) -> Process:
        """Start one peer on loopback, with free ports, logging into its folder."""
        folder = self._output / name
        folder.mkdir(parents=True, exist_ok=True)
        fixed = ["--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--threads", "1", "--log-format", "json"]
        command = [sys.executable, "-m", "p2p_elastic", "join", *fixed, "--output", str(folder), *arguments]
        with (folder / "stderr.log").open("w") as errors:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603
        process = Process(name, folder, child)
        self.processes.append(process)
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        self._readers.append(reader)
        return process

    def _read(self, process: Process) -> None:
        assert process.child.stdout is not None
        with process.child.stdout as lines, (process.folder / "log.jsonl").open("w") as log:
            for line in lines:
                log.write(line)
                self._lines.put((process, json.loads(line)))

    def listen(self, seconds: float) -> None:
        """Take in what the peers say, for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                process, line = self._lines.get(timeout=left)
            except queue.Empty:
                return
            process.said[line["event"]] = line

    def listen_until(self, condition: Callable[[], bool], stop: Stop, seconds: float, what: str) -> None:
        """Listen until `condition`. Raises P2PElasticError where a peer fails or it takes too long."""
        end = time.monotonic() + seconds
        while not condition():
            self.listen(0.1)
            if stop():
                raise KeyboardInterrupt
            for process in self.processes:
                if process.child.poll() not in (None, 0):
                    raise P2PElasticError(f"{process.name} failed: {_tail(process.folder / 'stderr.log')}")
            if time.monotonic() > end:
                raise P2PElasticError(f"{what} took longer than {seconds:.0f} s; see the logs in {self._output}")


def run_demo(*, peers: int, task: str, data_dir: Path | None, epochs: int | None, output: Path, stop: Stop) -> None:
    """Run the demo and print its tables.

    Raises:
        P2PElasticError: a peer failed; its last words are in the message.
    """
    console, started = Console(), time.monotonic()
    chosen = find_task(task)
    epochs = epochs or (DIGITS_EPOCHS if task == "digits" else OTHER_EPOCHS)
    training = ["--epochs", str(epochs), *(["--data-dir", str(data_dir)] if data_dir else [])]
    console.print(f"Starting {peers} peers on this machine; each has 1/{peers} of the data of task {task}.")
    with Swarm(output) as swarm:
        founding = ["--task", task, "--probability", "0.125", "--seed", "0"]
        meeting = ["--wait-for-peers", str(peers - 1)]
        # First, since it needs nobody: it loads while the founder does.
        swarm.start(ALONE, [*founding, *training, "--shard", f"1/{peers}"])
        founder = swarm.start("peer-1", [*founding, *meeting, *training, "--shard", f"1/{peers}"])
        swarm.listen_until(lambda: "listening" in founder.said, stop, START_SECONDS, "starting the first peer")
        address = founder.said["listening"]["addresses"][0]
        console.print("The first peer founded a run. The others:")
        console.print(f"    p2p-elastic join --initial-peer {address}", soft_wrap=True, highlight=False)
        for i in range(2, peers + 1):
            join = ["--initial-peer", address, "--seed", str(i), *meeting, *training, "--shard", f"{i}/{peers}"]
            swarm.start(f"peer-{i}", join)
        with _live(console, swarm):
            swarm.listen_until(lambda: _all_ended(swarm), stop, float("inf"), "training")
    _compare(console, chosen, data_dir, swarm.processes)
    console.print(f"{time.monotonic() - started:.0f} s. Models, summaries and logs are in {output}{os.sep}.")


def _all_ended(swarm: Swarm) -> bool:
    return all(process.ended_well() and process.child.poll() == 0 for process in swarm.processes)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace").strip()[-500:] or "it said nothing"


@contextmanager
def _live(console: Console, swarm: Swarm) -> Iterator[None]:
    """The table of peers, redrawn in place in a terminal; elsewhere a line now and then."""
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
            accuracy = percent(last["validation_accuracy"])
            exchanges = last["exchanges"]["by_outcome"].get("completed", 0)
            states.append(f"{process.name}: step {last['step']}, accuracy {accuracy}, {exchanges} exchanges")
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
            percent(last["validation_accuracy"]),
            "-" if rate is None else f"{rate:.0f}",
            str(last["members"]),
            str(last["exchanges"]["by_outcome"].get("completed", 0)),
            size(last["exchanges"]["bytes_sent"]),
        )
    return table


def _compare(console: Console, task: Task, data_dir: Path | None, processes: list[Process]) -> None:
    """The table at the end: each peer, the average of the swarm's parameters, and the lone peer."""
    summaries = {p.name: json.loads((p.folder / SUMMARY_FILE).read_text()) for p in processes}
    models = {p.name: _load(task, p.folder) for p in processes}
    swarm = [name for name in models if name != ALONE]
    vectors = torch.stack([_values(models[name]) for name in swarm])
    data = task.load(data_dir)
    average = initial_model(task, 0)
    ParameterVector(average).load_(vectors.mean(dim=0))
    reestimate_batchnorm(average, task, data.train, "cpu")
    result = evaluate(average, task, data.test, "cpu")
    assert result is not None
    distances = (vectors - vectors.mean(dim=0)).norm(dim=1)
    table = Table(title=f"Test accuracy, task {task.name}")
    for heading in ("", "accuracy", "distance", "exchanges", "sent"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for i, name in enumerate(swarm):
        totals = summaries[name]["exchanges"]
        table.add_row(
            name,
            percent(summaries[name]["test_accuracy"]),
            f"{distances[i]:.4f}",
            str(totals["by_outcome"].get("completed", 0)),
            size(totals["bytes_sent"]),
        )
    table.add_row("average of the peers", percent(result.accuracy))
    table.add_row(f"alone, on peer-1's 1/{len(swarm)}", percent(summaries[ALONE]["test_accuracy"]))
    console.print(table)
    norm = vectors.mean(dim=0).norm()
    console.print(
        f"distance: L2, from the average of the peers' parameters (its norm: {norm:.1f}). "
        f"Consensus distance, their root mean square: {distances.square().mean().sqrt():.4f}."
    )


def _load(task: Task, folder: Path) -> nn.Module:
    model = initial_model(task, 0)
    load_model(model, str(folder / MODEL_FILE))
    return model


def _values(model: nn.Module) -> Tensor:
    vector = ParameterVector(model)
    return vector.snapshot(vector.empty())
