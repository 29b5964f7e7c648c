"""Peers on loopback with a task that is in a file of the user's, and those who do not have it, or another one."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from helpers.running import START_SECONDS, completed
from safetensors.torch import load_file
from torch import nn

from p2p_elastic.cli.main import main
from p2p_elastic.demo.processes import Swarm

FILE = Path(__file__).parents[2] / "examples" / "task_file.py"
TASK = ["--task", f"{FILE}:TUMOURS"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_peers_with_a_task_file_train_it_and_others_are_told_what_to_pass(swarm: Swarm, tmp_path: Path) -> None:
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

    joining = ["--initial-peer", address, "--host", "127.0.0.1", "--port", "0", "--http-port", "0"]
    code, said = run("join", *joining, "--output", str(tmp_path / "lacking"))
    assert code == 2
    assert "got 'tumours'; the run trains what is not installed here" in said
    assert "--task ./FILE.py:NAME" in said
    wider = tmp_path / "wider.py"
    wider.write_text(FILE.read_text().replace("32", "64"))
    code, said = run("join", *joining, "--output", str(tmp_path / "wider"), "--task", f"{wider}:TUMOURS")
    assert code == 2
    assert "task: got 'another model'" in said
    assert "0.weight is [64, 30] here and [32, 30] there" in said

    output = tmp_path / "exported.safetensors"
    asked = ["--initial-peer", address, "--output", str(output), "--host", "127.0.0.1"]
    code, said = run("export", *asked)
    assert code == 2
    assert "--raw, which needs no task" in said
    code, said = run("export", *asked, "--raw")
    assert code == 0, said
    nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1)).load_state_dict(load_file(output))
    code, said = run("export", *asked, *TASK)
    assert code == 0, said
    assert "test f1" in said
    assert json.loads(output.with_suffix(".json").read_text())["test_metrics"]["f1"] > 0.8
