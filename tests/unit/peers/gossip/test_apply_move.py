"""From what an exchange brought to the move that the training thread adds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.peer_parts import DYNAMIC, GOSSIP, ID, parts_in, step, values_of
from helpers.topologies import gossip
from torch import Tensor

from p2p_elastic.peers.exchange.slot import DELIVERED, IDLE
from p2p_elastic.peers.gossip.apply_move import Brought, move, note_left_out
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.protocol.chunks import Received
from p2p_elastic.rules.base import Facts, Stake
from p2p_elastic.rules.merging import merging
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.trial import Trial
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

EQUAL = Facts(step=1, loss=1.0, weight=1.0)
NEWCOMER = EQUAL._replace(weight=0.0)
GOOD, BAD = Trial(theirs=1.0, mine=1.0, error=1e-6), Trial(theirs=9.0, mine=1.0, error=1e-6)


def ready(policy: Policy = GOSSIP, **context: Any) -> StrategyParts:
    """A peer whose snapshot is there."""
    parts = parts_in(SimulatedNetwork(), policy, **context)
    assert parts.local.slot.take()
    step(parts)
    return parts


def moved(
    parts: StrategyParts,
    theirs: Facts,
    values: Tensor | None,
    *,
    mine: Facts = EQUAL,
    partner: str = "b",
    **given: Any,
) -> tuple[Tensor, float | None]:
    """Our parameters after the exchange with a partner that has those `values`, and the distance."""

    async def main() -> float | None:
        received = None if values is None else parts.local.slot.mailbox.bring(values)
        return move(parts.local, Brought(ID, partner, mine, theirs, received, **given))

    distance = run_virtual(main())
    step(parts)
    return values_of(parts), distance


def test_a_peer_moves_by_the_rule_at_its_next_step() -> None:
    parts = ready()
    before = values_of(parts)
    after, distance = moved(parts, EQUAL, before + 1.0)
    torch.testing.assert_close(after, before + 0.5)
    assert distance == pytest.approx(72**0.5)
    assert parts.local.slot.state == IDLE


def test_where_nothing_was_received_only_the_rule_remembers_it() -> None:
    parts = ready(gossip("gosgd"))
    before, share = values_of(parts), parts.local.share
    after, distance = moved(parts, EQUAL, None, mine=EQUAL._replace(asked=True, share=share))
    assert torch.equal(after, before)
    assert distance is None
    assert 0.0 < parts.local.share < share  # a part of its sum weight is the partner's now


def test_a_newcomer_copies_one_that_counts_and_is_none_any_more() -> None:
    parts = ready(newcomer=True)
    after, _ = moved(parts, EQUAL, torch.ones(72), mine=NEWCOMER)
    torch.testing.assert_close(after, torch.ones(72))
    assert not parts.local.own.newcomer
    assert parts.local.own.arrival.proving


@pytest.mark.parametrize(("values", "share"), [(torch.ones(72), 0.5), (torch.zeros(72), 0.0)])
def test_two_that_count_nothing_meet_unless_what_came_are_zeros(values: Tensor, share: float) -> None:
    parts = ready(newcomer=True)
    before = values_of(parts)
    after, _ = moved(parts, NEWCOMER, values, mine=NEWCOMER)
    torch.testing.assert_close(after, before + share * (values - before))
    assert parts.local.own.newcomer


def broken(parts: StrategyParts) -> StrategyParts:
    parts.local.vector.load_(torch.full((72,), math.nan))
    parts.local.slot.mailbox.mine.zero_()
    parts.local.own.broken = True
    return parts


@pytest.mark.parametrize("weight", [0.3, 0.0])
def test_a_broken_model_is_replaced_by_whatever_is_finite(weight: float) -> None:
    after, _ = moved(broken(ready()), EQUAL._replace(weight=weight), torch.ones(72), mine=NEWCOMER)
    assert torch.equal(after, torch.ones(72))


def test_a_broken_model_is_not_healed_by_a_broken_one() -> None:
    parts = broken(ready())
    after, _ = moved(parts, NEWCOMER, torch.zeros(72), mine=NEWCOMER)
    assert bool(after.isnan().all())
    assert parts.local.own.broken
    assert parts.local.slot.state == IDLE


def test_a_distance_that_overflows_moves_nothing() -> None:
    parts = ready()
    before = values_of(parts)
    after, distance = moved(parts, EQUAL, torch.full((72,), 3e38))
    assert distance == math.inf
    assert torch.equal(after, before)


def test_a_partner_whose_parameters_do_badly_here_moves_nobody() -> None:
    parts = ready(DYNAMIC)
    before = values_of(parts)
    parts.local.judge.verdict("b", EQUAL, 1.0, GOOD)
    after, _ = moved(parts, EQUAL, before + 1.0, trial=BAD)
    assert parts.local.judge.trust == {"b": 0.0}
    assert torch.equal(after, before)


BIAS = slice(64, 72)  # of the tiny model


@pytest.mark.parametrize(("weight", "share"), [(1.0, 0.5), (0.0, 0.0)])
def test_a_lost_tensor_is_the_partners_afterwards_and_the_rest_moves_by_the_rule(weight: float, share: float) -> None:
    parts = ready()
    before = values_of(parts)
    parts.local.slot.mailbox.mine[70] = math.nan
    parts.local.slot.mailbox.lost.find(parts.local.slot.mailbox.mine, None)
    after, distance = moved(parts, EQUAL._replace(weight=weight), before + 1.0)
    torch.testing.assert_close(after[BIAS], before[BIAS] + 1.0)
    torch.testing.assert_close(after[:64], before[:64] + share)
    assert distance == pytest.approx(64**0.5)


@pytest.mark.parametrize("values", [torch.zeros(72), None])
def test_a_lost_tensor_is_not_taken_from_one_that_has_nothing_to_give(values: Tensor | None) -> None:
    parts = ready()
    before = values_of(parts)
    parts.local.slot.mailbox.mine[70] = math.nan
    parts.local.slot.mailbox.lost.find(parts.local.slot.mailbox.mine, None)
    after, _ = moved(parts, NEWCOMER, values)
    assert torch.equal(after, before)


def test_tensors_of_a_partner_that_are_not_finite_are_counted_and_named() -> None:
    parts = ready()
    for left_out in (((64, 72),), ((64, 72),), ()):
        note_left_out(parts.local, "b", Received(left_out=left_out), None)
    note_left_out(parts.local, "c", Received(left_out=((6, 14),)), (58, 72))
    assert parts.local.journal.totals(0.0).left_out == {"bias": 3}
    said = [event.text for event in parts.local.events.since(0)]
    assert said == [f"not finite at {peer}, so all else moves: bias" for peer in "bc"]


@pytest.mark.parametrize(("partner", "copies"), [("b", False), ("A", True)])
def test_over_a_barrier_one_end_copies_the_other_and_that_one_stays(partner: str, copies: bool) -> None:
    parts = ready(DYNAMIC._replace(rule=merging(GOSSIP.rule)))
    before, apart = values_of(parts), EQUAL._replace(apart=Stake(steps=10, peers=2))
    trial = GOOD._replace(barrier=True)
    after, _ = moved(parts, apart, before + 1.0, mine=apart, partner=partner, trial=trial)
    torch.testing.assert_close(after, before + float(copies))


@pytest.mark.parametrize("agrees", [True, False])
def test_the_training_thread_may_refuse_a_move(agrees: bool) -> None:
    parts = ready()
    before = values_of(parts)
    after, _ = moved(parts, EQUAL, before + 1.0, check=lambda: agrees)
    torch.testing.assert_close(after, before + 0.5 * agrees)


@pytest.mark.parametrize("asked", [True, False])
def test_it_is_known_whether_somebody_else_moved_by_the_snapshot(asked: bool) -> None:
    parts = ready(gossip("gossip-pull"))
    values = torch.ones(72) if asked else None
    moved(parts, EQUAL._replace(asked=not asked), values, mine=EQUAL._replace(asked=asked))
    assert (parts.local.slot.handed_step is None) is asked
    assert parts.local.slot.state != DELIVERED
