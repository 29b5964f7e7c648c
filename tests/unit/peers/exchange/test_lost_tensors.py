"""Tensors that are not finite: they are found and named, a partner's take the place, and all else moves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.peers.exchange.lost_tensors import LostTensors, names_at
from p2p_elastic.peers.exchange.mailbox import Mailbox, Move, Settled
from p2p_elastic.protocol.chunks import Received


def model(*broken: str) -> nn.Module:
    """Its tensors are a (elements 0 to 5), b (5 to 8) and c (8 to 12)."""
    found = nn.Module()
    for name, elements in (("a", 5), ("b", 3), ("c", 4)):
        found.register_parameter(name, nn.Parameter(torch.ones(elements)))
        if name in broken:
            found.get_parameter(name).data[0] = math.nan
    return found


def snapshot(made: nn.Module, part: Part | None = None) -> Tensor:
    vector = ParameterVector(made)
    return vector.snapshot(vector.empty(vector.elements if part is None else part[1] - part[0]), part)


@pytest.mark.parametrize(
    ("broken", "part", "names", "places"),
    [
        ("b", None, ("b",), ((5, 8),)),
        ("bc", None, ("b", "c"), ((5, 8), (8, 12))),
        ("b", (4, 9), ("b",), ((1, 4),)),  # counted from the begin of the part
        ("c", (0, 10), ("c",), ((8, 10),)),  # of a tensor that the part cuts, its piece is exchanged
        ("a", (5, 12), (), ()),  # elsewhere: not seen
    ],
)
def test_the_tensors_of_what_is_exchanged_are_found_and_named(
    broken: str, part: Part | None, names: tuple[str, ...], places: tuple[Part, ...]
) -> None:
    lost = LostTensors(ParameterVector(model()))
    lost.find(snapshot(model(*broken), part), part)
    assert (lost.names, lost.places) == (names, places)


def test_with_all_of_the_snapshot_those_outside_of_the_part_are_named_too() -> None:
    lost = LostTensors(ParameterVector(model()))
    assert lost.find(snapshot(model("a", "c")), (4, 9)) == ((0, 4), (8, 9))
    assert lost.names == ("a", "c")
    assert lost.places == ((4, 5),)


def test_a_model_of_which_more_than_half_is_not_finite_has_no_lost_tensors() -> None:
    vector = ParameterVector(model())
    lost, broken = LostTensors(vector), torch.ones(12)
    broken[:7] = math.inf
    assert lost.find(broken, None) == ()
    assert lost.names == lost.places == ()


def test_what_a_part_did_not_show_stays_as_it_was_known() -> None:
    lost = LostTensors(ParameterVector(model()))
    lost.find(snapshot(model("a", "c")), None)
    lost.find(None, (0, 5))
    assert lost.names == ("c",)
    lost.find(None, None)
    assert lost.names == ()


def test_names_come_once_in_the_order_of_the_vector() -> None:
    slots = ParameterVector(model()).slots
    assert names_at(slots, ((9, 10), (0, 1), (11, 12))) == ("a", "c")
    assert names_at(slots, ()) == ()


def exchange(made: nn.Module, theirs: Tensor, *, left_out: tuple[Part, ...] = (), compares: bool = False) -> Settled:
    """What the training thread did of an exchange with a partner that has these parameters: half of the way."""
    mailbox = Mailbox(ParameterVector(made))
    mailbox.compare(compares)
    mailbox.between_steps(1, due=True, settle=True, published=lambda _due: None)
    mailbox.lost.find(mailbox.mine, None)
    received = mailbox.bring(theirs)._replace(left_out=left_out)
    delta, distance = mailbox.difference(received)
    assert distance == pytest.approx(float(torch.linalg.vector_norm(delta[:5])))
    mailbox.deliver(Move("id", delta, 0.5, heals=mailbox.lost.healed_by(received)))
    settled = mailbox.between_steps(2, due=False, settle=True, published=lambda _due: None)
    assert settled is not None
    assert mailbox.lost.names == (() if settled.healed else ("b",))
    return settled


@pytest.mark.parametrize("compares", [False, True])
def test_a_lost_tensor_becomes_the_partners_and_all_else_moves(compares: bool) -> None:
    made, theirs = model("b"), torch.arange(12.0)
    theirs[8:] = 1.0
    assert exchange(made, theirs, compares=compares).healed == ((5, 8),)
    assert made.get_parameter("b").tolist() == [5.0, 6.0, 7.0]
    assert made.get_parameter("a").tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.mark.parametrize("compares", [False, True])
def test_a_tensor_that_is_lost_at_both_ends_stays_lost(compares: bool) -> None:
    made, theirs = model("b"), torch.ones(12)
    theirs[:5], theirs[5:8] = 3.0, 0.0
    assert exchange(made, theirs, left_out=((5, 8),), compares=compares).healed == ()
    assert made.get_parameter("a").tolist() == [2.0] * 5
    assert made.get_parameter("b").isnan().tolist() == [True, False, False]


def test_a_tensor_that_came_lost_does_not_move() -> None:
    mailbox = Mailbox(ParameterVector(model()))
    mailbox.between_steps(1, due=True, settle=True, published=lambda _due: None)
    torch.sub(torch.tensor([math.nan] * 5 + [4.0] * 7), mailbox.mine, out=mailbox.mine)
    delta, distance = mailbox.difference(Received(distance=math.nan, left_out=((0, 5),)))
    assert delta.tolist() == [0.0] * 5 + [3.0] * 7
    assert distance == pytest.approx(3.0 * 7**0.5)
