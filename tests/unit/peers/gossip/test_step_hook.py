"""What a peer does between two optimizer steps."""

from __future__ import annotations

import asyncio
import random

import pytest
import torch
from helpers.peer_parts import parts_in, record, values_of

from p2p_elastic.peers.exchange.mailbox import Move
from p2p_elastic.peers.gossip.errands import Errands
from p2p_elastic.peers.gossip.step_hook import StepHook
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.rules.outer import Outer
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

EACH_STEP = Policy(elastic(0.5), Schedule(period=1))


def hooked(policy: Policy = EACH_STEP) -> tuple[StepHook, StrategyParts]:
    parts = parts_in(SimulatedNetwork(), policy)
    errands = Errands(parts.local.run, parts.local.journal, random.Random(0))
    return StepHook(parts.local, errands, parts.own.published), parts


def test_without_a_network_steps_are_counted_and_no_exchange_begins() -> None:
    hook, parts = hooked()
    assert [hook.after_step() for _ in range(3)] == [False] * 3
    assert parts.local.own.progress.step == 3
    assert not hook.due.is_set()


@pytest.mark.parametrize("alone", [False, True])
def test_a_due_exchange_gets_its_snapshot_if_there_is_anybody_to_meet(*, alone: bool) -> None:
    async def stepped() -> tuple[bool, int]:
        hook, parts = hooked()
        hook.loop = asyncio.get_running_loop()
        if not alone:
            parts.local.members.look([record("b")], 0.0)
        hook.after_step()
        await asyncio.sleep(0)
        return hook.due.is_set(), parts.local.journal.skipped["no partner"]

    assert run_virtual(stepped()) == (not alone, alone)


@pytest.mark.parametrize("evaluating", [False, True])
def test_a_move_is_added_by_settle_and_not_during_an_evaluation(evaluating: bool) -> None:
    hook, parts = hooked()
    before = values_of(parts)
    assert parts.local.slot.take()
    hook.during_evaluation()
    parts.local.slot.deliver(Move("x", torch.ones(72), 0.5))
    if evaluating:
        hook.during_evaluation()
    else:
        assert not hook.settle()
    torch.testing.assert_close(values_of(parts) - before, torch.full((72,), 0.0 if evaluating else 0.5))


def test_who_has_no_partner_makes_its_outer_steps_alone() -> None:
    hook, parts = hooked(EACH_STEP._replace(outer=Outer(0.5, 0.0)))
    before = values_of(parts)
    hook.after_step()
    parts.local.vector.add_(torch.ones(72))
    hook.after_step()
    assert hook.moves == 2  # so that other ranks of the model hear of them
    torch.testing.assert_close(values_of(parts) - before, torch.full((72,), 0.5))


def test_if_nothing_came_of_a_due_exchange_the_next_due_step_is_an_outer_step_alone() -> None:
    async def stepped() -> list[float]:
        hook, parts = hooked(EACH_STEP._replace(outer=Outer(0.5, 0.0)))
        hook.loop = asyncio.get_running_loop()
        parts.local.members.look([record("b")], 0.0)
        before, found = values_of(parts), list[float]()
        for _ in range(3):
            hook.after_step()
            parts.local.slot.release()  # the partner declined
            parts.local.vector.add_(torch.ones(72))
            found.append(float((values_of(parts) - before)[0]))
        return found

    assert run_virtual(stepped()) == pytest.approx([1.0, 1.5, 2.0], abs=1e-5)


def test_while_an_exchange_is_under_way_there_is_no_outer_step_alone() -> None:
    async def stepped() -> float:
        hook, parts = hooked(EACH_STEP._replace(outer=Outer(0.5, 0.0)))
        hook.loop = asyncio.get_running_loop()
        parts.local.members.look([record("b")], 0.0)
        before = values_of(parts)
        for _ in range(3):
            hook.after_step()
            parts.local.vector.add_(torch.ones(72))
        return float((values_of(parts) - before)[0])

    assert run_virtual(stepped()) == pytest.approx(3.0, abs=1e-5)
