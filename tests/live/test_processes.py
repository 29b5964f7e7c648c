"""Real `p2p-elastic join` processes on loopback: a swarm, a kill -9 of its founder, and every kind of end."""

from __future__ import annotations

import os
import signal

import psutil
from helpers.daemons import daemons_of
from helpers.running import START_SECONDS, completed
from safetensors.torch import load_file

from p2p_elastic.demo.processes import Process, Swarm

END_SECONDS = 5.0


def training(process: Process, step: int = 1) -> bool:
    return process.last.get("step", 0) >= step


def test_the_others_go_on_after_a_kill_9_of_the_peer_that_everyone_joined_through(swarm: Swarm) -> None:
    together = ["--wait-for-peers", "2", "--epochs", "1000", "--probability", "0.02"]
    founder = swarm.start("founder", ["--seed", "0", "--shard", "1/3", *together])
    swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
    address = founder.said["listening"]["addresses"][0]
    others = [
        swarm.start(f"peer-{i}", ["--initial-peer", address, "--shard", f"{i}/3", *together[:-2]]) for i in (2, 3)
    ]
    swarm.listen_until(lambda: all(completed(p) >= 2 for p in [founder, *others]), "exchanging", START_SECONDS)
    assert [p.said["joined"]["manifest"]["founder"] for p in others] == [founder.said["listening"]["peer"]] * 2
    assert all(p.said["joined"]["time"] <= p.said["taken_over"]["time"] <= p.said["caught_up"]["time"] for p in others)
    assert [p.said["taken_over"]["batch_size"] for p in others] == [32, 32]
    assert "taken_over" not in founder.said

    left_over = daemons_of(founder.child.pid)
    assert left_over
    founder.child.kill()
    founder.child.wait()
    swarm.processes.remove(founder)
    assert psutil.wait_procs(left_over, timeout=END_SECONDS)[1] == []

    swarm.listen(1.5)  # what was said before the kill
    before = {p.name: completed(p) for p in others}
    swarm.listen_until(lambda: all(completed(p) >= before[p.name] + 5 for p in others), "exchanging again", 60.0)
    for process in others:
        process.child.send_signal(signal.SIGTERM)
    swarm.listen_until(swarm.all_ended, "ending", 30.0)


def test_every_kind_of_end_leaves_no_process_and_the_asked_ones_leave_a_model(executed: Swarm) -> None:
    ends = {"end": None, "ctrl-c": signal.SIGINT, "sigterm": signal.SIGTERM, "sigkill": signal.SIGKILL}
    processes = {
        name: executed.start(name, ["--steps", "200"] if name == "end" else ["--epochs", "100000"]) for name in ends
    }
    executed.listen_until(lambda: all(training(p) for p in processes.values()), "training", START_SECONDS)
    left_over = [d for p in processes.values() for d in daemons_of(p.child.pid)]
    assert len(left_over) >= 3
    for name, number in ends.items():
        if number is not None:
            processes[name].child.send_signal(number)
    for process in processes.values():
        process.child.wait(timeout=END_SECONDS + 1.0)
    assert psutil.wait_procs(left_over, timeout=END_SECONDS)[1] == []
    executed.listen(0.5)
    assert {n: p.child.returncode for n, p in processes.items()} == {"end": 0, "ctrl-c": 0, "sigterm": 0, "sigkill": -9}
    for name in ("end", "ctrl-c", "sigterm"):
        summary = processes[name].summary()
        assert summary["stopped"] is (name != "end")
        assert summary["steps"] > 0
        assert len(load_file(processes[name].folder / "model.safetensors")) == 6
    assert processes["end"].summary()["steps"] == 200
    executed.processes.remove(processes["sigkill"])


def test_a_second_ctrl_c_ends_at_once(executed: Swarm) -> None:
    process = executed.start("hasty", ["--epochs", "100000", "--wait-for-peers", "1"])
    executed.listen_until(lambda: "waiting" in process.said, "waiting", START_SECONDS)
    left_over = daemons_of(process.child.pid)
    os.kill(process.child.pid, signal.SIGINT)
    os.kill(process.child.pid, signal.SIGTERM)
    assert process.child.wait(timeout=END_SECONDS) in (0, 128 + signal.SIGTERM)
    assert psutil.wait_procs(left_over, timeout=END_SECONDS)[1] == []
    executed.processes.remove(process)
