"""Several `p2p-elastic join` processes on this machine: started, read, ended and compared."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from p2p_elastic.common.files import new_file
from p2p_elastic.errors import P2PElasticError
from p2p_elastic.node.results import MODEL_FILE, SUMMARY_FILE
from p2p_elastic.tasks import Data, Evaluation, Task, evaluate, initial_model, reestimate_batchnorm

END_SECONDS = 6.0  # a stopped peer is over within 5
ERRORS, SAID = "stderr.log", "log.jsonl"


@dataclass
class Process:
    """One `p2p-elastic join`, and what it last reported.

    Attributes:
        name: of its folder.
        folder: with its results and logs.
        child: the process.
        said: the last JSON line of each event, by the name of the event.
        silent: whether its output ended.
    """

    name: str
    folder: Path
    child: subprocess.Popen[str]
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent: bool = False

    @property
    def last(self) -> Mapping[str, Any]:
        """Its last progress; empty before the first."""
        return self.said.get("progress", {})

    def ended_well(self) -> bool:
        """Say whether it finished.

        Returns:
            True if it reported its end and its exit code is 0.
        """
        return "end" in self.said and self.child.poll() == 0

    def summary(self) -> dict[str, Any]:
        """Read what it left in `summary.json`.

        Returns:
            The summary as JSON.
        """
        summary: dict[str, Any] = json.loads((self.folder / SUMMARY_FILE).read_text())
        return summary


class Swarm:
    """The processes, each read by a thread of its own. Leaving the context ends all of them.

    Args:
        output: each process has a folder of its own in it.
        program: what Python runs.
        launch: starts a process; takes the arguments of `subprocess.Popen` and gives what has its methods.

    Attributes:
        processes: in the order of their start.
    """

    def __init__(
        self,
        output: Path,
        program: Sequence[str] = ("-m", "p2p_elastic"),
        launch: Callable[..., subprocess.Popen[str]] = subprocess.Popen,
    ) -> None:
        self._output, self._program, self._launch = output, program, launch
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

    def start(self, name: str, arguments: list[str], program: Sequence[str] | None = None) -> Process:
        """Start one peer on loopback, with free ports, logging into its folder.

        Args:
            name: of its folder.
            arguments: of `p2p-elastic join`.
            program: what Python runs; None is the program of the swarm.

        Returns:
            The process.
        """
        folder = self._output / name
        folder.mkdir(parents=True, exist_ok=True)
        fixed = ["--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--threads", "1", "--log-format", "json"]
        command = [sys.executable, *(program or self._program), "join", *fixed, "--output", str(folder), *arguments]
        for log in (folder / ERRORS, folder / SAID):
            log.unlink(missing_ok=True)
        with new_file(folder / ERRORS) as errors:
            # In a session of its own: Ctrl-C here must not be the second signal that it gets.
            child = self._launch(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        process = Process(name, folder, child)
        self.processes.append(process)
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        self._readers.append(reader)
        return process

    def _read(self, process: Process) -> None:
        assert process.child.stdout is not None
        with process.child.stdout as lines, new_file(process.folder / SAID) as log:
            for line in lines:
                log.write(line.encode())
                try:
                    self._lines.put((process, json.loads(line)))
                except ValueError:  # a warning of some library, for example; it is in the log
                    continue
            process.silent = True

    def listen(self, seconds: float) -> None:
        """Take in what the peers report.

        Args:
            seconds: to listen; less if they are silent.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                process, line = self._lines.get(timeout=left)
            except queue.Empty:
                return
            process.said[line["event"]] = line

    def listen_until(
        self, condition: Callable[[], bool], what: str, seconds: float = float("inf"), stop: Callable[[], bool] = bool
    ) -> None:
        """Take in what the peers report until `condition` holds.

        Args:
            condition: looked at about ten times a second.
            what: what is waited for, for the error.
            seconds: to wait at most.
            stop: the user's wish to stop.

        Raises:
            P2PElasticError: if a peer fails, or it takes too long.
            KeyboardInterrupt: if the user asked to stop.
        """
        end = time.monotonic() + seconds
        while not condition():
            self.listen(0.1)
            if stop():
                raise KeyboardInterrupt
            for process in self.processes:
                over = process.silent and self._lines.empty()
                if process.child.poll() not in (None, 0) or (over and "end" not in process.said):
                    raise P2PElasticError(f"{process.name} failed: {_tail(process.folder / ERRORS)}")
            if time.monotonic() > end:
                raise P2PElasticError(f"{what} took longer than {seconds:.0f} s; see the logs in {self._output}")

    def all_ended(self) -> bool:
        """Say whether every peer finished, with exit code 0.

        Returns:
            False while one of them runs, or if one failed.
        """
        return all(process.ended_well() for process in self.processes)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace").strip()[-500:] or "it said nothing"


class Comparison(NamedTuple):
    """Several trained models of one task and their average.

    Attributes:
        average: of the averaged parameters on the test split, BatchNorm statistics re-estimated; None without one.
        model: with the averaged parameters.
        average_norm: L2 norm of the averaged parameters.
        distances: L2, of each model from the average.
    """

    average: Evaluation | None
    model: nn.Module
    average_norm: float
    distances: tuple[float, ...]

    @property
    def average_accuracy(self) -> float | None:
        """Of the averaged parameters, 0..1; None if the task has no such metric."""
        return None if self.average is None else self.average.accuracy

    @property
    def consensus_distance(self) -> float:
        """The root mean square of the distances to the average."""
        return float(torch.tensor(self.distances).square().mean().sqrt())


def compare(task: Task, data: Data, folders: Sequence[Path]) -> Comparison:
    """Average the models that peers left, and evaluate the average.

    Args:
        task: that they trained.
        data: of the task.
        folders: of the peers.

    Returns:
        The figures, distances in the order of the folders.
    """
    vectors = torch.stack([_values(task, folder) for folder in folders])
    mean = vectors.mean(dim=0)
    model = initial_model(task, 0)
    task.vector(model).load_(mean)
    reestimate_batchnorm(model, task, data.train, "cpu")
    result = None if data.test is None else evaluate(model, task, data.test, "cpu")
    return Comparison(result, model, float(mean.norm()), tuple((vectors - mean).norm(dim=1).tolist()))


def _values(task: Task, folder: Path) -> Tensor:
    model = initial_model(task, 0)
    load_model(model, str(folder / MODEL_FILE))
    vector = task.vector(model)
    return vector.snapshot(vector.empty())
