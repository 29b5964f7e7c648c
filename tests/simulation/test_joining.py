"""Joining late, in virtual time: the production peer takes its first parameters from others. Faults are counted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest
import torch
from helpers.swarm import Member, begin_as_equals, build_member, tiny_model, values
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.lifecycle import donor as donor_module
from p2p_elastic.peers.membership.newcomer import CaughtUp, Measured
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.protocol.messages import DeclineReason, Fetch, Given
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import Flow, Topology
from p2p_elastic.rules.pairwise import elastic, follow
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.schema import JoiningStatus
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NEVER = Schedule(probability=0.0)
EASGD = Policy(elastic(0.2), Schedule(period=5), topology=Topology.CENTRE)
LSGD = Policy(follow(0.5), Schedule(period=10), topology=Topology.LEADER, flow=Flow.PULL)
PARTS = Limits(part_elements=10)  # 72 elements: 8 parts
UNTRAINED = 2.3


def filled(value: float, width: int = 8) -> nn.Module:
    """A model all of whose parameters are `value`."""
    model = tiny_model(0, width)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def old_members(network: SimulatedNetwork, names: str, value: float = 1.0, **options: object) -> list[Member]:
    options = {"schedule": NEVER, **options}
    members = [build_member(network, n, model=filled(value), **options) for n in names]  # type: ignore[arg-type]
    for member in members:
        member.loss = 0.4
    return members


def late_member(network: SimulatedNetwork, name: str = "late", **options: object) -> Member:
    options = {"schedule": NEVER, "limits": PARTS, "seed": 7, **options}
    member = build_member(network, name, newcomer=True, **options)  # type: ignore[arg-type]
    member.loss = 0.5
    return member


def joining(member: Member) -> JoiningStatus:
    status = member.peer.joining()
    assert status is not None
    return status


async def catch_up(
    late: Member, try_out: Callable[[Tensor], Awaitable[Measured]] | None = None
) -> tuple[CaughtUp | None, asyncio.Task[None]]:
    """What a newcomer does before it trains."""
    life = asyncio.ensure_future(late.peer.run())
    late.peer.report_untrained_loss(UNTRAINED)
    caught = await late.peer.catch_up(UNTRAINED, try_out)
    if caught is not None:
        late.peer.begin_with(caught)
    return caught, life


def living(members: list[Member], scenario: Callable[[], Awaitable[None]], ahead_seconds: float = 2.0) -> None:
    """The old members train, and after a while the scenario begins."""

    async def main() -> None:
        tasks = [asyncio.ensure_future(m.peer.run()) for m in members]
        tasks += [asyncio.ensure_future(m.train(10**9)) for m in members]
        await asyncio.sleep(ahead_seconds)
        await scenario()
        for task in tasks:
            task.cancel()

    run_virtual(main())


def held(member: Member) -> bool:
    return member.peer.answered.fetches.donor.held


# ---------------------------------------------------------------- catching up


@pytest.mark.parametrize("names", ["a", "abcd", "abcdefgh"])
def test_a_newcomer_begins_with_the_members_parameters_and_disturbs_nobody(names: str) -> None:
    network = SimulatedNetwork()
    old = old_members(network, names)
    late = late_member(network)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        assert torch.equal(values(late.model), torch.ones(72))
        assert len(caught.donors) == min(len(names), 4)
        assert late.peer.weight == 0.0  # its own loss is still to be seen
        await late.train(10)
        assert late.peer.weight == 1.0
        life.cancel()

    living(old, scenario)
    status = joining(late)
    assert (status.caught_up, status.reason, status.parts, status.useful_steps) == (True, None, 8, 5)
    assert status.seconds is not None
    assert status.seconds < 1.0
    for member in old:
        assert torch.equal(values(member.model), torch.ones(72))
        assert member.peer.weight == 1.0
        assert member.peer.exchanges().by_outcome == {}


def test_one_part_comes_from_one_donor() -> None:
    network = SimulatedNetwork()
    old, late = old_members(network, "abc"), late_member(network, limits=Limits())

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        assert len(caught.donors) == 1
        life.cancel()

    living(old, scenario)


def test_what_a_donor_gives_is_of_one_step() -> None:
    """Members change at every step; parts of one donor come from one copy."""
    network = SimulatedNetwork()
    (old,) = old_members(network, "a", value=0.0, step_seconds=0.001)

    def grow(model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)

    old.on_step = grow
    late = late_member(network)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        assert torch.equal(caught.values, torch.full((72,), float(caught.step)))
        life.cancel()

    living([old], scenario)


def test_a_newcomer_soon_after_the_founder_sees_that_it_is_ahead() -> None:
    # Its first record, of before its first step, stood until the next regular one.
    network = SimulatedNetwork()
    founder, late = old_members(network, "a"), late_member(network)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        assert caught.donors == ("a",)
        life.cancel()

    living(founder, scenario, ahead_seconds=0.5)


def test_where_nobody_is_ahead_nothing_is_fetched() -> None:
    network = SimulatedNetwork()
    old, late = old_members(network, "ab"), late_member(network)
    for member in old:
        member.stopped = True

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is None
        life.cancel()

    living(old, scenario)
    assert joining(late).reason == "nobody is ahead"
    assert joining(late).bytes_received == 0


def test_alone_it_begins_after_a_few_seconds() -> None:
    network = SimulatedNetwork()
    late = late_member(network)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        caught, life = await catch_up(late)
        assert caught is None
        assert loop.time() < 6.0
        life.cancel()

    run_virtual(main())
    assert joining(late).reason == "nobody else is there"


# ---------------------------------------------------------------- donors that fail


def copied(old: list[Member], late: Member) -> None:
    """The newcomer catches up with the old members, and has what all of them have."""

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        assert torch.equal(values(late.model), torch.ones(72))
        life.cancel()

    living(old, scenario)


def test_a_donor_that_dies_in_the_middle_is_replaced_and_what_arrived_is_kept() -> None:
    cut: list[Event] = []

    def judge(event: Event) -> Verdict:
        if event.kind == "piece" and event.source == "a" and event.target == "late" and event.number >= 1:
            cut.append(event)
            return Verdict("cut")
        return Verdict()

    network = SimulatedNetwork(judge)
    old, late = old_members(network, "ab"), late_member(network)

    copied(old, late)
    assert network.faults["cut"] == len(cut) >= 1
    assert joining(late).donors == ("b",)


def test_a_silent_donor_costs_its_deadline_and_not_the_whole_model() -> None:
    def judge(event: Event) -> Verdict:
        silent = event.kind == "piece" and event.source == "a" and event.target == "late"
        return Verdict("silence") if silent else Verdict()

    network = SimulatedNetwork(judge)
    old, late = old_members(network, "ab"), late_member(network)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        life.cancel()

    living(old, scenario)
    assert network.faults["silence"] >= 1
    status = joining(late)
    assert status.donors == ("b",)
    assert status.seconds is not None
    assert status.seconds < 2 * PARTS.idle_seconds
    assert status.bytes_received < 2 * 72 * 4 + 8 * 1000


def test_a_donor_with_a_thin_link_does_not_hold_up_what_others_can_give() -> None:
    # Everything but its one part was here after a moment; that took as long as its link needs for 8 MiB.
    sent_at = {"a": 0.0}

    def judge(event: Event) -> Verdict:
        if event.kind != "piece" or (event.source, event.target) != ("a", "late"):
            return Verdict()
        sent_at["a"] = max(sent_at["a"], event.now) + event.nbytes / 40  # bytes per second
        return Verdict(seconds=sent_at["a"] - event.now)

    network = SimulatedNetwork(judge)
    old, late = old_members(network, "abc"), late_member(network)

    copied(old, late)
    status = joining(late)
    assert set(status.donors) == {"b", "c"}
    assert status.seconds is not None
    assert status.seconds < 3.0


def test_a_donor_whose_parts_have_another_digest_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SimulatedNetwork()
    old, late = old_members(network, "ab"), late_member(network)
    real, asked = donor_module.Shown.digest, []

    async def digest(shown: donor_module.Shown, part: tuple[int, int]) -> str:
        asked.append(shown.snapshot.origin)
        return hashlib.blake2b(digest_size=32).hexdigest() if shown.snapshot.origin == "a" else await real(shown, part)

    monkeypatch.setattr(donor_module.Shown, "digest", digest)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        life.cancel()

    living(old, scenario)
    assert asked.count("a") == 1
    assert joining(late).donors == ("b",)
    assert late.peer.streams_refused() == {"wrong parts": 1}


def test_where_nobody_gives_it_begins_as_it_is_and_says_so() -> None:
    def judge(event: Event) -> Verdict:
        return Verdict("cut") if event.kind == "open" and event.source == "late" else Verdict()

    network = SimulatedNetwork(judge)
    old, late = old_members(network, "ab"), late_member(network)
    begun = values(late.model)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        caught, life = await catch_up(late)
        assert caught is None
        assert loop.time() - before < 60.0
        assert late.peer.weight == 0.0  # it copies at its first exchange
        life.cancel()

    living(old, scenario)
    assert network.faults["cut"] >= 2
    assert torch.equal(values(late.model), begun)
    assert "within 30 s" in (joining(late).reason or "")


@pytest.mark.parametrize("state", ["drained", "weightless", "newcomer", "broken"])
def test_who_does_not_count_gives_nothing(state: str) -> None:
    """Its record says what it is only at its next announcement: it declines itself."""
    network = SimulatedNetwork()
    (bad,), (good,) = old_members(network, "a", value=5.0), old_members(network, "b")
    late = late_member(network)

    async def scenario() -> None:
        if state == "drained":
            bad.peer.condition.drain()
        elif state == "weightless":
            bad.peer.condition.override_weight(0.0)
        elif state == "newcomer":
            bad.peer.restore(bad.peer.memory().model_copy(update={"newcomer": True}))
            bad.stopped = True
        else:
            with torch.no_grad():
                for parameter in bad.model.parameters():
                    parameter.fill_(torch.nan)
        caught, life = await catch_up(late)
        assert caught is not None
        assert caught.donors == ("b",)
        life.cancel()

    living([bad, good], scenario)


def test_a_stranger_gets_nothing_and_costs_one_look_per_second() -> None:
    looks: list[float] = []

    def counted(event: Event) -> Verdict:
        if event.kind == "record" and event.target == "a":  # of "b", with each look at the directory
            looks.append(event.now)
        return Verdict()

    network = SimulatedNetwork(judge=counted)
    (old,), (other,) = old_members(network, "a", refresh_seconds=1000.0), old_members(network, "b")

    async def scenario() -> None:
        looks.clear()
        record = network.records["a"][0]
        for number in range(40):
            stream = await network.transport(f"stranger-{number % 20}").open(record)
            asked = Fetch(
                id=f"{number:032x}",
                peer=f"stranger-{number % 20}",
                run="test",
                schema_hash=ParameterVector(old.model).schema_hash,
                elements=72,
                codec="none",
                origin="a",
                part=(0, 72),
            )
            await Conversation(stream, Limits()).send(asked)
            await asyncio.sleep(0.1)
            await stream.close()
        await asyncio.sleep(2.0)
        assert not held(old)

    living([old, other], scenario)
    assert 2 <= len(looks) <= 7
    assert old.peer.exchanges().declined_by_us.get(DeclineReason.NO_SNAPSHOT.value, 0) >= 1


# ---------------------------------------------------------------- what is believed


def test_parts_that_do_not_fit_together_are_fetched_again_from_one_donor() -> None:
    network = SimulatedNetwork()
    old = [*old_members(network, "a", value=1.0), *old_members(network, "b", value=3.0)]
    late = late_member(network)
    tried: list[int] = []

    async def try_out(found: Tensor) -> Measured:
        tried.append(len(found.unique()))
        return Measured(0.5 if len(found.unique()) == 1 else 2.2)

    async def scenario() -> None:
        caught, life = await catch_up(late, try_out)
        assert caught is not None
        assert len(caught.donors) == 1
        life.cancel()

    living(old, scenario)
    assert tried == [2, 1]
    assert len(values(late.model).unique()) == 1


def test_a_single_liar_is_not_believed_and_the_next_one_is_asked() -> None:
    network = SimulatedNetwork()
    old = [*old_members(network, "a", value=9.0), *old_members(network, "b")]
    old[0].loss = 0.3
    late = late_member(network)

    async def try_out(found: Tensor) -> Measured:
        return Measured(0.5 if bool((found == 1.0).all()) else 4.0)

    async def scenario() -> None:
        caught, life = await catch_up(late, try_out)
        assert caught is not None
        assert caught.donors == ("b",)
        life.cancel()

    living(old, scenario)
    assert joining(late).loss == 0.5


# ---------------------------------------------------------------- other topologies


def test_under_easgd_the_centre_variable_is_taken_from_its_holder() -> None:
    network = SimulatedNetwork()
    old = [
        build_member(network, n, model=filled(float(i)), policy=EASGD, newcomer=i > 0, step_seconds=0.02)
        for i, n in enumerate("abc")
    ]
    begin_as_equals(old)
    for member in old:
        member.loss = 0.4
    late = late_member(network, schedule=None, policy=EASGD)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        assert caught.donors == ("a",)
        assert caught.stamp is not None
        assert caught.stamp.clock == caught.step > 0
        copy, status = late.peer.centre_value(), late.peer.centre()
        assert copy is not None
        assert status is not None
        assert torch.equal(copy, caught.values)
        assert status.exchanges == caught.step
        life.cancel()

    living(old, scenario, ahead_seconds=5.0)


def test_under_lsgd_the_member_with_the_lowest_loss_is_copied() -> None:
    network = SimulatedNetwork()
    old = [
        build_member(network, n, model=filled(float(i)), policy=LSGD._replace(schedule=NEVER))
        for i, n in enumerate("abc")
    ]
    for member, loss in zip(old, (0.5, 0.3, 0.4), strict=True):
        member.loss = loss
    late = late_member(network, schedule=None, policy=LSGD)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        assert caught.donors == ("b",)
        life.cancel()

    living(old, scenario)
    assert torch.equal(values(late.model), torch.ones(72))


def test_with_rule_none_nobody_is_copied() -> None:
    network = SimulatedNetwork()
    alone = Policy(elastic(0.5), NEVER, topology=Topology.NOBODY)
    old, late = old_members(network, "ab", policy=alone), late_member(network, policy=alone)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is None
        life.cancel()

    living(old, scenario)
    assert "alone" in (joining(late).reason or "")


# ---------------------------------------------------------------- many at once


def test_twenty_newcomers_at_once_share_one_copy_which_is_dropped_afterwards() -> None:
    network = SimulatedNetwork()
    (old,) = old_members(network, "a")
    late = [late_member(network, f"late-{i:02}") for i in range(20)]
    copies: list[object] = []
    donor, on_their_way = old.peer.answered.fetches.donor, list[int]()
    given = donor.given

    async def watched(*args: object) -> Given:
        on_their_way.append(donor.giving)
        return await given(*args)  # type: ignore[arg-type]

    donor.given = watched  # type: ignore[method-assign]

    async def scenario() -> None:
        show = old.peer.parts.slot.mailbox.show

        def counted(out: Tensor, taken: Callable[[int], None]) -> None:
            copies.append(out)
            show(out, taken)

        old.peer.parts.slot.mailbox.show = counted  # type: ignore[method-assign]
        done = await asyncio.gather(*(catch_up(member) for member in late))
        assert all(caught is not None for caught, _ in done)
        assert held(old)
        assert len(old.peer.answered.fetches.outgoing) == 0
        await asyncio.sleep(donor_module.HELD_SECONDS + 1.0)
        assert not held(old)
        for _, life in done:
            life.cancel()

    living([old], scenario)
    assert len(copies) == 1
    assert max(on_their_way) == donor_module.GIVEN_MAX  # also of those that waited for the copy together
    assert torch.equal(values(old.model), torch.ones(72))
    for member in late:
        assert torch.equal(values(member.model), torch.ones(72))
        seconds = joining(member).seconds
        assert seconds is not None
        assert seconds < 15.0


def test_a_donor_with_a_long_step_gives_its_copy_when_the_step_ends() -> None:
    network = SimulatedNetwork()
    (old,) = old_members(network, "a", step_seconds=8.0)
    late = late_member(network)

    async def scenario() -> None:
        caught, life = await catch_up(late)
        assert caught is not None
        life.cancel()

    living([old], scenario, ahead_seconds=9.0)


def test_while_it_waits_to_begin_a_donor_serves_newcomers() -> None:
    network = SimulatedNetwork()
    (old,) = old_members(network, "a")
    old.stopped = True
    late = late_member(network)

    async def scenario() -> None:
        old.peer.restore(old.peer.memory().model_copy(update={"step": 50}), loss=0.4)
        await old.peer.announce()
        fetching = asyncio.ensure_future(catch_up(late))
        while not fetching.done():
            old.peer.serve_newcomers()
            await asyncio.sleep(0.1)
        caught, life = fetching.result()
        assert caught is not None
        assert caught.step == 50
        life.cancel()

    living([old], scenario)


def test_a_swarm_that_exchanges_keeps_its_sum_while_others_join() -> None:
    network = SimulatedNetwork()
    old = [
        build_member(network, n, seed=i, schedule=Schedule(probability=1 / 4), step_seconds=0.01 + 0.001 * i)
        for i, n in enumerate("abcd")
    ]
    for member in old:
        member.loss = 0.4
    before = torch.stack([values(m.model) for m in old]).sum(dim=0)
    late = [late_member(network, f"late-{i}") for i in range(4)]

    async def scenario() -> None:
        for member in late:
            caught, life = await catch_up(member)
            assert caught is not None
            life.cancel()
            await network.transport(member.peer.peer).close()
            network.records.pop(member.peer.peer)
        await asyncio.gather(*(m.peer.leave(60.0) for m in old))
        for member in old:
            member.peer.settle()
        after = torch.stack([values(m.model) for m in old]).sum(dim=0)
        torch.testing.assert_close(after, before, rtol=0, atol=2e-6)

    living(old, scenario)
    assert all(m.peer.exchanges().by_outcome[Outcome.COMPLETED] > 10 for m in old)
