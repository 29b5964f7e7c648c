"""The examples as their readers run them: two at once, one of them killed and resumed by its own means."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.running import START_SECONDS
from helpers.talking import Stage

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "own_loop.py": (),
    "transformers_lora.py": ("transformers", "peft"),
    "lightning_classifier.py": ("lightning",),
    "accelerate_loop.py": ("accelerate",),
}
STEPS = {"own_loop.py": 3000, "transformers_lora.py": 300, "lightning_classifier.py": 2000, "accelerate_loop.py": 2000}
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
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_two_of_them_train_together_and_one_is_killed_and_resumed(stage: Stage, name: str) -> None:
    run = command(name, STEPS[name], "--output", "first", "--wait-for-peers", "1")
    first = stage.start(*run)
    address = first.hear(r"initial_peers=\['([^']+)'\]", START_SECONDS)[1]
    joins = command(name, STEPS[name], "--output", "second", "--initial-peer", address)
    second = stage.start(*joins)
    second.hear(r"Joined run", START_SECONDS)
    peer = second.hear(r"peer (12D3\w+)", START_SECONDS)[1]
    first.ends(START_SECONDS)
    second.ends(START_SECONDS)
    for program in (first, second):
        assert int(program.hear(r"Exchanges: (\d+) completed", 1.0)[1]) > 0, program.said
        assert program.hear(r"Finished after (\d+) steps", 1.0)[1] == str(STEPS[name])
    resumed = stage.start(*command(name, STEPS[name] + 100, "--output", "second", "--resume"))
    said = resumed.ends(START_SECONDS)
    assert f"peer {peer}" in said
    assert f"Finished after {STEPS[name] + 100} steps" in said
