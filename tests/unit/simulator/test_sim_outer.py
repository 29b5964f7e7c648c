"""Outer optimizers in the simulator: who makes a step, with which part, and what changes nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules.methods import RULES
from p2p_elastic.rules.outer import OUTER, Outer
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.simulator.centre import Centre, CentreTogether
from p2p_elastic.simulator.config import Failures, SimulationConfig, SimulationResult
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.outer import OuterSteps
from p2p_elastic.simulator.run import simulate
from p2p_elastic.simulator.sending import Moves
from p2p_elastic.tasks import Data, find_task

NESTEROV = Outer(learning_rate=0.7, momentum=0.5)
IDENTITY: dict[str, Any] = {"outer": "nesterov", "outer_learning_rate": 1.0, "outer_momentum": 0.0}
WITH_OUTER = sorted(name for name, method in RULES.items() if method.has_outer)
every_rule = pytest.mark.parametrize("rule", WITH_OUTER)


@cache
def digits() -> Data:
    return find_task("digits").load(None)


def run(**settings: Any) -> SimulationResult:
    settings = {"steps": 24, "workers": 3, "period": 4, "evaluate_steps": 12, "batch_size": 16, **settings}
    return simulate(SimulationConfig(**settings), digits(), "cpu", clock=lambda: 0.0)


def rows(workers: int = 3, elements: int = 8) -> Tensor:
    return torch.randn(workers, elements, generator=torch.Generator().manual_seed(0))


def outer_steps(flat: Tensor, *, trainable: int | None = None) -> OuterSteps:
    return OuterSteps(NESTEROV, flat, flat.shape[1] if trainable is None else trainable)


def stepped(before: Tensor, after: Tensor) -> Tensor:
    """What the first outer step makes of a row that was `before` at the beginning."""
    return NESTEROV.update(after, NESTEROV.init(before))[0]


@every_rule
@pytest.mark.parametrize("fragment", [1, 4])
def test_an_outer_step_that_goes_where_the_exchange_went_changes_no_bit(rule: str, fragment: int) -> None:
    if fragment > 1 and not RULES[rule].fragments:
        fragment = 1
    plain, identity = run(rule=rule, outer="none", fragment=fragment), run(rule=rule, fragment=fragment, **IDENTITY)
    assert plain.points == identity.points


@every_rule
@pytest.mark.parametrize("outer", [name for name in OUTER if name != "none"])
def test_an_outer_optimizer_changes_what_is_learnt_and_not_what_is_sent(rule: str, outer: str) -> None:
    plain, other = run(rule=rule, outer="none").points[-1], run(rule=rule, outer=outer).points[-1]
    assert (plain.exchanges, plain.bytes_per_worker) == (other.exchanges, other.bytes_per_worker)
    assert plain.metrics != other.metrics
    assert other.training_loss is not None
    assert other.accuracy > plain.accuracy - 0.15


@pytest.mark.parametrize("rule", sorted(set(RULES) - set(WITH_OUTER)))
def test_a_rule_whose_asker_does_not_move_by_parameters_has_no_outer_optimizer(rule: str) -> None:
    with pytest.raises(ConfigError, match="outer: got 'nesterov'; none: by this rule"):
        build({"rule": rule, "outer": "nesterov"})
    assert build({"rule": rule, "outer": "none"}).outer_optimizer is None


def test_options_are_spelled_as_on_the_command_line() -> None:
    config = build({"outer": "nesterov", "outer_lr": "1/2", "outer_momentum": "0.25"})
    assert config.outer_optimizer == Outer(0.5, 0.25)
    assert build({"rule": "diloco"}).outer_optimizer == Outer(0.7, 0.9)
    assert build({"rule": "diloco", "outer": "none"}).outer_optimizer is None
    assert build({}).outer_optimizer is None
    with pytest.raises(ConfigError, match="outer-lr"):
        build({"outer_lr": 0.5})


def test_diloco_keeps_the_workers_the_same_after_each_exchange() -> None:
    point = run(rule="diloco", steps=8).points[-1]
    assert point.consensus_distance == pytest.approx(0.0, abs=1e-6)
    assert point.bytes_per_worker == pytest.approx(2 * 2 * 85_002 * 4 * 2 / 3)


def test_who_moved_and_who_was_due_makes_a_step_and_nobody_else() -> None:
    before, flat, moves = rows(), rows() + 1.0, Moves()
    moves.add(0, slice(0, 8), torch.zeros(8), 8)
    outer_steps(before).step_(flat, moves, due=[0, 1])
    assert torch.equal(flat[0], stepped(before[0], before[0] + 1.0))
    assert torch.equal(flat[1], stepped(before[1], before[1] + 1.0))  # as SNOO: it had no partner
    assert torch.equal(flat[2], before[2] + 1.0)


def test_two_exchanges_at_once_are_one_step() -> None:
    before, flat, moves = rows(), rows() + 1.0, Moves()
    for _ in range(2):
        moves.add(0, slice(0, 8), torch.zeros(8), 8)
    outer_steps(before).step_(flat, moves, due=[])
    assert torch.equal(flat[0], stepped(before[0], before[0] + 1.0))


def test_only_the_part_that_was_exchanged_makes_a_step() -> None:
    before, flat, moves = rows(), rows() + 1.0, Moves()
    moves.add(0, slice(2, 4), torch.zeros(2), 8)
    outer_steps(before).step_(flat, moves, due=[0])
    assert torch.equal(flat[0, 2:4], stepped(before[0, 2:4], before[0, 2:4] + 1.0))
    assert torch.equal(flat[0, :2], before[0, :2] + 1.0)
    assert torch.equal(flat[0, 4:], before[0, 4:] + 1.0)


def test_running_statistics_make_no_outer_steps() -> None:
    before, flat, moves = rows(), rows() + 1.0, Moves()
    moves.add(0, slice(0, 8), torch.zeros(8), 8)
    outer_steps(before, trainable=5).step_(flat, moves, due=[])
    assert torch.equal(flat[0, :5], stepped(before[0, :5], before[0, :5] + 1.0))
    assert torch.equal(flat[0, 5:], before[0, 5:] + 1.0)


def test_who_counts_nothing_copied_and_begins_anew() -> None:
    before, flat, moves = rows(), rows() + 1.0, Moves()
    moves.add(0, slice(0, 8), torch.zeros(8), 8)
    outer = outer_steps(before)
    outer.step_(flat, moves, due=[], weights=[0.0, 1.0, 1.0])
    assert torch.equal(flat[0], before[0] + 1.0)
    assert torch.equal(outer.states[0].slow, flat[0])
    assert not outer.states[0].buffer.any()


def test_what_a_fault_did_to_a_worker_is_not_gained() -> None:
    before, flat = rows(), rows() + 1.0
    outer = outer_steps(before)
    outer.step_(flat, Moves(), due=[0])
    flat[0] = 100.0
    outer.restart(0, flat)
    outer.step_(flat, Moves(), due=[0])
    assert torch.equal(flat[0], torch.full((8,), 100.0))


@pytest.mark.parametrize("kind", [Centre, CentreTogether])
def test_the_centre_makes_a_step_with_what_it_moved(kind: type[Centre]) -> None:
    flat = rows()
    plain, other = kind(elastic(0.3), flat), kind(elastic(0.3), flat, outer=NESTEROV)
    first = flat[0].clone()
    assert torch.equal(plain.centre, other.centre)
    for round_ in (plain, other):
        round_.moves(flat, [1], [1], 1)
    assert torch.equal(other.centre, stepped(first, plain.centre))


@pytest.mark.parametrize(
    "failures",
    [
        Failures(drop=0.5, slow=1),
        Failures(crash=0.05, snapshot_steps=5),
        Failures(crash=0.05, snapshot_steps=5, silent=True),
        Failures(burst=0.5, burst_steps=8),
    ],
    ids=["drop-slow", "crash", "silent-crash", "burst"],
)
@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_with_unequal_speeds_and_faults_it_still_learns(failures: Failures, weighting: str) -> None:
    last = run(workers=4, steps=120, outer="nesterov", failures=failures, weighting=weighting).points[-1]
    assert last.training_loss is not None
    assert last.accuracy > 0.8
