"""A training loop of somebody else's, as a peer sees it: steps are counted, losses heard, replacements forgotten."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.node.own_loop import OwnLoop, Stepped, is_compiled, plain_optimizers
from p2p_elastic.parameters.vector import ParameterVector


class FakePeer:
    """Adds a move at some steps, and replaces the model at others."""

    def __init__(self, moves_at: tuple[int, ...] = (), replaces_at: tuple[int, ...] = ()) -> None:
        self.moves = self.step = 0
        self.move_waits = False
        self.heard: list[float] = []
        self._moves_at, self._replaces_at = moves_at, replaces_at

    def report_loss(self, loss: float) -> None:
        self.heard.append(loss)

    def after_step(self) -> bool:
        self.step += 1
        replaced = self.step in self._replaces_at
        self.moves += replaced or self.step in self._moves_at
        return replaced


def loop_of(*optimizers: torch.optim.Optimizer, sign: float = 1.0) -> OwnLoop:
    model = nn.Linear(2, 1)
    return OwnLoop(model, optimizers, {}, ParameterVector(model), sign=sign)


def adam() -> torch.optim.Optimizer:
    model = nn.Linear(2, 1)
    model(torch.ones(2)).sum().backward()
    return torch.optim.AdamW(model.parameters())


def test_a_step_of_the_last_optimizer_counts() -> None:
    first, last, peer, seen = adam(), adam(), FakePeer(moves_at=(2,)), list[Stepped]()
    loop = loop_of(first, last)
    with loop.hooked(lambda: seen.append(loop.stepped(peer))):  # type: ignore[arg-type]
        for _ in range(3):
            first.step()
            last.step()
    last.step()  # after the end nothing is called any more
    assert loop.meter.step == peer.step == 3
    assert [result.moved for result in seen] == [False, True, False]


def test_what_is_told_after_a_move_comes_once_for_each() -> None:
    loop, peer, told = loop_of(), FakePeer(moves_at=(1, 3), replaces_at=(4,)), list[Stepped]()
    loop.moved.append(told.append)
    results = [loop.stepped(peer) for _ in range(5)]  # type: ignore[arg-type]
    for result in results:
        loop.tell(result)
    assert told == [Stepped(True, False), Stepped(True, False), Stepped(True, True)]
    assert results[4] == Stepped(False, False)


def test_after_a_replacement_momentum_and_losses_are_forgotten_and_the_old_model_s_loss_with_them() -> None:
    optimizer, peer = adam(), FakePeer(replaces_at=(2,))
    loop = loop_of(optimizer)
    with loop.hooked(lambda: [loop.stepped(peer)].clear()):  # type: ignore[arg-type]
        optimizer.step()
        loop.report(0.5)
        optimizer.step()
        loop.report(99.0)  # of the model that was replaced
        assert loop.meter.loss is None
        assert optimizer.state_dict()["state"] == {}
        optimizer.step()
        loop.report(0.3)
    assert loop.meter.losses == (0.3,)


@pytest.mark.parametrize(
    ("loss", "heard"),
    [
        (0.5, 0.5),
        (1, 1.0),
        (torch.tensor(0.25), 0.25),
        (torch.tensor([0.5, 1.5], requires_grad=True), 1.0),
        (torch.tensor([[2.0]], dtype=torch.bfloat16), 2.0),
    ],
    ids=str,
)
def test_losses_are_numbers_or_tensors_of_any_shape(loss: Any, heard: float) -> None:
    loop, peer = loop_of(), FakePeer()
    loop.report(loss)
    loop.stepped(peer)  # type: ignore[arg-type]
    assert peer.heard == [heard]


def test_what_is_to_be_large_is_told_with_the_other_sign() -> None:
    loop, peer = loop_of(sign=-1.0), FakePeer()
    loop.report(7.0)
    loop.stepped(peer)  # type: ignore[arg-type]
    assert peer.heard == [-7.0]


def test_without_losses_partners_are_told_none() -> None:
    loop, peer = loop_of(), FakePeer()
    loop.stepped(peer)  # type: ignore[arg-type]
    assert peer.heard == []
    assert loop.examiner() is None
    assert math.isnan(loop.loss_at({}).mean)


def test_optimizers_are_found_in_their_wrappers() -> None:
    inner, other = adam(), adam()
    wrapped = SimpleNamespace(optimizer=SimpleNamespace(optimizer=inner))
    assert plain_optimizers(None) == ()
    assert plain_optimizers(inner) == (inner,)
    assert plain_optimizers([wrapped, other]) == (inner, other)


@pytest.mark.parametrize("given", [nn.Linear(1, 1), "adam", [None], SimpleNamespace(optimizer=3)], ids=repr)
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="optimizer: got .*a torch.optim.Optimizer, a list of them, or None"):
        plain_optimizers(given)


def test_a_compiled_model_is_seen_to_be_one() -> None:
    plain, in_place = nn.Sequential(nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1))
    in_place[0].compile()
    assert not is_compiled(plain)
    assert is_compiled(torch.compile(plain))  # type: ignore[arg-type]
    assert is_compiled(in_place)
