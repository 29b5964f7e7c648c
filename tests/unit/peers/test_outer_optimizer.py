"""Outer optimizers in a simulated swarm: the production `Peer` in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from helpers.swarm import Member, begin_as_equals, build_member, centre_at, far_ahead, run_members, tiny_model, values
from torch import nn

from p2p_elastic.rules.methods import RULES, Topology
from p2p_elastic.rules.outer import Outer
from p2p_elastic.rules.policy import Policy, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

IDENTITY = Outer(learning_rate=1.0, momentum=0.0)
NESTEROV = Outer(learning_rate=0.7, momentum=0.7)
GAIN = NESTEROV.learning_rate / (1 - NESTEROV.momentum)
DRIFT = 0.001
with_outer = pytest.mark.parametrize("rule", sorted(n for n, m in RULES.items() if m.live and m.has_outer))


def policy(rule: str, outer: Outer | None) -> Policy:
    method = RULES[rule]
    moves = rule_of(method, method.moving_rate, "fixed")
    return Policy(moves, Schedule(period=8), method.topology, method.flow, outer=outer)


def drift(model: nn.Module) -> None:
    """A gradient that is the same everywhere."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(DRIFT)


def swarm(
    rule: str,
    outer: Outer | None,
    names: str = "abcd",
    *,
    steps: int = 200,
    seconds: dict[str, float] | None = None,
    **options: Any,
) -> list[Member]:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = []
        for seed, name in enumerate(names):
            newcomer = RULES[rule].topology is Topology.CENTRE and seed > 0
            each = {"newcomer": newcomer, "step_seconds": (seconds or {}).get(name, 0.01), **options}
            members.append(build_member(network, name, seed=seed, policy=policy(rule, outer), **each))
            members[-1].on_step = drift
        begin_as_equals(members)
        await run_members(members, steps=steps)
        return members

    return run_virtual(main())


@with_outer
@pytest.mark.parametrize("fragments", [1, 4])
def test_an_outer_step_that_goes_where_the_exchange_went_changes_no_bit(rule: str, fragments: int) -> None:
    fragments = fragments if RULES[rule].fragments else 1
    plain, identity = (swarm(rule, outer, fragments=fragments) for outer in (None, IDENTITY))
    for one, other in zip(plain, identity, strict=True):
        assert torch.equal(values(one.model), values(other.model))
        assert one.peer.exchanges().by_outcome == other.peer.exchanges().by_outcome


@with_outer
def test_what_is_gained_between_exchanges_is_multiplied(rule: str) -> None:
    """By b / (1 - a) at last, whoever meets whom, with a centre too."""
    plain, other = swarm(rule, None), swarm(rule, NESTEROV)
    far = [float(values(m.model).mean()) for m in plain]
    farther = [float(values(m.model).mean()) for m in other]
    assert min(farther) > max(far) + 0.5 * (GAIN - 1.0) * 200 * DRIFT
    assert max(farther) < max(far) + 1.5 * GAIN * 200 * DRIFT


def test_the_centre_steps_on_too() -> None:
    plain, other = (float(centre_at(swarm("easgd", outer)[0].peer).value.mean()) for outer in (None, NESTEROV))
    assert other > plain + 0.5 * (GAIN - 1.0) * 200 * DRIFT


async def train_for(seconds: float, members: list[Member]) -> None:
    """As long as the clock says, at whatever speed."""
    tasks = [asyncio.ensure_future(member.peer.run()) for member in members]
    try:
        for member in members:
            await member.peer.announce()
        for member in members:
            await member.peer.refresh()
        await asyncio.gather(*(member.train(round(seconds / member.step_seconds)) for member in members))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def distance(outer: Outer | None, **options: Any) -> float:
    """The consensus distance after 8 s of peers of unequal speed."""

    async def main() -> list[Member]:
        network, members = SimulatedNetwork(), list[Member]()
        for seed, seconds in enumerate((0.01, 0.013, 0.02, 0.05)):
            chosen = policy("elastic-gossip", outer)
            member = build_member(network, f"p{seed}", seed=seed, policy=chosen, step_seconds=seconds, **options)
            member.on_step = drift
            members.append(member)
        begin_as_equals(members)
        await train_for(8.0, members)
        return members

    rows = torch.stack([values(member.model) for member in run_virtual(main())])
    return float((rows - rows.mean(0)).norm())


@pytest.mark.parametrize("codec", ["none", "int8"])
@pytest.mark.parametrize("fragments", [1, 4])
def test_peers_of_unequal_speed_stay_together(codec: str, fragments: int) -> None:
    """What they gained apart is multiplied, and so is their distance, but no more than that."""
    plain, other = (distance(outer, codec=codec, fragments=fragments) for outer in (None, NESTEROV))
    assert other < 1.5 * GAIN * plain


def test_a_lone_peer_steps_on_and_one_without_exchanges_by_its_rule_too() -> None:
    for rule in ("elastic-gossip", "none"):
        (plain,), (other,) = swarm(rule, None, "a"), swarm(rule, NESTEROV, "a")
        gained = float((values(other.model) - values(plain.model)).mean())
        assert 0.5 * (GAIN - 1.0) * 200 * DRIFT < gained < GAIN * 200 * DRIFT
    first, second = swarm("none", NESTEROV, "ab")
    assert first.peer.exchanges().by_outcome == second.peer.exchanges().by_outcome == {}
    lone = float((values(first.model) - values(tiny_model(0))).mean())
    assert lone == pytest.approx(float((values(second.model) - values(tiny_model(1))).mean()), abs=1e-5)
    assert lone > 1.2 * 200 * DRIFT


def test_a_peer_that_adopts_a_run_makes_its_outer_steps_from_then_on() -> None:
    async def main() -> list[bool]:
        alone = build_member(SimulatedNetwork(), "a", seed=0, policy=policy("elastic-gossip", None))
        outer, found = alone.peer.parts.slot.mailbox.outer, []
        for adopted in (NESTEROV, None):
            alone.peer.after_step()
            found.append(outer.on)
            alone.peer.adopt("other", policy("elastic-gossip", adopted), codec="none", fragments=1)
        alone.peer.after_step()
        return [*found, outer.on]

    assert run_virtual(main()) == [False, True, False]


def test_a_newcomer_that_copied_has_no_momentum_of_what_it_was() -> None:
    async def main() -> tuple[Member, Member]:
        network, chosen = SimulatedNetwork(), policy("elastic-gossip", NESTEROV)
        old = build_member(network, "old", seed=0, policy=chosen)
        new = build_member(network, "new", seed=1, policy=chosen, newcomer=True)
        far_ahead(old)
        with torch.no_grad():
            for parameter in new.model.parameters():
                parameter.add_(100.0)
        await train_for(2.0, [old, new])
        return old, new

    old, new = run_virtual(main())
    assert float(values(new.model).abs().max()) < 1.0
    assert float((values(old.model) - values(new.model)).abs().max()) < 0.1
