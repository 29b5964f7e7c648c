"""The fork server of these tests: its children are what `exec` would have started, and nothing of it stays."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from helpers.forking import launch
from helpers.running import START_SECONDS
from safetensors.torch import load_file

from p2p_elastic.demo.processes import Swarm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are started by Popen")

REPORT = """
import json, os, random, signal, sys, threading
import numpy
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "name": __name__, "environment": dict(os.environ), "folder": os.getcwd(),
    "session": os.getsid(0) == os.getpid(), "files": sorted(os.listdir("/proc/self/fd"))[:-1],
    "threads": len(os.listdir("/proc/self/task")), "main": threading.current_thread() is threading.main_thread(),
    "signals": [str(signal.getsignal(n)) for n in range(1, 32)],
    "input": os.path.realpath("/proc/self/fd/0"),
}))
"""
RANDOM = (
    "import random, numpy, torch, uuid; print(random.random(), numpy.random.rand(), float(torch.rand(1)), uuid.uuid4())"
)
STARTER = """
import subprocess, sys, time
from helpers.forking import launch, server
with open("errors", "wb") as errors:
    command = [sys.executable, "sleep.py"]
    child = launch(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
print(child.pid, server().pid, flush=True)
time.sleep(1000.0)
"""


def run(words: list[str], folder: Path, start: object = launch) -> str:
    with open(folder / "errors", "wb") as errors:
        command = [sys.executable, *words]
        child = start(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)  # type: ignore[operator]
    with child.stdout as lines:
        said = str(lines.read())
    assert child.wait(timeout=START_SECONDS) == 0, (folder / "errors").read_text()
    return said


def test_a_peer_that_is_forked_trains_to_the_same_bits_as_one_that_is_executed(tmp_path: Path) -> None:
    said = []
    for name, start in (("forked", launch), ("executed", subprocess.Popen)):
        with Swarm(tmp_path / name, launch=start) as swarm:
            swarm.start("peer", ["--task", "digits", "--steps", "20", "--seed", "7"])
            swarm.listen_until(swarm.all_ended, "the end", START_SECONDS)
            said.append((swarm.processes[0].summary(), swarm.processes[0].said["listening"]["peer"]))
    (forked, one), (executed, other) = said
    assert one != other
    assert forked.keys() == executed.keys()
    assert [(s["steps"], s["test_accuracy"], s["test_loss"]) for s in (forked,)] == [
        (s["steps"], s["test_accuracy"], s["test_loss"]) for s in (executed,)
    ]
    expected, found = (load_file(tmp_path / name / "peer" / "model.safetensors") for name in ("executed", "forked"))
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_child_finds_what_an_executed_program_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    monkeypatch.setenv("ONLY_HERE", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # NumPy is loaded there: no thread of its either
    monkeypatch.chdir(tmp_path)
    popen = functools.partial(subprocess.Popen, env=dict(os.environ))  # else also what readline sets behind our back
    words = [str(tmp_path / "report.py"), "join", "a b"]
    forked, executed = (json.loads(run(words, tmp_path, start)) for start in (launch, popen))
    del executed["input"]
    assert forked.pop("input") == os.devnull
    assert forked == executed


def test_children_draw_different_random_numbers(tmp_path: Path) -> None:
    (tmp_path / "draw.py").write_text(RANDOM)
    one, other = (run([str(tmp_path / "draw.py")], tmp_path).split() for _ in range(2))
    assert not set(one) & set(other)


def test_how_a_child_ended_is_told(tmp_path: Path) -> None:
    (tmp_path / "end.py").write_text(
        "import sys, time; print('there', flush=True); time.sleep(float(sys.argv[1])); 1/0"
    )
    codes = []
    for seconds, number in ((0.0, None), (1000.0, signal.SIGKILL), (1000.0, signal.SIGTERM)):
        with open(tmp_path / "errors", "wb") as errors:
            command = [sys.executable, str(tmp_path / "end.py"), str(seconds)]
            child = launch(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        assert child.stdout is not None
        with child.stdout as lines:
            assert lines.readline() == "there\n"
            if number is not None:
                assert child.poll() is None
                with pytest.raises(subprocess.TimeoutExpired):
                    child.wait(0.0)
                child.send_signal(number)
            codes.append(child.wait(START_SECONDS))
        child.kill()  # nothing is there any more
        if number is None:
            assert "ZeroDivisionError" in (tmp_path / "errors").read_text()
    assert codes == [1, -signal.SIGKILL, -signal.SIGTERM]


def test_the_server_and_its_children_end_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "sleep.py").write_text("import time; time.sleep(1000.0)")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", STARTER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as starter:
        assert starter.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in starter.stdout.readline().split()]
        starter.kill()
    assert len(processes) == 2
    assert psutil.wait_procs(processes, timeout=10.0)[1] == []
