"""Real processes on loopback: one joins a run that is under way, and the swarm's model is exported."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from helpers.forking import launch
from helpers.running import START_SECONDS
from live_chaos.lives import RESTING
from safetensors.torch import load_file

from p2p_elastic.demo.processes import Process, Swarm
from p2p_elastic.peers.membership.run_context import RunContext

ANNOUNCE_SECONDS = RunContext(run="any").announce_seconds


def test_a_peer_that_joins_late_is_near_the_founder_at_once_and_the_model_can_be_exported(tmp_path: Path) -> None:
    with Swarm(tmp_path, RESTING, launch) as swarm:
        founder = swarm.start("founder", ["--epochs", "100000", "--seed", "0", "--shard", "1/2"])
        swarm.listen_until(lambda: known_to_be_ahead(founder), "training", START_SECONDS)
        address = founder.said["listening"]["addresses"][0]
        late = swarm.start("late", ["--initial-peer", address, "--epochs", "100000", "--shard", "2/2"])
        swarm.listen_until(lambda: "useful" in late.said and as_good(late, founder), "joining", START_SECONDS)
        joined = late.said["caught_up"]
        assert joined["caught_up"]
        assert joined["donors"] == [founder.said["listening"]["peer"]]
        assert joined["donors_step"] >= 600
        assert joined["loss"] < joined["untrained_loss"] / 4

        output = tmp_path / "exported" / "model.safetensors"
        asked = ["--initial-peer", address, "--output", str(output), "--host", "127.0.0.1"]
        done = subprocess.run(
            [sys.executable, "-m", "p2p_elastic", "export", *asked], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(output.with_suffix(".json").read_text())
        assert {taken["peer"] for taken in report["taken"]} <= {joined["donors"][0], late.said["listening"]["peer"]}
        assert report["test_accuracy"] > 0.9
        assert load_file(output).keys() == load_file_of(swarm, tmp_path)


def known_to_be_ahead(founder: Process) -> bool:
    """Whether its record says so: its first one, of before its first step, stands until the next announcement."""
    announced_again = founder.said.get("founded", {}).get("time", math.inf) + 1.5 * ANNOUNCE_SECONDS
    return founder.last.get("step", 0) >= 600 and founder.last["time"] > announced_again


def as_good(late: Process, founder: Process) -> bool:
    """Whether it is within 0.05 of the founder: its first steps, on examples new to the copy, cost it up to 0.08."""
    return (late.last.get("validation_accuracy") or 0.0) >= founder.last["validation_accuracy"] - 0.05


def load_file_of(swarm: Swarm, folder: Path) -> set[str]:
    """The names of the tensors that peers leave when they end."""
    for process in swarm.processes:
        process.child.terminate()
    swarm.listen_until(swarm.all_ended, "ending", 30.0)
    assert swarm.processes[1].summary()["joining"]["useful_steps"] >= 5
    return set(load_file(folder / "late" / "model.safetensors"))
