"""The trainers of other projects in a swarm, as processes: killed with -9, and resumed by their own means."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.forking import launch
from helpers.running import START_SECONDS, completed, is_whole, kill, members

from p2p_elastic.demo.processes import Process, Swarm

PROGRAM = (str(Path(__file__).parents[2] / "helpers" / "programs" / "trainers.py"),)
SAVE_STEPS = 50
NEEDS = {
    "transformers": ("transformers", "accelerate", "peft"),
    "lightning": ("lightning",),
    "accelerate": ("accelerate",),
}
SAVED = {
    "transformers": "checkpoint-{}/swarm_peer.json",
    "lightning": "last.ckpt",
    "accelerate": "state/custom_checkpoint_1.pkl",
}


@pytest.fixture(params=NEEDS)
def trainer(request: pytest.FixtureRequest) -> str:
    missing = [package for package in NEEDS[request.param] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return str(request.param)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swarm]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with Swarm(tmp_path, PROGRAM, launch) as swarm:
        yield swarm


def arguments(trainer: str, *more: str) -> list[str]:
    return ["--trainer", trainer, "--save-steps", str(SAVE_STEPS), *more]


def saved(process: Process, trainer: str) -> bool:
    return is_whole(process.folder / SAVED[trainer].format(SAVE_STEPS))


def summary(process: Process) -> dict[str, object]:
    found: dict[str, object] = json.loads((process.folder / "peer" / "summary.json").read_text())
    return found


def test_after_a_kill_9_it_ends_with_the_same_bits_as_one_that_was_never_stopped(
    processes: Swarm, trainer: str
) -> None:
    run = arguments(trainer, "--run", "alone", "--steps", "200")
    whole = processes.start("whole", run)
    first = processes.start("killed", [*run, "--rest", "0.02"])
    processes.listen_until(lambda: saved(first, trainer), "a checkpoint", START_SECONDS)
    kill(processes, first)
    second = processes.start("killed", [*run, "--resume"])
    processes.listen_until(lambda: processes.all_ended(), "the end", START_SECONDS)

    assert second.said["listening"]["peer"] == first.said["listening"]["peer"]
    assert 0 < second.said["resumed"]["step"] < 200
    assert second.said["resumed"]["step"] % SAVE_STEPS == 0
    for key in ("step", "rates", "kept", "bits"):
        assert second.said["result"][key] == whole.said["result"][key], key
    assert whole.said["result"]["step"] == summary(second)["steps"] == 200


def test_two_exchange_and_the_one_that_was_killed_goes_on_as_the_same_peer(processes: Swarm, trainer: str) -> None:
    calm = ["--rest", "0.01", "--period", "8"]
    first = processes.start("first", arguments(trainer, "--run", "pair", "--steps", "100000", *calm))
    processes.listen_until(lambda: "joinable" in first.said, "the founder", START_SECONDS)
    joins = arguments(trainer, "--steps", "250", "--rest", "0.01")
    address = str(first.said["listening"]["addresses"][0])
    second = processes.start("second", [*joins, "--initial-peers", address])
    processes.listen_until(lambda: completed(second) > 2 and saved(second, trainer), "exchanges", START_SECONDS)
    kill(processes, second)
    resumed = processes.start("second", [*joins, "--resume"])
    processes.listen_until(lambda: resumed.ended_well(), "its end", START_SECONDS)
    first.child.terminate()  # the trainer is told to stop
    processes.listen_until(lambda: processes.all_ended(), "the end", START_SECONDS)

    assert second.said["caught_up"]["caught_up"] is True
    assert math.isfinite(second.said["tried"]["loss"])  # by the loss that the program gave
    assert resumed.said["listening"]["peer"] == second.said["listening"]["peer"]
    assert resumed.said["resumed"]["step"] >= SAVE_STEPS
    assert resumed.said["result"]["step"] == 250
    assert completed(resumed) > 0
    assert members(first) == 0  # it said goodbye
    assert 0 < first.said["result"]["step"] < 100000
