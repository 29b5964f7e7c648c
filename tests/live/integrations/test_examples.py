"""The examples as their readers run them: two at once, one of them killed and resumed by its own means."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.running import START_SECONDS, is_whole
from helpers.talking import Stage

EXAMPLES = Path(__file__).parents[3] / "examples"
NEEDS = {
    "own_loop.py": (),
    "tabular.py": (),
    "language_model.py": (),
    "transformers_lora.py": ("transformers", "peft"),
    "lightning_classifier.py": ("lightning",),
    "accelerate_loop.py": ("accelerate",),
}
STEPS = {
    "own_loop.py": 600,
    "tabular.py": 600,
    "language_model.py": 300,
    "transformers_lora.py": 400,
    "lightning_classifier.py": 1200,
    "accelerate_loop.py": 1200,
}
OWN_LOOPS = ("own_loop.py", "tabular.py", "language_model.py")
SAVES = {
    **dict.fromkeys(OWN_LOOPS, "checkpoint/step-*"),
    "transformers_lora.py": "checkpoint-*/swarm_peer.json",
    "lightning_classifier.py": "last.ckpt",
    "accelerate_loop.py": "accelerate/custom_checkpoint_0.pkl",
}
LOCAL = ("--host", "127.0.0.1")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with Stage.of(tmp_path) as stage:
        yield stage


def command(name: str, steps: int, *arguments: str) -> list[str]:
    missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    return [str(EXAMPLES / name), *LOCAL, "--steps", str(steps), *arguments]


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*NEEDS, "task_file.py"}  # that one: test_own_task.py


@pytest.mark.parametrize("name", NEEDS)
def test_two_of_them_train_together_and_one_is_killed_and_resumed(stage: Stage, name: str, tmp_path: Path) -> None:
    first = stage.start(*command(name, 100 * STEPS[name], "--output", "first"))
    address = first.hear(r"initial_peers=\['([^']+)'\]", START_SECONDS)[1]
    saves = ["--checkpoint-every", str(STEPS[name] // 8)] if name in OWN_LOOPS else []
    joins = command(name, STEPS[name], "--output", "second", "--initial-peer", address, *saves)
    second = stage.start(*joins)
    peer = second.hear(r"peer (12D3\w+)", START_SECONDS)[1]
    second.waits_for(lambda: any(map(is_whole, (tmp_path / "second").glob(SAVES[name]))), START_SECONDS)
    second.kill()
    resumed = stage.start(*joins, "--resume")
    resumed.ends(START_SECONDS)
    assert f"peer {peer}" in resumed.said
    assert resumed.hear(r"Finished after (\d+) steps", 1.0)[1] == str(STEPS[name])
    first.child.terminate()
    first.child.wait(START_SECONDS)  # Lightning ends with the signal's number
    assert "Stopped after" in first.said
    for program in (first, resumed):
        assert int(program.hear(r"Exchanges: .*?(\d+) completed", 1.0)[1]) > 0, program.said
