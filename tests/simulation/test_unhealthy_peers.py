"""Peers that are ill, lie, are drained or come new, with dynamic weighting; the production peer in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest
import torch
from helpers.swarm import (
    Member,
    Switch,
    begin_as_equals,
    build_member,
    build_parts,
    far_ahead,
    run_members,
    tiny_model,
    values,
)
from helpers.topologies import centre_of, completed, kill, leaders_of, living, seeded, until, with_loss
from torch import Tensor, nn

from p2p_elastic.health.controls import Report
from p2p_elastic.health.trust import PARTNERS_MAX
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.centre.variable import Centre
from p2p_elastic.peers.exchange.slot import IDLE, Phase
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.policy import Policy, WeightingName, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import PartnerStatus
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

OFTEN, NEVER = Schedule(probability=1 / 4), Schedule(probability=0.0)
OPTIMUM, LIE = 0.0, 5.0


def policy(
    name: str = "elastic-gossip",
    schedule: Schedule = OFTEN,
    rate: float = 0.5,
    weighting: WeightingName = "dynamic",
) -> Policy:
    method = find_method(name)
    rule = rule_of(method, rate, weighting)
    return Policy(rule, schedule, method.topology, method.flow, weighting=weighting)


def loss_of(vector: Tensor) -> float:
    """What a model with these parameters does on anybody's examples."""
    return 0.1 + float((vector - OPTIMUM).square().mean())


async def examine(theirs: Tensor, mine: Tensor) -> Trial:
    return Trial(loss_of(theirs), loss_of(mine), 0.01)


def filled(value: float) -> nn.Module:
    model = tiny_model(0)
    fill(model, value)
    return model


def fill(model: nn.Module, value: float) -> None:
    ParameterVector(model).load_(torch.full_like(values(model), value))


def learn(model: nn.Module) -> None:
    """A step towards the optimum."""
    vector = values(model)
    ParameterVector(model).load_(vector - 0.02 * (vector - OPTIMUM))


def honest(network: SimulatedNetwork, name: str, *, start: float = 0.5, **options: object) -> Member:
    """It learns, and tries what it receives."""
    options = {"policy": policy(), "model": filled(start), "events": EventLog(lambda: 0.0), **options}
    member = build_member(network, name, seed=len(name) + ord(name[0]), **options)  # type: ignore[arg-type]
    member.on_step = learn
    member.peer.examine_with(examine)
    return member


def liar(network: SimulatedNetwork, name: str, **options: object) -> Member:
    """Claims to count wholly, and has parameters that do badly."""
    options = {"policy": policy(weighting="fixed"), **options}
    member = build_member(network, name, seed=9, model=filled(LIE), **options)  # type: ignore[arg-type]
    member.on_step = lambda model: fill(model, LIE)
    return member


def met(member: Member, name: str) -> bool:
    return any(p.peer == name for p in member.peer.partners())


def partner(member: Member, name: str) -> PartnerStatus:
    return next(p for p in member.peer.partners() if p.peer == name)


def record_weight(network: SimulatedNetwork, name: str) -> float | None:
    return network.records[name][0].weight if name in network.records else None


def kinds(member: Member) -> set[str]:
    return {event.kind for event in member.peer.events.since(0)}


def told(member: Member, kind: str) -> list[str]:
    return [event.text for event in member.peer.events.since(0) if event.kind == kind]


async def quickly(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "it never came"
        await asyncio.sleep(0.001)


# ---------------------------------------------------------------- trust


@pytest.mark.parametrize("rule", ["elastic-gossip", "gossip-pull", "gossip-push", "gosgd"])
def test_a_liar_that_claims_to_count_moves_nobody_and_training_goes_on(rule: str) -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [honest(network, n, policy=policy(rule)) for n in "abc"]
        members.append(liar(network, "evil", policy=policy(rule, weighting="fixed")))
        await run_members(members, steps=300)
        return members

    *good, evil = run_virtual(main())
    assert completed(evil) > 30
    for member in good:
        assert member.steps == 300
        assert float(values(member.model).abs().max()) < 0.02
        mistrusted = partner(member, "evil")
        assert (mistrusted.trust, mistrusted.weight) == (0.0, 1.0)
        assert "this peer's own 0.1" in mistrusted.reasons[0]
        assert all(partner(member, n).trust == 1.0 for n in "abc" if n != member.peer.peer)
        assert any("trust in evil 1 -> 0" in text for text in told(member, "trust"))


def test_without_dynamic_weighting_a_liar_spoils_everybody() -> None:
    """So it is the weighting that protects, and not the scenario."""
    network, fixed = SimulatedNetwork(), policy(weighting="fixed")

    async def main() -> list[Member]:
        members = [honest(network, n, policy=fixed) for n in "abc"]
        await run_members([*members, liar(network, "evil")], steps=300)
        return members

    assert all(float(values(m.model).mean()) > 1.0 for m in run_virtual(main()))


def test_while_trials_say_nothing_those_that_send_the_opposite_move_nobody() -> None:
    network = SimulatedNetwork()

    async def untrained(_theirs: Tensor, _mine: Tensor) -> Trial:
        return Trial(2.3, 2.3, 0.01)

    async def main() -> list[Member]:
        members = [honest(network, n, start=5.0) for n in "abc"]
        for number, member in enumerate(members):
            member.peer.examine_with(untrained)
            member.on_step = lambda model, drift=0.01 * number: shift(model, drift)  # type: ignore[misc]
        liars = [liar(network, name) for name in ("evil", "liar")]
        for one in liars:
            one.on_step = lambda model: fill(model, -5.0)
        await run_members([*members, *liars], steps=200)
        return members

    for member in run_virtual(main()):
        assert 5.0 <= float(values(member.model).mean()) <= 9.0
        shown = partner(member, "evil")
        assert (shown.trust, shown.weight) == (0.0, 1.0)
        assert shown.reasons[-1].startswith("it is too far away to be followed: ")
        assert all(partner(member, n).trust == 1.0 for n in "abc" if n != member.peer.peer)


def test_a_liar_is_trusted_again_once_it_does_well() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n) for n in "abc"]
    evil = liar(network, "evil", policy=policy(schedule=NEVER, weighting="fixed"))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all("trust" in kinds(m) for m in members), 10.0)
        evil.on_step = learn
        await until(lambda: all(partner(m, "evil").trust == 1.0 for m in members), 60.0)
        assert all(told(m, "trust")[-1].startswith("trust in evil 0 -> ") for m in members)

    living([*members, evil], scenario)


def test_who_does_clearly_worse_than_its_partners_follows_them_and_says_so() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n, start=0.0) for n in "abc"]
    lost = honest(network, "lost")
    lost.on_step = lambda model: fill(model, 2.0) if lost.steps < 300 else learn(model)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: record_weight(network, "lost") == 0.0, 10.0)
        assert lost.peer.signals()[0].name == "comparison"
        assert any("-> 0: the partner's parameters do clearly better" in text for text in told(lost, "weight"))
        await until(lambda: lost.steps > 600 and record_weight(network, "lost") == 1.0, 20.0)
        assert float(values(lost.model).abs().max()) < 0.02
        assert all(float(values(m.model).abs().max()) < 0.2 for m in members)

    living([*members, lost], scenario)


def test_where_nothing_can_be_tried_training_and_exchanges_go_on() -> None:
    network = SimulatedNetwork()

    async def fails(_theirs: Tensor, _mine: Tensor) -> Trial:
        raise RuntimeError("out of memory")

    async def main() -> list[Member]:
        members = [honest(network, n) for n in "abc"]
        for member in members:
            member.peer.examine_with(fails)
        await run_members(members, steps=200)
        return members

    for member in run_virtual(main()):
        assert member.steps == 200
        assert completed(member) > 20
        assert Outcome.BROKEN not in member.peer.exchanges().by_outcome


@pytest.mark.parametrize("end", ["asks", "answers"])
def test_an_exchange_whose_trial_is_cut_short_by_the_end_still_moves_both(end: str) -> None:
    network = SimulatedNetwork()
    trying: list[str] = []

    async def never_ends(_theirs: Tensor, _mine: Tensor) -> Trial:
        trying.append(end)
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> list[Member]:
        a = honest(network, "a", start=11.0, policy=policy(schedule=Schedule(period=20)))
        b = honest(network, "b", start=13.0, policy=policy(schedule=NEVER))
        slow = a if end == "asks" else b
        for member in (a, b):
            member.on_step = lambda model: None
            member.peer.examine_with(never_ends if member is slow else None)
        lives = [asyncio.ensure_future(m.peer.run()) for m in (a, b)]
        for _ in range(2):
            await asyncio.gather(*(m.peer.announce() for m in (a, b)), *(m.peer.refresh() for m in (a, b)))
        await asyncio.gather(a.train(30), b.train(30))
        assert trying == [end]
        for task in (*lives, *network.tasks):
            task.cancel()
        await asyncio.gather(*lives, *network.tasks, return_exceptions=True)
        for member in (a, b):
            member.peer.settle()
        return [a, b]

    members = run_virtual(main())
    assert all(m.peer.exchange_state == IDLE for m in members)
    for member in members:
        assert torch.equal(values(member.model), torch.full_like(values(member.model), 12.0))


# ---------------------------------------------------------------- parameters that are not finite


def breaks_at(member: Member, step: int, otherwise: Callable[[nn.Module], None] = learn) -> None:
    """Its parameters turn to NaN after this step, and with them its loss."""

    def on_step(model: nn.Module) -> None:
        if member.steps == step:
            fill(model, math.nan)
        else:
            otherwise(model)
        member.loss = 1.0 if bool(torch.isfinite(values(model)).all()) else math.nan

    member.on_step = on_step


def test_a_peer_that_breaks_counts_for_nothing_until_the_next_partner_heals_it() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n, start=0.0, policy=policy(schedule=NEVER)) for n in "abc"]
    broken = honest(network, "broken", start=0.0, policy=policy(schedule=Schedule(period=500)))
    breaks_at(broken, 50)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: record_weight(network, "broken") == 0.0, 5.0)
        assert broken.steps < 500
        await until(lambda: broken.replaced == 1, 10.0)
        assert broken.steps < 510
        assert bool(torch.isfinite(values(broken.model)).all())
        await until(lambda: record_weight(network, "broken") == 1.0, 5.0)
        assert broken.steps < 990  # before its next exchange
        assert len(told(broken, "weight")) == 2

    living([*members, broken], scenario)
    for member in members:
        assert not values(member.model).any()
        assert partner_or_none(member, "broken") in (None, 0.0)


def partner_or_none(member: Member, name: str) -> float | None:
    return next((p.weight for p in member.peer.partners() if p.peer == name), None)


@pytest.mark.parametrize("rule", ["elastic-gossip", "gossip-pull", "gossip-push", "gosgd", "easgd", "lsgd"])
@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_a_broken_peer_is_healed_by_every_rule_and_the_others_stay_as_they_are(
    rule: str, weighting: WeightingName
) -> None:
    network = SimulatedNetwork()
    members = [
        honest(network, n, start=0.0, policy=policy(rule, Schedule(period=p), 0.2, weighting), newcomer=n != "a")
        for n, p in (("a", 10), ("b", 10), ("broken", 7))
    ]
    for i, member in enumerate(members):
        with_loss(member, 1.0 + i)
    begin_as_equals(members)
    broken = members[2]
    breaks_at(broken, 50)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: broken.replaced > 0, 20.0)
        await asyncio.sleep(1.0)

    living(members, scenario)
    assert broken.replaced == 1
    for member in members:
        assert not values(member.model).any()
    if rule == "gosgd":
        shares = sum(m.peer.memory().rule for m in members)
        assert shares == pytest.approx(3.0, rel=1e-12)


def test_a_broken_peer_that_everybody_declines_trains_on_and_is_healed_later() -> None:
    network = SimulatedNetwork()
    member = honest(network, "a", start=0.0, policy=policy(schedule=NEVER))
    broken = honest(network, "broken", start=0.0, policy=policy(schedule=Schedule(period=10)))
    breaks_at(broken, 50)
    member.peer.condition.drain()

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: broken.steps > 300, 20.0)
        assert broken.replaced == 0
        member.peer.condition.undrain()
        await until(lambda: broken.replaced == 1, 20.0)

    living([member, broken], scenario)
    assert not values(member.model).any()
    assert not values(broken.model).any()


# ---------------------------------------------------------------- signals and the operator


def test_a_reported_temperature_makes_a_peer_count_for_nothing_until_the_report_expires() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n) for n in ("a", "b", "hot")]
    hot = members[2]

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(hot) > 3 and all(met(m, "hot") for m in members[:2]), 10.0)
        assert record_weight(network, "hot") == 1.0
        hot.peer.condition.report("temperature", Report(value=95.0, ttl_seconds=20.0))
        assert (hot.peer.weight, hot.peer.signals()[0].name) == (0.0, "temperature")  # who reported it is told so
        await until(lambda: record_weight(network, "hot") == 0.0, 3.0)
        assert hot.peer.weight == 0.0
        worst = hot.peer.signals()[0]
        assert (worst.name, worst.health, worst.source) == ("temperature", 0.0, "reported")
        await until(lambda: all(partner(m, "hot").weight == 0.0 for m in members[:2]), 5.0)
        await until(lambda: all(m.weight == 0.0 for o in members[:2] for m in o.peer.members() if m.peer == "hot"), 5.0)
        took = await until(lambda: record_weight(network, "hot") == 1.0, 30.0)
        assert took > 5.0
        await until(lambda: all(partner(m, "hot").weight == 1.0 for m in members[:2]), 5.0)

    living(members, scenario)
    assert [text.partition(": ")[0] for text in told(hot, "weight")] == ["weight 1 -> 0", "weight 0 -> 1"]
    assert "95 °C" in told(hot, "weight")[0]


def test_with_fixed_weighting_signals_are_shown_and_change_no_weight() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n, policy=policy(weighting="fixed")) for n in "ab"]

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        members[0].peer.condition.report("temperature", Report(value=95.0, ttl_seconds=60.0))
        await until(lambda: completed(members[0]) > 10, 10.0)
        assert members[0].peer.signals()[0].name == "temperature"
        assert members[0].peer.weight == partner(members[1], "a").weight == 1.0

    living(members, scenario)
    assert told(members[0], "weight") == []


@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_an_overridden_weight_is_what_both_ends_move_by(weighting: WeightingName) -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        once, quiet = policy(schedule=Schedule(period=50), weighting=weighting), policy(schedule=NEVER)
        a = honest(network, "a", start=11.0, policy=once)
        b = honest(network, "b", start=12.0, policy=quiet._replace(weighting=weighting))
        for member in (a, b):
            member.on_step = lambda model: None
            member.peer.examine_with(None)
        a.peer.condition.override_weight(0.25)
        a.peer.condition.report("temperature", Report(value=95.0, ttl_seconds=60.0))
        await run_members([a, b], steps=60)
        return [a, b]

    a, b = run_virtual(main())
    assert partner(b, "a").weight == a.peer.weight == 0.25
    torch.testing.assert_close(values(a.model), torch.full_like(values(a.model), 11.8))  # 2 alpha / (1 + 1/4)
    torch.testing.assert_close(values(b.model), torch.full_like(values(b.model), 11.8))
    assert [text for text in told(a, "weight") if "operator" not in text] == []


def test_no_override_makes_a_newcomer_or_a_broken_peer_count() -> None:
    network = SimulatedNetwork()
    old = honest(network, "old", policy=policy(schedule=NEVER))
    new = honest(network, "new", policy=policy(schedule=NEVER), newcomer=True)
    new.peer.condition.override_weight(1.0)
    ill = honest(network, "ill", policy=policy(schedule=NEVER))
    ill.peer.condition.override_weight(1.0)
    ill.loss = math.nan

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        old.steps = 0
        far_ahead(old)
        await until(lambda: bool({"old", "new", "ill"} <= set(network.records)), 5.0)
        await asyncio.sleep(5.0)
        assert (record_weight(network, "new"), record_weight(network, "ill")) == (0.0, 0.0)
        assert new.peer.signals()[0].name == "newcomer"

    living([old, new, ill], scenario)


# ---------------------------------------------------------------- draining


def test_a_drained_peer_ends_its_exchange_begins_and_answers_none_and_trains_on() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n) for n in ("a", "b", "drained")]
    drained = members[2]

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(drained) > 5, 10.0)
        await quickly(lambda: drained.peer.exchange_state.phase is Phase.OFFERING)
        drained.peer.condition.drain()
        await until(lambda: drained.peer.exchange_state == IDLE, 1.0)  # what was under way ended
        assert drained.peer.last_exchanges()[0].outcome in (Outcome.COMPLETED, Outcome.DECLINED)
        before, steps = completed(drained), drained.steps
        await until(lambda: network.records["drained"][0].drained, 2.0)
        await until(lambda: all(m.drained for o in members[:2] for m in o.peer.members() if m.peer == "drained"), 2.0)
        await asyncio.sleep(0.5)  # what was asked before they knew arrives
        declined = drained.peer.exchanges().declined_by_us.get("drained", 0)
        others = [completed(m) for m in members[:2]]
        await asyncio.sleep(5.0)
        assert completed(drained) == before
        assert drained.peer.exchanges().declined_by_us.get("drained", 0) == declined  # nobody asks any more
        assert drained.peer.exchanges().skipped["drained"] > 10
        assert drained.steps > steps + 300
        assert all(completed(m) > n + 20 for m, n in zip(members[:2], others, strict=True))
        drained.peer.condition.undrain()
        await until(lambda: completed(drained) > before + 10, 10.0)
        assert not network.records["drained"][0].drained

    living(members, scenario)
    assert {"drained", "resumed"} <= kinds(drained)


def test_a_peer_that_is_asked_while_it_is_drained_says_so() -> None:
    def slow(event: Event) -> Verdict:  # its record says so only later
        return Verdict(seconds=10.0 if event.kind == "announce" and asking.on else 0.001)

    network, asking = SimulatedNetwork(judge=slow), Switch(OFTEN, on=False)
    a = honest(network, "a", policy=policy(schedule=asking))  # type: ignore[arg-type]
    b = honest(network, "b", policy=policy(schedule=NEVER))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: a.steps > 10 and bool(a.peer.members()), 5.0)
        asking.on = True
        b.peer.condition.drain()
        await until(lambda: a.peer.exchanges().declined_by_partner.get("drained", 0) > 0, 5.0)
        assert a.peer.members()[0].state == "alive"  # an answer, and no failure

    living([a, b], scenario)
    assert completed(a) == completed(b) == 0


EASGD = policy("easgd", Schedule(period=5), 0.2)


def test_a_drained_centre_hands_its_place_to_another_and_the_value_with_it() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n, policy=EASGD, newcomer=n != "a") for n in "abc"]

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 10 for m in members[1:]), 30.0)
        clock, value = centre_of(members[0]).exchanges, members[0].peer.centre_value()
        members[0].peer.condition.drain()
        took = await until(lambda: any(centre_of(m).here for m in members[1:]), 10.0)
        assert took < 5.0
        assert not centre_of(members[0]).here
        heir = next(m for m in members if centre_of(m).here)
        assert centre_of(heir).exchanges >= clock - 3
        inherited = heir.peer.centre_value()
        assert value is not None
        assert inherited is not None
        torch.testing.assert_close(inherited, value, rtol=0, atol=0.05)
        before = [completed(m) for m in members]
        other = next(m for m in members[1:] if m is not heir)
        await until(lambda: completed(other) > before[members.index(other)] + 5, 10.0)
        assert completed(members[0]) == before[0]
        members[0].peer.condition.undrain()
        await until(lambda: completed(members[0]) > before[0] + 5, 10.0)
        assert centre_of(heir).here

    living(members, scenario)
    assert "centre" in kinds(members[1])


def test_a_drained_centre_that_nobody_can_follow_keeps_its_place() -> None:
    network = SimulatedNetwork()
    alone = honest(network, "a", policy=EASGD)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: centre_of(alone).exchanges > 10, 10.0)
        value = alone.peer.centre_value()
        alone.peer.condition.drain()
        late = [honest(network, n, policy=EASGD, newcomer=True, start=3.0) for n in ("x", "y")]
        tasks = [asyncio.ensure_future(t) for m in late for t in (m.peer.run(), m.train(10**9))]
        await asyncio.sleep(20.0)
        assert centre_of(alone).here
        assert not any(centre_of(m).here for m in late)  # they have no copy: the run's value would be lost
        alone.peer.condition.undrain()
        await until(lambda: all(completed(m) > 3 for m in late), 10.0)
        now = alone.peer.centre_value()
        assert value is not None
        assert now is not None
        assert float(now.abs().max()) <= float(value.abs().max()) + 0.01
        for task in tasks:
            task.cancel()

    living([alone], scenario)


# ---------------------------------------------------------------- leaders


LSGD = policy("lsgd", Schedule(period=10), 0.5)


def led(network: SimulatedNetwork) -> list[Member]:
    members = [with_loss(honest(network, n, policy=LSGD), 1.0 + i) for i, n in enumerate("abc")]
    for member in members:
        member.on_step = lambda model: None
    return members


def test_a_drained_leader_does_not_lead() -> None:
    network = SimulatedNetwork()
    members = led(network)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: [leaders_of(m).leader for m in members] == ["a"] * 3, 20.0)
        members[0].peer.condition.drain()
        await until(lambda: [leaders_of(m).leader for m in members[1:]] == ["b"] * 2, 10.0)
        members[0].peer.condition.undrain()
        await until(lambda: [leaders_of(m).leader for m in members] == ["a"] * 3, 10.0)

    living(members, scenario)
    assert told(members[1], "leader")[:3] == ["this peer follows a", "this peer follows b", "this peer follows a"]


def test_a_leader_that_counts_for_nothing_does_not_lead_and_follows() -> None:
    network = SimulatedNetwork()
    members = led(network)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: [leaders_of(m).leader for m in members] == ["a"] * 3, 20.0)
        members[0].peer.condition.report("temperature", Report(value=99.0, ttl_seconds=1000.0))
        await until(lambda: [leaders_of(m).leader for m in members] == ["b"] * 3, 10.0)
        members[0].peer.condition.forget("temperature")
        await until(lambda: [leaders_of(m).leader for m in members] == ["a"] * 3, 10.0)

    living(members, scenario)


# ---------------------------------------------------------------- newcomers


def test_a_newcomer_is_not_fooled_by_the_first_that_it_meets_and_copies_the_next() -> None:
    network = SimulatedNetwork()
    evil = liar(network, "evil", policy=policy(schedule=NEVER, weighting="fixed"))
    far_ahead(evil)
    new = honest(network, "new", start=1.0, newcomer=True)
    new.on_step = lambda model: None
    good = honest(network, "good", start=0.0, policy=policy(schedule=NEVER))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(new) > 3, 20.0)
        assert partner(new, "evil").trust == 0.0
        await until(lambda: record_weight(network, "new") == new.peer.weight == 0.0, 2.0)
        assert torch.equal(values(new.model), torch.ones_like(values(new.model)))
        tasks = [asyncio.ensure_future(good.peer.run()), asyncio.ensure_future(good.train(10**9))]
        far_ahead(good)
        await until(lambda: record_weight(network, "new") == 1.0, 20.0)
        assert not values(new.model).any()
        assert not values(good.model).any()
        for task in tasks:
            task.cancel()

    living([evil, new], scenario)
    assert "joined a run under way" in told(new, "weight")[0]


def test_a_newcomer_copies_once_and_counts_from_then_on() -> None:
    network = SimulatedNetwork()
    old = [honest(network, n, start=0.0, policy=policy(schedule=NEVER)) for n in "ab"]
    new = honest(network, "new", start=2.0, policy=policy(schedule=Schedule(period=100)), newcomer=True)
    new.on_step = lambda model: None

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(m.steps > 300 for m in old), 20.0)
        tasks = [asyncio.ensure_future(new.peer.run()), asyncio.ensure_future(new.train(10**9))]
        await until(lambda: completed(new) == 1, 5.0)
        await until(lambda: record_weight(network, "new") == 1.0, 5.0)
        assert completed(new) <= 2
        assert not values(new.model).any()
        for task in tasks:
            task.cancel()

    living(old, scenario)
    assert all(not values(m.model).any() for m in old)


# ---------------------------------------------------------------- events


def test_whatever_happens_to_a_peer_is_written_down() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n) for n in "ab"]
    evil = liar(network, "evil")

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        a = members[0]
        await until(lambda: "trust" in kinds(a), 10.0)
        a.peer.condition.report("battery", Report(value=5.0))
        a.peer.condition.drain()
        await asyncio.sleep(3.0)
        a.peer.condition.undrain()
        await kill(evil, network, lives[2])
        await network.directory("evil").withdraw()
        await until(lambda: "left" in kinds(a), 5.0)

    living([*members, evil], scenario)
    expected = {"joined", "left", "exchange", "trust", "weight", "signal", "drained", "resumed"}
    assert expected <= kinds(members[0]) <= expected | {"suspect", "dead", "alive"}
    assert told(members[0], "left") == ["evil left"]
    assert sorted(told(members[0], "joined")) == ["b joined", "evil joined"]
    data = [event.data for event in members[0].peer.events.since(0) if event.kind == "exchange"]
    assert all(one["partner"] in ("b", "evil") and one["outcome"] for one in data)


# ---------------------------------------------------------------- the centre variable


def easgd(network: SimulatedNetwork, names: str = "abcd") -> list[Member]:
    members = [build_member(network, n, seed=i, policy=EASGD, newcomer=i > 0) for i, n in enumerate(names)]
    begin_as_equals(members)
    return members


def test_where_nobody_lags_the_sum_with_the_centre_is_conserved_and_distances_shrink() -> None:
    """Each worker learns something else; they begin as far from the centre as they are later on, so none lags."""
    network, drifts = SimulatedNetwork(), [0.02, 0.01, -0.01, -0.015]
    members = easgd(network)
    for member, drift in zip(members, drifts, strict=True):
        fill(member.model, 10 + 20 * drift)
        member.on_step = lambda model, drift=drift: shift(model, drift)  # type: ignore[misc]
    members[0].peer.restore(members[0].peer.memory(), centre=torch.full((72,), 10.0))
    run_virtual(run_members(members, steps=200))
    centre = members[0].peer.centre_value()
    assert centre is not None
    learnt = 50 + sum(drift * (20 + member.steps) for drift, member in zip(drifts, members, strict=True))
    together = sum(values(m.model) for m in members) + centre
    torch.testing.assert_close(together, torch.full_like(centre, learnt), rtol=0, atol=1e-4)
    apart = float((values(members[0].model) - values(members[3].model)).abs().max())
    assert apart < 200 * (drifts[0] - drifts[3]) / 8  # an eighth of what it is where nobody exchanges
    assert all(completed(m) > 30 for m in members[1:])


def shift(model: nn.Module, drift: float) -> None:
    ParameterVector(model).load_(values(model) + drift)


def test_who_comes_back_from_far_copies_the_centre_and_does_not_move_it() -> None:
    network = SimulatedNetwork()
    members = easgd(network, "ab")
    away = members[1]
    ends: list[Tensor] = []

    def drift(model: nn.Module) -> None:
        """A little each step, so that distances at contacts are alike; once it is far away."""
        vector = values(model)
        ParameterVector(model).load_(vector + (1000.0 if away.steps == 400 else 0.01))

    away.on_step = drift
    members[0].on_step = lambda model: ParameterVector(model).load_(values(model) - 0.01)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await quickly(lambda: away.steps == 401, 60.0)
        assert float(values(away.model).max()) > 900.0
        before = completed(away)
        await quickly(lambda: completed(away) > before + 1, 10.0)
        centre = members[0].peer.centre_value()
        assert centre is not None
        ends.extend([centre, values(away.model)])

    living(members, scenario)
    centre, worker = ends
    assert float(centre.abs().max()) < 5.0
    assert float(worker.abs().max()) < 5.0


def test_a_worker_that_does_badly_does_not_move_the_centre_whoever_holds_it() -> None:
    for ill in ("a", "b"):  # the holder's own worker, and another one
        network = SimulatedNetwork()
        members = [honest(network, n, start=0.0, policy=EASGD, newcomer=n != "a") for n in "abc"]
        begin_as_equals(members)
        for member in members:
            if member.peer.peer == ill:
                member.on_step = lambda model: fill(model, LIE)

        async def scenario(_lives: list[asyncio.Task[None]], members: list[Member] = members) -> None:
            await until(lambda: all(m.steps > 300 for m in members), 30.0)

        living(members, scenario)
        centre = members[0].peer.centre_value()
        assert centre is not None
        assert float(centre.abs().max()) < 0.05
        assert all(float(values(m.model).abs().max()) < 0.05 for m in members if m.peer.peer != ill)
        if ill == "b":
            assert partner(members[0], "b").trust == 0.0


@pytest.mark.parametrize("rule", ["elastic-gossip", "gosgd", "easgd", "lsgd"])
def test_faults_of_the_network_stop_nobody_that_weighs(rule: str) -> None:
    schedule = Schedule(period=7) if rule in ("easgd", "lsgd") else OFTEN
    network = SimulatedNetwork(judge=seeded(5, 0.05, Verdict("cut")))
    members = [honest(network, n, policy=policy(rule, schedule, 0.3), newcomer=n != "a") for n in "abc"]
    begin_as_equals(members)
    run_virtual(run_members(members, steps=200))
    assert network.faults["cut"] > 3
    assert [m.steps for m in members] == [200] * 3
    assert all(m.peer.exchange_state == IDLE for m in members)
    assert all(float(values(m.model).abs().max()) < 0.5 for m in members)


def test_the_centre_remembers_a_bounded_number_of_those_that_it_met() -> None:
    centre = Centre(torch.zeros(3), EASGD.rule, seated=True, announce_seconds=1.0)
    mine, theirs = Facts(1, None, 1.0, centre=True), Facts(1, None, 1.0, asked=True)
    for number in range(PARTNERS_MAX + 100):
        centre.vectors.mine.copy_(centre.value)
        centre.vectors.theirs.fill_(1.0)
        centre.move(f"p{number}", mine, theirs)
    assert len(centre.histories) == PARTNERS_MAX
    assert f"p{PARTNERS_MAX + 99}" in centre.histories


# ---------------------------------------------------------------- zeros


def test_zeros_of_a_broken_peer_move_nobody_that_counts_as_little() -> None:
    """Two that count the same pull each other; but not towards zeros that only ask for help."""
    network = SimulatedNetwork()
    ill = honest(network, "ill", start=1.0, policy=policy(schedule=NEVER))
    ill.on_step = lambda model: None
    ill.peer.condition.override_weight(0.0)
    broken = honest(network, "broken", start=0.5, policy=policy(schedule=Schedule(period=50)))
    breaks_at(broken, 20)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: broken.replaced == 1, 10.0)
        assert torch.equal(values(ill.model), torch.ones_like(values(ill.model)))
        assert float(values(broken.model).max()) > 0.4  # its only partner counts nothing, and is better than nothing

    living([ill, broken], scenario)


def test_who_trained_alone_is_not_worse_by_differences_that_are_nothing_against_where_it_began() -> None:
    # Its first trial was taken for its beginning: a founder that was done counted for nothing beside its joiners.
    founder = build_parts(policy())
    for loss in (2.3, 1e-4):
        founder.own.report_loss(loss)
    partner = Facts(step=9, loss=1e-4, weight=1.0, asked=True)
    verdict = founder.judge.verdict("b", partner, 1.0, Trial(theirs=1e-4, mine=3e-4, error=1e-6))
    assert verdict is not None
    assert (verdict.own, verdict.trust) == (1.0, 1.0)
    verdict = founder.judge.verdict("b", partner, 1.0, Trial(theirs=0.2, mine=0.9, error=1e-6))
    assert verdict is not None
    assert verdict.own == 0.0


def test_two_broken_peers_do_not_take_each_others_zeros_for_parameters() -> None:
    network = SimulatedNetwork()
    members = [honest(network, n, policy=policy(schedule=Schedule(period=p))) for n, p in (("a", 20), ("b", 33))]
    for member in members:
        breaks_at(member, 10, lambda model: None)  # whoever is healed stands still: then nothing but zeros moves "good"

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 3 for m in members), 20.0)
        assert [m.replaced for m in members] == [0, 0]
        good = honest(network, "good", start=0.25, policy=policy(schedule=NEVER))
        good.on_step = lambda model: None
        tasks = [asyncio.ensure_future(good.peer.run()), asyncio.ensure_future(good.train(10**9))]
        await until(lambda: [m.replaced for m in members] == [1, 1], 20.0)
        assert torch.equal(values(good.model), torch.full_like(values(good.model), 0.25))
        for task in tasks:
            task.cancel()

    living(members, scenario)
