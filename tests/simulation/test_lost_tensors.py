"""A tensor that is not finite at one peer of a swarm: it is named and healed, and all else goes on, in virtual time."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.swarm import Member, begin_as_equals, build_member, run_members
from torch import Tensor, nn

from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.policy import Policy, WeightingName, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

BODY, GATE = 300, 40


def model_of(value: float) -> nn.Module:
    model = nn.Module()
    model.body = nn.Parameter(torch.full((BODY,), value))
    model.gate = nn.Parameter(torch.full((GATE,), 5.0))
    model.head = nn.Parameter(torch.full((BODY,), -value))
    return model


async def alike(_theirs: Tensor, _mine: Tensor) -> Trial:
    return Trial(1.0, 1.0, 0.01)


def swarm(rule: str, weighting: WeightingName = "fixed", **options: object) -> list[Member]:
    method = find_method(rule)
    policy = Policy(
        rule_of(method, 0.3, weighting), Schedule(probability=1 / 8), method.topology, method.flow, weighting=weighting
    )
    network = SimulatedNetwork()
    members = [
        build_member(
            network,
            name,
            model=model_of(value),
            seed=i,
            policy=policy,
            events=EventLog(lambda: 0.0),
            newcomer=name != "a",  # with a centre or a leader, "a" has it at first
            **options,  # type: ignore[arg-type]
        )
        for i, (name, value) in enumerate(zip("abcd", (1.0, 2.0, 3.0, 6.0), strict=True))
    ]
    for member in members:
        member.peer.examine_with(alike)
    begin_as_equals(members)
    return members


def breaks(member: Member, *, first: int = 50, last: int = 50) -> None:
    """After these steps one number of its gate is NaN; its loss does not show it."""

    def on_step(model: nn.Module) -> None:
        if first <= member.steps <= last:
            model.get_parameter("gate").data[3] = math.nan

    member.on_step = on_step


def live(members: list[Member], steps: int = 600) -> None:
    run_virtual(run_members(members, steps=steps))


def spread(members: list[Member], name: str) -> float:
    return float(torch.stack([m.model.get_parameter(name).detach() for m in members]).std(dim=0).max())


def total(members: list[Member]) -> float:
    return sum(float(m.model.get_parameter("body").detach().double().mean()) for m in members)


def told(member: Member) -> list[str]:
    return [event.text for event in member.peer.events.since(0) if event.kind == "signal"]


@pytest.mark.parametrize("rule", ["elastic-gossip", "gossip-pull", "gossip-push", "gosgd", "easgd", "lsgd"])
@pytest.mark.parametrize(("weighting", "codec"), [("fixed", "none"), ("dynamic", "int8")])
@pytest.mark.parametrize("broken", ["a", "c"])
def test_one_lost_tensor_is_healed_by_every_rule(rule: str, weighting: WeightingName, codec: str, broken: str) -> None:
    members = swarm(rule, weighting, codec=codec)
    one = next(m for m in members if m.peer.peer == broken)
    breaks(one)
    live(members)
    assert one.replaced >= 1, "what the optimizer gathered of it is worth nothing"
    for member in members:
        torch.testing.assert_close(
            member.model.get_parameter("gate").data, torch.full((GATE,), 5.0), rtol=0.0, atol=0.1
        )
        assert not member.peer.parts.slot.mailbox.lost.names
        assert not member.peer.exchanges().by_outcome.get(Outcome.REFUSED)
    assert told(one)[0] == "not finite at this peer, so a partner's take the place: gate"
    assert spread(members, "body") < 0.5


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_the_rest_moves_by_the_rule_whatever_is_lost(fragments: int, weighting: WeightingName) -> None:
    """A tensor that is never finite at one peer, such as a mask: elastic gossip still keeps the sum of all others."""
    members = swarm("elastic-gossip", weighting, fragments=fragments)
    before = total(members)
    breaks(members[0], last=10**9)
    live(members)
    if weighting == "fixed":  # otherwise who is far away is followed less
        assert total(members) == pytest.approx(before, abs=1e-4)
    assert max(spread(members, name) for name in ("body", "head")) < 0.05
    assert members[0].peer.weight == 1.0
    assert told(members[0])[0] == "not finite at this peer, so a partner's take the place: gate"
    for other in members[1:]:
        assert torch.equal(other.model.get_parameter("gate").data, torch.full((GATE,), 5.0))
        assert set(other.peer.exchanges().left_out) == {"gate"}
        assert other.peer.exchanges().left_out["gate"] > 1
        assert {p.peer: tuple(p.left_out) for p in other.peer.partners() if p.left_out} in ({"a": ("gate",)}, {})
        assert "not finite at a, so all else moves: gate" in told(other)
    assert not members[0].peer.exchanges().left_out


def test_a_peer_that_is_broken_for_the_most_part_is_replaced_whole_as_ever() -> None:
    members = swarm("elastic-gossip")

    def on_step(model: nn.Module) -> None:
        if members[1].steps == 50:
            for name in ("body", "gate"):
                model.get_parameter(name).data.fill_(math.nan)

    members[1].on_step = on_step
    live(members)
    assert members[1].replaced == 1
    assert max(spread(members, name) for name in ("body", "gate", "head")) < 0.05
    assert not any(member.peer.exchanges().left_out for member in members)
