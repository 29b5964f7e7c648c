"""The outer optimizer of a centre variable."""

from __future__ import annotations

import torch

from p2p_elastic.peers.centre.momentum import CentreMomentum
from p2p_elastic.rules.outer import Outer

NESTEROV, WHOLE = Outer(learning_rate=0.7, momentum=0.5), slice(None)


def test_the_centre_steps_on_from_what_it_moved() -> None:
    before, moved = torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected, _ = NESTEROV.update(moved, NESTEROV.init(before))
    CentreMomentum(NESTEROV, 4).step_(moved, before, WHOLE)
    assert torch.equal(moved, expected)


def test_only_the_part_that_moved_and_only_what_trains_steps_on() -> None:
    before, moved = torch.zeros(4), torch.ones(4)
    momentum = CentreMomentum(NESTEROV, 3)
    momentum.step_(moved, before, slice(1, 2))
    assert [value != 1.0 for value in moved.tolist()] == [False, True, False, False]
    momentum.step_(moved, before, slice(2, 4))
    assert [value != 1.0 for value in moved.tolist()] == [False, True, True, False]


def test_a_new_centre_has_no_momentum() -> None:
    momentum, fresh = CentreMomentum(NESTEROV, 2), CentreMomentum(NESTEROV, 2)
    momentum.step_(torch.ones(2), torch.zeros(2), WHOLE)
    momentum.begin()
    one, other = torch.ones(2), torch.ones(2)
    momentum.step_(one, torch.zeros(2), WHOLE)
    fresh.step_(other, torch.zeros(2), WHOLE)
    assert torch.equal(one, other)


def test_without_an_outer_optimizer_it_stays_where_it_moved() -> None:
    moved = torch.ones(2)
    CentreMomentum().step_(moved, torch.zeros(2), WHOLE)
    assert torch.equal(moved, torch.ones(2))
