"""A real process that is killed and goes on from its checkpoint."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.forking import launch
from helpers.running import START_SECONDS, kill
from live_chaos.lives import RESTING
from safetensors.torch import load_file

from p2p_elastic.demo.processes import Process, Swarm
from p2p_elastic.peers.transport.identity import Identity

STEPS = 2000  # with rests long enough to be killed in the middle


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with Swarm(tmp_path, RESTING, launch) as swarm:
        yield swarm


def step(process: Process) -> int:
    return int(process.last.get("step", 0))


def test_after_a_kill_9_a_lone_peer_ends_with_the_same_bits_as_one_that_was_never_stopped(
    swarm: Swarm, tmp_path: Path
) -> None:
    for name in ("killed.key", "whole.key"):  # the order of the data depends on the peer, unless there is a seed
        Identity.load_or_create(tmp_path / name)
    run = ["--task", "digits", "--steps", str(STEPS), "--seed", "7"]
    saving = [*run, "--checkpoint-every", "50"]
    first = swarm.start("killed", [*saving, "--identity", str(tmp_path / "killed.key")])
    swarm.listen_until(lambda: step(first) > 120, "training", START_SECONDS)
    assert step(first) < STEPS
    kill(swarm, first)

    second = swarm.start("killed", ["--resume", str(first.folder)])
    whole = swarm.start("whole", [*run, "--checkpoint-every", "0", "--identity", str(tmp_path / "whole.key")])
    swarm.listen_until(lambda: {"end"} <= second.said.keys() & whole.said.keys(), "the end", START_SECONDS)
    swarm.listen_until(swarm.all_ended, "ending", 30.0)

    assert 50 <= second.said["resumed"]["step"] < STEPS
    assert second.said["listening"]["peer"] == first.said["listening"]["peer"]
    assert second.said["resumed"]["manifest"] == first.said["founded"]["manifest"]
    assert second.summary()["steps"] == STEPS
    assert not (whole.folder / "checkpoint").exists()
    expected, found = load_file(whole.folder / "model.safetensors"), load_file(second.folder / "model.safetensors")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_two_peers_with_an_outer_optimizer_train_on_after_a_kill_9_and_a_resume(swarm: Swarm) -> None:
    together = ["--epochs", "100000", "--checkpoint-every", "1s"]
    outer = ["--outer", "nesterov", "--outer-momentum", "0.5", "--period", "40"]
    founder = swarm.start("founder", ["--task", "digits", *together, *outer])
    swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
    other = swarm.start("other", ["--initial-peer", founder.said["listening"]["addresses"][0], *together])

    def completed(process: Process) -> int:
        return int(process.last.get("exchanges", {}).get("by_outcome", {}).get("completed", 0))

    swarm.listen_until(lambda: completed(founder) > 0 and completed(other) > 0, "exchanges", START_SECONDS)
    before = other.last["checkpoint"]["step"] or 0
    swarm.listen_until(lambda: (other.last["checkpoint"]["step"] or 0) > before, "a checkpoint", START_SECONDS)
    kill(swarm, other)
    newest = max((other.folder / "checkpoint").glob("step-*"))
    saved = load_file(newest / "state.safetensors")
    assert {"outer.slow", "outer.buffer"} <= saved.keys()
    assert saved["outer.buffer"].abs().sum() > 0

    back = swarm.start("other", ["--resume", str(other.folder)])
    swarm.listen_until(lambda: completed(back) > 0, "exchanging again", START_SECONDS)
    assert back.said["resumed"]["manifest"]["outer"] == other.said["joined"]["manifest"]["outer"] == "nesterov"
    for process in (back, founder):
        process.child.send_signal(signal.SIGINT)
    for process in (back, founder):
        process.child.wait(timeout=30.0)
        assert process.summary()["steps"] > 0


def test_a_lone_peer_with_an_outer_optimizer_goes_on_after_a_kill_9_with_the_same_bits(
    swarm: Swarm, tmp_path: Path
) -> None:
    for name in ("killed.key", "whole.key"):
        Identity.load_or_create(tmp_path / name)
    run = ["--task", "digits", "--steps", "1000", "--seed", "7", "--outer", "nesterov", "--period", "25"]
    saving = [*run, "--checkpoint-every", "40", "--identity", str(tmp_path / "killed.key")]
    first = swarm.start("killed", saving)
    swarm.listen_until(lambda: step(first) > 120, "training", START_SECONDS)
    kill(swarm, first)
    second = swarm.start("killed", ["--resume", str(first.folder)])
    whole = swarm.start("whole", [*run, "--checkpoint-every", "0", "--identity", str(tmp_path / "whole.key")])
    swarm.listen_until(lambda: {"end"} <= second.said.keys() & whole.said.keys(), "the end", START_SECONDS)
    swarm.listen_until(swarm.all_ended, "ending", 30.0)
    expected, found = load_file(whole.folder / "model.safetensors"), load_file(second.folder / "model.safetensors")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_killed_founder_comes_back_to_its_swarm_as_the_same_peer_in_the_same_run(swarm: Swarm) -> None:
    together = ["--epochs", "100000", "--probability", "0.02", "--checkpoint-every", "1s"]
    founder = swarm.start("founder", ["--task", "digits", *together])
    swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
    other = swarm.start("other", ["--initial-peer", founder.said["listening"]["addresses"][0], *together[:2]])

    def saved_with_the_other() -> bool:
        return founder.last.get("members", 0) == 1 and (founder.last["checkpoint"]["step"] or 0) > 0

    swarm.listen_until(saved_with_the_other, "a checkpoint", START_SECONDS)
    before = founder.last["checkpoint"]["step"]
    swarm.listen_until(lambda: founder.last["checkpoint"]["step"] > before, "one that knows the other", START_SECONDS)
    kill(swarm, founder)

    back = swarm.start("founder", ["--resume", str(founder.folder)])  # nobody is named: it knows where the other was
    swarm.listen_until(lambda: back.last.get("members", 0) == 1, "coming back", START_SECONDS)
    swarm.listen_until(
        lambda: back.last["exchanges"]["by_outcome"].get("completed", 0) > 0, "exchanging", START_SECONDS
    )
    assert back.said["resumed"]["manifest"] == other.said["joined"]["manifest"]
    assert back.said["listening"]["peer"] == founder.said["listening"]["peer"]
    for process in (back, other):
        process.child.send_signal(signal.SIGINT)
    for process in (back, other):
        process.child.wait(timeout=30.0)
    assert back.summary()["run"] == other.summary()["run"]


def test_results_that_cannot_be_written_cost_no_checkpoint_and_are_written_when_resumed(
    swarm: Swarm, tmp_path: Path
) -> None:
    blocker = tmp_path / "peer" / "model.safetensors" / "in the way"
    blocker.mkdir(parents=True)
    first = swarm.start("peer", ["--task", "digits", "--steps", "100"])
    assert first.child.wait(START_SECONDS) == 2
    swarm.processes.remove(first)
    errors = (first.folder / "stderr.log").read_text()
    assert "error: output: got" in errors
    assert "Traceback" not in errors
    assert [path.name for path in (first.folder / "checkpoint").iterdir()] == ["step-000000100"]

    shutil.rmtree(blocker.parent)
    second = swarm.start("peer", ["--resume", str(first.folder)])
    swarm.listen_until(swarm.all_ended, "the end", START_SECONDS)
    assert second.said["resumed"]["step"] == 100
    assert second.summary()["steps"] == 100
    assert load_file(second.folder / "model.safetensors")


def test_a_centre_that_does_not_train_is_saved_every_so_many_exchanges(swarm: Swarm) -> None:
    holder = swarm.start(
        "holder",
        ["--task", "digits", "--rule", "easgd", "--period", "4", "--role", "centre", "--checkpoint-every", "5"],
    )
    swarm.listen_until(lambda: "listening" in holder.said, "the centre", START_SECONDS)
    address = holder.said["listening"]["addresses"][0]
    swarm.start("other", ["--initial-peer", address, "--epochs", "100000"])
    swarm.listen_until(lambda: (holder.last.get("checkpoint") or {}).get("step") == 0, "a checkpoint", START_SECONDS)
    kill(swarm, holder)

    back = swarm.start("holder", ["--resume", str(holder.folder)])
    swarm.listen_until(lambda: "centre" in back.last, "coming back", START_SECONDS)
    assert back.last["centre"]["exchanges"] >= 5
