"""Muon for matrices and AdamW for the rest: which is which, and that it is one optimizer to all others."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.trainings import Notes, needs_muon, never, nothing
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import find_task, initial_model
from p2p_elastic.training.muon import BETAS, Muon
from p2p_elastic.training.settings import OWN_LEARNING_RATES, Settings
from p2p_elastic.training.trainer import Trainer


def model_of_all_kinds() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 4), nn.LayerNorm(4), nn.Conv1d(4, 2, 3), nn.Linear(2, 2))
    model[4].requires_grad_(False)
    return model


def loss_of(model: nn.Module) -> Tensor:
    assert isinstance(model, nn.Sequential)
    features = model[2](model[1](model[0](torch.arange(5))))
    return model[3](features.T).square().sum()


def train(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@needs_muon
def test_matrices_are_for_muon_and_embeddings_kernels_and_vectors_for_adamw() -> None:
    model, alone = model_of_all_kinds(), model_of_all_kinds()
    train(model, Muon(model, lr=0.01, weight_decay=0.1))
    adamw = [
        {"params": [alone[0].weight, alone[3].weight], "weight_decay": 0.1},
        {"params": [alone[1].bias, *alone[2].parameters(), alone[3].bias], "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon([alone[1].weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    train(alone, muon, torch.optim.AdamW(adamw, lr=0.01, betas=BETAS))
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


@needs_muon
def test_a_head_that_is_tied_to_an_embedding_is_for_adamw() -> None:
    embedding, head = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
    head.weight = embedding.weight
    optimizer = Muon(nn.ModuleList([head, embedding]))
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]
    assert "betas" in optimizer.param_groups[0]


@needs_muon
def test_the_output_layer_is_for_adamw() -> None:
    """Orthogonal steps would keep its rows alike in length, and the frequencies of classes are what it learns first."""
    layers = [nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)]
    hidden, matrices, vectors = Muon(nn.Sequential(*layers)).param_groups
    assert "betas" not in hidden
    assert [id(p) for p in hidden["params"]] == [id(layer.weight) for layer in layers[:2]]
    assert (matrices["params"], vectors["params"]) == ([layers[2].weight], [])


@needs_muon
def test_a_model_of_one_matrix_has_no_use_for_muon() -> None:
    assert all("betas" in group for group in Muon(nn.Linear(3, 3)).param_groups)


@needs_muon
def test_hidden_matrices_alone_have_no_use_for_adamw() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].requires_grad_(False)
    (group,) = Muon(model).param_groups
    assert "betas" not in group


@needs_muon
def test_a_rate_that_is_set_is_that_of_both() -> None:
    model = model_of_all_kinds()
    before, optimizer = copy.deepcopy(model), Muon(model, lr=0.01, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer)
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other)


@needs_muon
def test_who_loads_a_state_goes_on_with_the_same_bits() -> None:
    model = model_of_all_kinds()
    optimizer = Muon(model, lr=0.01)
    train(model, optimizer)
    again = copy.deepcopy(model)
    second = Muon(again, lr=1.0)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer)
    train(again, second)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@needs_muon
def test_a_hook_hears_of_one_step_and_a_closure_computes_the_gradients() -> None:
    model, heard = model_of_all_kinds(), list[int]()
    optimizer = Muon(model, lr=0.01)
    optimizer.register_step_post_hook(lambda *_: heard.append(1))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
    assert heard == [1, 1]


@needs_muon
def test_digits_are_learnt() -> None:
    task = find_task("digits")
    settings = Settings(100, 1, 32, OWN_LEARNING_RATES["muon"], 0.0, seed=1, optimizer="muon")
    trainer = Trainer(initial_model(task, 0), task, task.load(None), settings, torch.device("cpu"), lambda: 0.0)
    trainer.train(Notes(), never, nothing)
    result = trainer.test(never, 60.0)
    assert result is not None
    assert result.accuracy > 0.9


def test_a_pytorch_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ConfigError, match=r"optimizer: got 'muon'; PyTorch 2.9 or later has it, .* has not"):
        Muon(nn.Linear(2, 2))
