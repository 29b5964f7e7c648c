"""One peer, as its training thread and its network see it."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch
from helpers.swarm import build_member, run_members, values
from helpers.topologies import EASGD

from p2p_elastic.peers.exchange.mailbox import Move
from p2p_elastic.peers.exchange.slot import IDLE
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.peer import Peer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

EACH_STEP = Schedule(period=1)


def trained(steps: int) -> Peer:
    """A peer that does not run, after so many steps."""
    peer = build_member(SimulatedNetwork(), "a", schedule=Schedule(probability=0.5)).peer
    peer.report_loss(2.0)
    for _ in range(steps):
        peer.after_step()
    return peer


def test_before_it_runs_a_peer_counts_its_steps_and_begins_nothing() -> None:
    peer = build_member(SimulatedNetwork(), "a", schedule=EACH_STEP).peer
    assert [peer.after_step() for _ in range(3)] == [False] * 3
    assert (peer.step, peer.exchange_state) == (3, IDLE)


def test_two_peers_exchange_and_what_one_gains_the_other_loses() -> None:
    network = SimulatedNetwork()
    members = [build_member(network, name, seed=seed) for seed, name in enumerate("ab")]
    before = [values(member.model) for member in members]
    run_virtual(run_members(members, steps=100))
    after = [values(member.model) for member in members]
    torch.testing.assert_close(sum(after), sum(before))
    assert torch.dist(after[0], after[1]) < torch.dist(before[0], before[1])
    assert all(member.peer.exchanges().by_outcome[Outcome.COMPLETED] > 1 for member in members)
    assert {entry.partner for entry in members[0].peer.last_exchanges()} == {"b"}
    assert [partner.peer for partner in members[0].peer.partners()] == ["b"]


def test_during_an_evaluation_a_snapshot_is_given_and_parameters_stand_still() -> None:
    member = build_member(SimulatedNetwork(), "a")
    slot, before = member.peer.parts.slot, values(member.model)
    assert slot.take()
    member.peer.during_evaluation()
    slot.deliver(Move("x", torch.ones(72), 0.5))
    member.peer.during_evaluation()
    assert torch.equal(values(member.model), before)
    assert not member.peer.settle()
    torch.testing.assert_close(values(member.model), before + 0.5)


def test_a_move_that_replaces_the_model_is_said_to_the_optimizer() -> None:
    member = build_member(SimulatedNetwork(), "a")
    assert member.peer.parts.slot.take()
    member.peer.during_evaluation()
    member.peer.parts.slot.deliver(Move("x", torch.ones(72), 1.0, replaces=True))
    assert member.peer.after_step()
    assert torch.equal(values(member.model), torch.ones(72))


def test_a_newcomer_begins_with_what_it_was_given_and_counts_nothing_at_first() -> None:
    member = build_member(SimulatedNetwork(), "a", newcomer=True)
    member.peer.begin_with(CaughtUp(torch.ones(72), ("b",), 5, 0.1, None, None))
    assert torch.equal(values(member.model), torch.ones(72))
    assert member.peer.weight == 0.0


@pytest.mark.parametrize(("loss", "first"), [(2.3, 2.3), (math.nan, None)])
def test_an_untrained_loss_counts_where_it_is_a_number(loss: float, first: float | None) -> None:
    peer = build_member(SimulatedNetwork(), "a", newcomer=True).peer
    peer.report_untrained_loss(loss)
    assert peer.memory().first_loss == first


def test_another_life_goes_on_from_what_is_kept() -> None:
    first, second = trained(5), trained(0)
    second.restore(first.memory(), loss=2.0)
    assert second.memory() == first.memory()
    assert second.step == 5


def test_of_topologies_that_have_no_centre_or_leader_there_is_nothing_to_show() -> None:
    pairs, centre = build_member(SimulatedNetwork(), "a").peer, build_member(SimulatedNetwork(), "a", policy=EASGD).peer
    assert (pairs.centre(), pairs.centre_value(), pairs.leaders(), pairs.pace()) == (None, None, None, None)
    shown = centre.centre()
    assert shown is not None
    assert shown.here


def test_a_peer_adopts_another_run_as_a_newcomer_and_knows_nobody_there() -> None:
    network = SimulatedNetwork()
    alone, other = build_member(network, "a"), build_member(network, "b", run="other")

    async def main() -> None:
        tasks = [asyncio.ensure_future(member.peer.run()) for member in (alone, other)]
        await asyncio.sleep(5.0)
        assert alone.peer.members() == ()
        alone.peer.adopt("other", Policy(elastic(0.1), EACH_STEP), codec="float16", fragments=2)
        await asyncio.sleep(5.0)
        assert [member.peer for member in alone.peer.members()] == ["b"]
        assert alone.peer.joining() is not None
        for task in tasks:
            task.cancel()

    run_virtual(main())
    context = alone.peer.parts.run.context
    assert (context.run, context.codec, context.fragments, context.newcomer) == ("other", "float16", 2, True)


def test_an_override_of_the_weight_counts_at_once() -> None:
    member = build_member(SimulatedNetwork(), "a")

    async def main() -> list[str]:
        task = asyncio.ensure_future(member.peer.run())
        await asyncio.sleep(1.0)
        member.peer.condition.override_weight(0.25)
        told = [event.text for event in member.peer.events.since(0) if event.kind == "weight"]
        task.cancel()
        return told

    assert "weight 1 -> 0.25: its operator set that" in run_virtual(main())
