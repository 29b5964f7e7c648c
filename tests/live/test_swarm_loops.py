"""Loops of many kinds in one process: what counts as a step, what is refused, and what is left afterwards."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.running import START_SECONDS
from safetensors.torch import save_model
from torch import nn

from p2p_elastic import Stepped, Swarm
from p2p_elastic.errors import ConfigError
from p2p_elastic.screens.live import SilentScreen


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return {"host": "127.0.0.1", "port": 0, "http_port": 0, "output": tmp_path / "run", "screen": SilentScreen()}


def model_of(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))


def loss_of(model: nn.Module) -> torch.Tensor:
    inputs = torch.randn(4, 8)
    return nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True))


def test_accumulation_clipping_autocast_and_a_scaler_count_optimizer_steps_alone(options: dict[str, Any]) -> None:
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with Swarm(model, optimizer, state={"scaler": scaler}, **options) as swarm:
        for micro in range(12):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model) / 3
            scaler.scale(loss).backward()
            if micro % 3 == 2:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            swarm.report(loss)
        assert swarm.status().training.step == 4
        assert swarm.status().training.loss is not None
        swarm.checkpoint()
        assert "own.scaler" in (next((options["output"] / "checkpoint").iterdir()) / "checkpoint.json").read_text()


@pytest.mark.parametrize("fused", [False, True])  # a fused one is called for each step, and skips it in its kernel
def test_a_step_that_a_scaler_skips_is_none(options: dict[str, Any], *, fused: bool) -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with Swarm(model, optimizer, checkpoint_every="0", **options) as swarm:
        for scale in (1.0, float("inf"), 1.0):
            scaler.scale(scale * loss_of(model)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            swarm.report(1.0)
        assert swarm.status().training.step == 2


def test_of_several_optimizers_a_step_of_the_last_counts(options: dict[str, Any]) -> None:
    model = model_of()
    first, last = (torch.optim.SGD(part.parameters(), lr=0.01) for part in (model[0], model[2]))
    with Swarm(model, [first, last], checkpoint_every="0", **options) as swarm:
        for _ in range(3):
            loss_of(model).backward()
            first.step()
            last.step()
        assert swarm.status().training.step == 3


def test_without_an_optimizer_steps_are_said_and_with_one_they_are_seen(options: dict[str, Any]) -> None:
    model = model_of()
    with Swarm(model, checkpoint_every="0", **options) as swarm:
        assert swarm.step() == Stepped(moved=False, replaced=False)
        swarm.report(1.0)
        assert swarm.status().training.step == 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with (
        Swarm(model, optimizer, checkpoint_every="0", **options) as swarm,
        pytest.raises(ConfigError, match="optimizer: got 'one, and a call of step"),
    ):
        swarm.step()


def test_what_the_loop_measures_is_shown_by_its_name(options: dict[str, Any]) -> None:
    model = model_of()
    with Swarm(model, checkpoint_every="0", **options) as swarm:
        swarm.report(1.0)
        swarm.measured(accuracy=torch.tensor(0.75), perplexity=23.125, broken=float("nan"))
        swarm.step()
        assert swarm.status().training.metrics == {"accuracy": 0.75, "perplexity": 23.125}
        with pytest.raises(ConfigError, match="metrics: got 'loss'; names of"):
            swarm.measured(loss=0.5)
    summary = json.loads((options["output"] / "summary.json").read_text())
    assert summary["validation_metrics"] == {"accuracy": 0.75, "perplexity": 23.125}


def test_lbfgs_makes_one_step_of_many_evaluations(options: dict[str, Any]) -> None:
    model = model_of()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    inputs = torch.randn(16, 8)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    with Swarm(model, optimizer, checkpoint_every="0", **options) as swarm:
        for _ in range(3):
            swarm.report(optimizer.step(closure))
        assert swarm.status().training.step == 3


def test_afterwards_each_tensor_has_memory_of_its_own_and_nothing_is_hooked(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Swarm(model, optimizer, **options) as swarm:
        loss_of(model).backward()
        optimizer.step()
        swarm.report(1.0)
        swarm.export(tmp_path / "exported.safetensors")
    assert {p.untyped_storage().nbytes() for p in model[2].parameters()} == {64, 4}
    save_model(model, str(tmp_path / "saved.safetensors"))
    optimizer.step()
    assert {path.name for path in options["output"].iterdir()} == {
        *("checkpoint", ".checkpoint.lock", "model.safetensors", "summary.json")
    }


def test_a_length_in_time_ends_the_loop(options: dict[str, Any]) -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Swarm(model, optimizer, duration="0.2s", checkpoint_every="0", **options) as swarm:
        while not swarm.should_stop:
            loss_of(model).backward()
            optimizer.step()
            swarm.report(1.0)
        assert swarm.progress == 1.0
        assert swarm.status().training.step > 1


def test_two_swarms_live_in_one_process_and_meet_though_the_program_seeds_them_alike(
    options: dict[str, Any], tmp_path: Path
) -> None:
    started, enough = threading.Event(), threading.Event()
    address: list[str] = []
    errors: list[Exception] = []

    def train(swarm: Swarm, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        while not enough.wait(0.002):
            before = [parameter.clone() for parameter in model.parameters()]
            swarm.peer_state()  # for trainers that may have saved the model already
            assert all(map(torch.equal, before, model.parameters())), "peer_state() moved the model"
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            swarm.report(loss)
            started.set()

    def founder() -> None:
        try:
            random.seed(42)  # as transformers.Trainer does: hivemind's nodes would have one id, and not find each other
            model = model_of(1)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            with Swarm(model, optimizer, period=4, checkpoint_every="0", **options) as swarm:
                address.append(swarm.address)
                train(swarm, model, optimizer)
        except Exception as error:  # noqa: BLE001  # shown by the test
            errors.append(error)
            started.set()
            enough.set()

    thread = threading.Thread(target=founder)
    thread.start()
    assert started.wait(START_SECONDS)
    assert errors == []
    other = model_of(2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
    moves: list[Stepped] = []
    given = {**options, "output": tmp_path / "other", "checkpoint_every": "0"}
    random.seed(42)
    with Swarm(other, optimizer, initial_peers=address, **given) as swarm:
        assert swarm.start_step > 0

        def count(result: Stepped) -> None:
            moves.append(result)
            if len(moves) == 3:
                enough.set()

        swarm.on_moved(count)
        train(swarm, other, optimizer)
    thread.join()
    assert errors == []
    assert len(moves) >= 3


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"rule": "nonsense"}, "rule: got 'nonsense'"),
        ({"colour": "red"}, "colour: got 'red'; no such option"),
        ({"duration": "soon"}, "for: got 'soon'; a time such as"),
        ({"resume": True, "output": None}, "--resume-or-found needs --output"),
        ({"exchange": ["0.weigth"]}, "exchange: got '0.weigth'; names of the model's tensors, such as 0.weight"),
        ({"initial_peers": "nowhere"}, "initial-peer: got 'nowhere'"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_before_anything_is_opened(
    options: dict[str, Any], given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Swarm(model_of(), **{**options, **given}).__enter__()


def test_a_model_of_which_nothing_trains_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Swarm(model_of().requires_grad_(False), **options)
