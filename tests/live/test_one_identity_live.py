"""Real processes with one identity: the later one ends, unless the earlier one has."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from helpers.running import START_SECONDS, members

from p2p_elastic.demo.processes import Swarm
from p2p_elastic.errors import IdentityInUse

TRAINING = ["--epochs", "100000"]


def test_a_second_process_with_the_identity_of_one_that_runs_ends_and_a_restart_does_not(
    swarm: Swarm, tmp_path: Path
) -> None:
    key, copy = tmp_path / "peer.key", tmp_path / "copy.key"
    founder = swarm.start("founder", TRAINING)
    swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
    join = [*TRAINING, "--initial-peer", founder.said["listening"]["addresses"][0], "--identity"]
    first = swarm.start("first", [*join, str(key)])
    swarm.listen_until(lambda: members(first) == 1 and members(founder) == 1, "joining", START_SECONDS)

    shutil.copy(key, copy)
    before = first.last.get("step", 0)
    second = swarm.start("second", [*join, str(copy)])
    swarm.processes.remove(second)  # it is to fail
    assert second.child.wait(START_SECONDS) == IdentityInUse.exit_code == 3
    errors = (second.folder / "stderr.log").read_text()
    assert "is alive elsewhere, with the same identity" in errors
    assert "Traceback" not in errors
    assert not (second.folder / "model.safetensors").exists()
    swarm.listen_until(lambda: first.last.get("step", 0) > before + 10, "training on", START_SECONDS)
    assert members(founder) == 1
    assert first.child.poll() is None

    first.child.kill()
    first.child.wait()
    swarm.processes.remove(first)
    again = swarm.start("again", [*join, str(copy)])
    swarm.listen_until(lambda: members(again) == 1, "joining again", START_SECONDS)
    end = time.monotonic() + 12.0  # two announcements of an earlier one would be enough
    swarm.listen_until(lambda: time.monotonic() > end, "training on", 30.0)
    assert again.child.poll() is None
    assert again.said["listening"]["peer"] == first.said["listening"]["peer"]
