"""Real processes on loopback: a task that is in a file of the user's, and somebody who does not have it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from helpers.running import START_SECONDS, completed

from p2p_elastic.demo.processes import Swarm

FILE = Path(__file__).parents[2] / "examples" / "task_file.py"
TASK = ["--task", f"{FILE}:TUMOURS"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2p_elastic", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_peers_with_a_task_file_train_it_and_whoever_lacks_it_is_told_what_to_pass(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        founder = swarm.start("founder", [*TASK, "--steps", "1000000", "--period", "8", "--shard", "1/2"])
        swarm.listen_until(lambda: "founded" in founder.said, "founding", START_SECONDS)
        manifest = founder.said["founded"]["manifest"]
        assert manifest["task"] == "tumours"
        assert str(FILE) not in json.dumps(manifest)
        address = founder.said["listening"]["addresses"][0]

        other = swarm.start("other", [*TASK, "--initial-peer", address, "--steps", "1000000", "--shard", "2/2"])
        met = lambda: completed(founder) >= 3 and (founder.last.get("metrics") or {}).get("f1") is not None  # noqa: E731
        swarm.listen_until(met, "exchanges", START_SECONDS)
        assert other.said["taken_over"]["learning_rate"] == 0.01

        fixed = ["--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--output", str(tmp_path / "lacking")]
        lacking = run("join", "--initial-peer", address, *fixed)
        assert lacking.returncode == 2
        assert "got 'tumours'; the run trains what is not installed here" in lacking.stderr
        assert "--task ./FILE.py:NAME" in lacking.stderr

        output = tmp_path / "exported.safetensors"
        asked = ["--initial-peer", address, "--output", str(output), "--host", "127.0.0.1"]
        exported = run("export", *asked, *TASK)
        assert exported.returncode == 0, exported.stderr
        assert "test f1" in exported.stdout
        assert json.loads(output.with_suffix(".json").read_text())["test_metrics"]["f1"] > 0.8
