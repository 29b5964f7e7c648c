"""Training loops of their own, as processes over libp2p."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.forking import launch
from helpers.running import START_SECONDS, completed, kill, members
from safetensors.torch import load_file

from p2p_elastic.demo.processes import Process, Swarm

PROGRAM = (str(Path(__file__).parents[1] / "helpers" / "programs" / "own_loop.py"),)


@pytest.fixture
def loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swarm]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Swarm(tmp_path, PROGRAM, launch) as swarm:
        yield swarm


def step(process: Process) -> int:
    return int(process.last.get("step", 0))


def address(process: Process) -> str:
    return str(process.said["listening"]["addresses"][0])


def test_two_loops_exchange_and_the_later_one_begins_with_the_run_s_parameters(loops: Swarm) -> None:
    first = loops.start("first", ["--seed", "1", "--steps", "3000", "--rest", "0.002", "--period", "8"])
    loops.listen_until(lambda: step(first) > 50, "training", START_SECONDS)
    later = loops.start("later", ["--seed", "2", "--steps", "600", "--rest", "0.002", "--initial-peer", address(first)])
    loops.listen_until(lambda: completed(later) > 5 and members(first) == 1, "exchanges", START_SECONDS)
    first.child.terminate()  # the loop looks at `should_stop`
    loops.listen_until(lambda: loops.all_ended(), "the end", START_SECONDS)

    assert later.said["caught_up"]["caught_up"] is True
    assert later.said["caught_up"]["donors_step"] > 0
    assert first.said["left"]["members"] == 1
    assert later.summary()["exchanges"]["by_outcome"].keys() <= {"completed", "declined"}
    assert first.summary()["stopped"] is True
    assert first.said["result"]["step"] < 3000


def test_who_joins_before_the_first_step_begins_with_the_founder_s_parameters(loops: Swarm) -> None:
    waits = ["--wait-for-peers", "1", "--steps", "100", "--period", "50"]
    first = loops.start("first", ["--seed", "1", *waits])
    loops.listen_until(lambda: "joinable" in first.said, "the founder", START_SECONDS)
    second = loops.start("second", ["--seed", "2", "--steps", "100", "--initial-peer", address(first)])
    loops.listen_until(lambda: loops.all_ended(), "the end", START_SECONDS)
    assert second.said["caught_up"]["caught_up"] is True
    assert second.said["caught_up"]["donors"] == [first.said["listening"]["peer"]]


def test_after_a_kill_9_a_loop_ends_with_the_same_bits_as_one_that_was_never_stopped(loops: Swarm) -> None:
    run = ["--steps", "400", "--seed", "7"]
    first = loops.start("killed", [*run, "--checkpoint-every", "50", "--rest", "0.005"])
    loops.listen_until(lambda: step(first) > 120, "training", START_SECONDS)
    kill(loops, first)
    second = loops.start("killed", [*run, "--resume", "--checkpoint-every", "50"])
    whole = loops.start("whole", [*run, "--checkpoint-every", "0"])
    loops.listen_until(lambda: loops.all_ended(), "the end", START_SECONDS)

    assert 100 <= second.said["resumed"]["step"] < 400
    assert second.said["listening"]["peer"] == first.said["listening"]["peer"]
    assert second.said["result"]["rate"] == whole.said["result"]["rate"]
    expected, found = load_file(whole.folder / "model.safetensors"), load_file(second.folder / "model.safetensors")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert second.said["result"]["total"] == whole.said["result"]["total"]


def test_a_loop_that_fails_says_goodbye_hands_nothing_over_and_shows_its_own_error(loops: Swarm) -> None:
    first = loops.start("first", ["--seed", "1", "--steps", "3000", "--rest", "0.003"])
    loops.listen_until(lambda: step(first) > 20, "training", START_SECONDS)
    failing = loops.start("failing", ["--fail-at", "30", "--rest", "0.003", "--initial-peer", address(first)])
    loops.processes.remove(failing)  # its exit code is not 0
    loops.listen_until(lambda: "left" in failing.said, "the failure", START_SECONDS)
    assert failing.child.wait(10.0) == 1
    assert failing.said["left"]["handed_to"] is None
    assert "ZeroDivisionError: on purpose" in (failing.folder / "stderr.log").read_text()
    assert not (failing.folder / "model.safetensors").exists()
    loops.listen_until(lambda: members(first) == 0, "the goodbye", 5.0)


def test_two_ranks_of_one_model_are_one_peer_and_stay_equal(loops: Swarm, tmp_path: Path) -> None:
    first = loops.start("first", ["--seed", "1", "--steps", "4000", "--rest", "0.004", "--period", "8"])
    loops.listen_until(lambda: step(first) > 10, "training", START_SECONDS)
    pair = ["--seed", "2", "--steps", "400", "--rest", "0.004", "--store", str(tmp_path / "store")]
    leads = loops.start("leads", [*pair, "--rank", "0", "--initial-peer", address(first)])
    follows = loops.start("follows", [*pair, "--rank", "1", "--initial-peer", address(first)])
    loops.listen_until(lambda: "result" in leads.said and "result" in follows.said, "the end", START_SECONDS)
    first.child.terminate()
    loops.processes.remove(follows)  # it is no peer, and reports no end
    loops.listen_until(lambda: loops.all_ended(), "the end", START_SECONDS)
    assert follows.child.wait(10.0) == 0
    assert leads.said["result"]["moves"] == follows.said["result"]["moves"] > 5
    assert leads.said["result"]["total"] == follows.said["result"]["total"]
    assert follows.said.keys() <= {"result"}
