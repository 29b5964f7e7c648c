"""The outer optimizer of a live peer: what it does to a model, and what a checkpoint keeps of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.swarm import tiny_model, values
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.mailbox import Mailbox, Move
from p2p_elastic.peers.exchange.outer_steps import OuterSteps
from p2p_elastic.rules.outer import CHUNK, Outer

NESTEROV = Outer(learning_rate=0.7, momentum=0.5)
IDENTITY = Outer(learning_rate=1.0, momentum=0.0)


def begun(model: nn.Module, outer: Outer | None = NESTEROV) -> OuterSteps:
    steps = OuterSteps(ParameterVector(model))
    steps.use(outer)
    steps.begin()
    return steps


def add(model: nn.Module, number: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(number)


def expected(*thetas: Tensor) -> Tensor:
    """What outer steps make of a vector that was the first of these, and gained what the others are above it."""
    theta, state = thetas[0], NESTEROV.init(thetas[0])
    for gained in (after - before for before, after in itertools.pairwise(thetas)):
        theta, state = NESTEROV.update(theta + gained, state)
    return theta


def test_a_step_is_that_of_the_rule() -> None:
    model = tiny_model(0)
    before, steps = values(model), begun(model)
    for _ in range(3):
        add(model, 0.25)
        steps.step(None)
    torch.testing.assert_close(values(model), expected(*(before + 0.25 * n for n in range(4))))


def test_a_vector_of_many_chunks_makes_the_same_step() -> None:
    model = nn.Linear(CHUNK // 8, 20)
    before, steps = values(model), begun(model)
    add(model, 0.25)
    steps.step(None)
    torch.testing.assert_close(values(model), expected(before, before + 0.25))


def test_a_step_that_goes_where_the_exchange_went_changes_no_bit() -> None:
    model = tiny_model(0)
    steps = begun(model, IDENTITY)
    add(model, 0.1)
    before = values(model)
    steps.step(None)
    assert torch.equal(values(model), before)


def test_without_an_outer_optimizer_nothing_is_kept_and_nothing_moves() -> None:
    model = tiny_model(0)
    steps = begun(model, None)
    add(model, 0.25)
    before = values(model)
    steps.step(None)
    steps.restart(None)
    assert torch.equal(values(model), before)
    assert (steps.on, steps.state_dict()) == (False, {})


def test_another_optimizer_is_taken_up_between_steps_without_the_momentum_of_the_first() -> None:
    model = tiny_model(0)
    steps = begun(model, Outer(learning_rate=0.5, momentum=0.9))
    add(model, 1.0)
    steps.step(None)
    steps.use(NESTEROV)
    before = values(model)
    steps.begin()
    add(model, 0.25)
    steps.step(None)
    torch.testing.assert_close(values(model), expected(before, before + 0.25))
    steps.use(None)
    steps.begin()
    assert (steps.on, steps.state_dict()) == (False, {})


def test_only_a_part_makes_a_step() -> None:
    model = tiny_model(0)
    before, steps = values(model), begun(model)
    add(model, 0.25)
    steps.step((10, 20))
    found = values(model)
    torch.testing.assert_close(found[10:20], expected(before[10:20], before[10:20] + 0.25))
    torch.testing.assert_close(found[:10], before[:10] + 0.25)
    torch.testing.assert_close(found[20:], before[20:] + 0.25)


def test_running_statistics_make_no_steps() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    vector = ParameterVector(model)
    steps = begun(model)
    model[1].running_mean.fill_(8.0)
    steps.step(None)
    steps.step((vector.trainable, vector.elements))
    assert model[1].running_mean.tolist() == [8.0] * 4


def test_a_model_of_16_bits_gains_less_than_it_can_show() -> None:
    model = nn.Linear(4, 4).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    vector = ParameterVector(model)
    steps = OuterSteps(vector)
    steps.use(Outer(0.5, 0.0))
    steps.begin()
    vector.add_(torch.full((vector.elements,), 2.0**-12))
    steps.step(None)
    assert vector.snapshot(vector.empty())[0].item() == 1.0 + 2.0**-13
    assert model.weight[0, 0].item() == 1.0


def test_who_loads_a_state_goes_on_as_if_nothing_had_happened() -> None:
    one, two = tiny_model(0), tiny_model(0)
    first = begun(one)
    add(one, 0.25)
    first.step(None)
    saved = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    two.load_state_dict(one.state_dict())
    second = OuterSteps(ParameterVector(two))
    second.use(NESTEROV)
    second.load_state_dict(saved)
    second.begin()
    for model, steps in ((one, first), (two, second)):
        add(model, 0.5)
        steps.step(None)
    assert torch.equal(values(one), values(two))


def test_a_state_of_another_model_is_refused_and_one_from_before_the_first_step_is_none() -> None:
    model = tiny_model(0)
    steps = begun(model)
    with pytest.raises(ValueError, match="outer steps of 5 parameters for a model of 72"):
        steps.load_state_dict({"slow": torch.zeros(5), "buffer": torch.zeros(5)})
    steps.load_state_dict({})
    assert steps.state_dict() == {}


# ---------------------------------------------------------------- with a move


def mailbox_of(model: nn.Module) -> Mailbox:
    mailbox = Mailbox(ParameterVector(model))
    mailbox.outer.use(NESTEROV)
    mailbox.outer.begin()
    return mailbox


def settle(mailbox: Mailbox, move: Move) -> None:
    mailbox.request()
    mailbox.between_steps(1, due=False, settle=True, published=lambda _due: None)
    mailbox.deliver(move)
    mailbox.between_steps(2, due=False, settle=True, published=lambda _due: None)


def test_a_move_and_what_was_learnt_meanwhile_are_one_step() -> None:
    model = tiny_model(0)
    before, mailbox = values(model), mailbox_of(model)
    add(model, 0.25)
    settle(mailbox, Move("id", torch.full((72,), 1.0), 0.5))
    torch.testing.assert_close(values(model), expected(before, before + 0.75))


@pytest.mark.parametrize(
    "move",
    [
        Move("id", torch.full((72,), 1.0), 1.0),
        Move("id", torch.full((72,), 1.0), 0.5, copied=True),
        Move("id", torch.full((72,), 1.0), 0.5, replaces=True),
        Move("id", torch.full((72,), 1.0), 0.0, heals=((0, 72),)),
    ],
    ids=["whole", "copied", "replaced", "healed"],
)
def test_who_takes_over_a_partners_parameters_begins_anew(move: Move) -> None:
    model = tiny_model(0)
    mailbox = mailbox_of(model)
    add(model, 0.25)
    mailbox.outer.step(None)
    settle(mailbox, move)
    before = values(model)
    mailbox.outer.step(None)
    assert torch.equal(values(model), before)


@pytest.mark.parametrize(
    "move",
    [Move("id", torch.full((72,), 1.0), 0.5, check=lambda: False), Move("id", torch.full((72,), 1.0), 0.0)],
    ids=["refused", "of nothing"],
)
def test_a_move_that_is_none_is_no_step(move: Move) -> None:
    model = tiny_model(0)
    mailbox = mailbox_of(model)
    add(model, 0.25)
    before = values(model)
    settle(mailbox, move)
    assert torch.equal(values(model), before)
