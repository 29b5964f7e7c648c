"""Leaving: the last parameters reach a partner, the centre its heir, and everybody knows at once. In virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
import torch
from helpers.swarm import Member, Switch, begin_as_equals, build_member, centre_at, tiny_model, values
from helpers.topologies import EASGD, LSGD, centre_of, completed, gossip, kill, leaders_of, until
from torch import Tensor

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.centre.succession import candidates, succession
from p2p_elastic.peers.exchange.slot import DELIVERED, IDLE, Phase, Slot
from p2p_elastic.peers.membership.tombstones import DEPARTED_MAX, Departed
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.protocol.exchange import say_goodbye
from p2p_elastic.protocol.messages import Goodbye, Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import RECORD_SECONDS_MAX, PeerRecord
from p2p_elastic.rules.methods import Topology
from p2p_elastic.rules.pairwise import elastic, stay
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import FarewellStatus
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NEVER, LONG = Schedule(probability=0.0), 10.0
ALONE_LATER = Policy(elastic(0.5), NEVER)
IDS = iter(range(10**9))


def quiet(rule: str) -> Policy:
    """By that rule, and nobody begins an exchange on its own."""
    return gossip(rule)._replace(schedule=NEVER)


def joined(
    network: SimulatedNetwork, names: str, policy: Policy = ALONE_LATER, *, first: int = 0, **options: object
) -> list[Member]:
    """Members that begin together, each with its own start."""
    events = [EventLog(lambda: 0.0) for _ in names]
    members = [
        build_member(network, name, seed=first + i, policy=policy, events=log, newcomer=first + i > 0, **options)  # type: ignore[arg-type]
        for i, (name, log) in enumerate(zip(names, events, strict=True))
    ]
    begin_as_equals(members)
    return members


async def keep_settling(member: Member) -> None:
    """What the training thread does while it waits for the network."""
    while True:
        member.peer.settle()
        await asyncio.sleep(0.01)


async def leave(member: Member, seconds: float = LONG) -> FarewellStatus:
    """As `join` does it: the training thread settles while the network says goodbye."""
    member.stopped = True
    settling = asyncio.ensure_future(keep_settling(member))
    try:
        status = await member.peer.leave(seconds)
    finally:
        settling.cancel()
    member.peer.settle()
    return status


def swarm(members: list[Member], scenario: Callable[[dict[str, asyncio.Task[None]]], Awaitable[None]]) -> None:
    """Let all of them live, train and know each other; then the scenario."""

    async def main() -> None:
        lives = {m.peer.peer: asyncio.ensure_future(m.peer.run()) for m in members}
        training = [asyncio.ensure_future(m.train(10**9)) for m in members]
        await until(lambda: all(len(m.peer.members()) == len(members) - 1 and m.steps > 9 for m in members), 10.0)
        await scenario(lives)
        for task in [*lives.values(), *training]:
            task.cancel()

    run_virtual(main())


def known(member: Member) -> set[str]:
    return {other.peer for other in member.peer.members()}


def told(member: Member, kind: str) -> list[str]:
    return [event.text for event in member.peer.events.since(0) if event.kind == kind]


def settled(members: list[Member]) -> bool:
    return all(m.peer.exchange_state == IDLE for m in members)


def gave_all(member: Member) -> bool:
    """Whether somebody else moved by its parameters as they are now."""
    records = member.peer.last_exchanges()
    return any(r.outcome is Outcome.COMPLETED and r.step == member.steps and r.staleness == 0 for r in records)


def total(members: list[Member]) -> Tensor:
    return torch.stack([values(m.model) for m in members]).sum(dim=0)


def sum_weights(members: list[Member]) -> float:
    return sum(m.peer.memory().rule for m in members)


async def say(network: SimulatedNetwork, source: str, target: str, **changes: object) -> object:
    """One goodbye, as a stranger may write it. Raises ExchangeError."""
    facts = {"id": f"{next(IDS):032x}", "peer": source, "run": "test", "sequence": 10**6, **changes}
    stream = await network.transport(source).open(PeerRecord(peer=target, run="test", schema_hash="0" * 32))
    try:
        return await Conversation(stream, Limits()).run(say_goodbye(Goodbye.model_validate(facts)))
    finally:
        stream.abort()


# ---------------------------------------------------------------- the last parameters


def test_the_last_parameters_of_a_leaver_reach_a_partner_and_the_sum_is_conserved() -> None:
    network = SimulatedNetwork()
    members = joined(network, "abc")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        before = total(members)
        status = await leave(members[0])
        await until(lambda: settled(members), 1.0)
        assert status.handed_to in ("b", "c")
        assert (status.told, status.members, status.withdrawn, status.reason) == (2, 2, True, None)
        taker = members["abc".index(status.handed_to)]
        both = (values(tiny_model(0)) + values(tiny_model("abc".index(status.handed_to)))) / 2
        torch.testing.assert_close(values(taker.model), both, rtol=0, atol=1e-6)
        torch.testing.assert_close(values(members[0].model), both, rtol=0, atol=1e-6)
        torch.testing.assert_close(total(members), before, rtol=0, atol=1e-6)

    swarm(members, scenario)


@pytest.mark.parametrize("rule", ["gossip-pull", "gossip-push"])
def test_by_one_sided_rules_the_partner_moves_and_the_leaver_stays(rule: str) -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab", quiet(rule))

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        status = await leave(members[0])
        await until(lambda: settled(members), 1.0)
        assert (status.handed_to, status.told, status.reason) == ("b", 1, None)
        assert known(members[1]) == set()
        first, second = values(tiny_model(0)), values(tiny_model(1))
        assert torch.equal(values(members[0].model), first)
        torch.testing.assert_close(values(members[1].model), (first + second) / 2, rtol=0, atol=1e-6)

    swarm(members, scenario)


def test_a_leaver_gives_all_of_its_sum_weight_away() -> None:
    network = SimulatedNetwork()
    members = joined(network, "abcd", gossip("gosgd"))

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 5 for m in members), 30.0)
        for leaver in members[:3]:
            assert (await leave(leaver)).handed_to is not None
            assert leaver.peer.memory().rule == 0.0
            await until(lambda: settled(members), 5.0)
            assert sum_weights(members) == pytest.approx(4.0, rel=1e-12)
        assert members[3].peer.memory().rule == pytest.approx(4.0, rel=1e-12)
        start = torch.stack([values(tiny_model(i)) for i in range(4)]).mean(dim=0)
        torch.testing.assert_close(values(members[3].model), start, rtol=0, atol=2e-6)

    swarm(members, scenario)


def test_nothing_is_handed_over_twice() -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab", Policy(elastic(0.5), Schedule(period=10)))
    leaver, partner = members

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        leaver.stopped = True
        settling = asyncio.ensure_future(keep_settling(leaver))
        await until(lambda: gave_all(leaver) and settled(members), 30.0)
        settling.cancel()
        partner.stopped = True
        before = completed(leaver)
        status = await leave(leaver)
        assert (status.handed_to, status.reason) == (None, "nothing new since the last exchange")
        assert (completed(leaver), known(partner)) == (before, set())

    swarm(members, scenario)


@pytest.mark.parametrize(
    ("rule", "spoil", "reason"),
    [
        ("elastic-gossip", lambda member: member.peer.condition.drain(), "drained"),
        ("elastic-gossip", lambda member: member.peer.report_loss(math.nan), "it counts for nobody"),
        ("none", lambda member: None, "this rule hands nothing over"),
        ("lsgd", lambda member: None, "this rule hands nothing over"),
    ],
)
def test_who_has_nothing_for_others_only_says_goodbye(rule: str, spoil: Callable[[Member], None], reason: str) -> None:
    network = SimulatedNetwork()
    policies = {"none": Policy(stay(), NEVER, topology=Topology.NOBODY), "lsgd": LSGD}
    members = joined(network, "ab", policies.get(rule, ALONE_LATER))

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        members[0].stopped = True
        spoil(members[0])
        theirs = values(members[1].model)
        status = await leave(members[0])
        assert (status.handed_to, status.reason, status.told) == (None, reason, 1)
        assert known(members[1]) == set()
        if rule != "lsgd":
            assert torch.equal(values(members[1].model), theirs)

    swarm(members, scenario)


def test_parameters_that_are_not_finite_are_not_handed_over() -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        members[0].stopped = True
        for parameter in members[0].model.parameters():
            parameter.data.fill_(math.nan)
        theirs = values(members[1].model)
        status = await leave(members[0])
        assert (status.handed_to, status.told) == (None, 1)
        assert torch.equal(values(members[1].model), theirs)

    swarm(members, scenario)


def test_who_is_busy_is_asked_again() -> None:
    def slow(event: Event) -> Verdict:
        return Verdict(seconds=1.0 if event.kind == "piece" and "a" not in (event.source, event.target) else 0.001)

    network = SimulatedNetwork(judge=slow)
    asking = Switch(Schedule(period=30))
    others = Policy(elastic(0.5), asking)  # type: ignore[arg-type]
    members = [*joined(network, "a"), *joined(network, "bc", others, first=1)]

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: not settled(members[1:2]) and not settled(members[2:]), 30.0)
        asking.on = False  # this one ends, and no other begins
        status = await leave(members[0])
        assert members[0].peer.exchanges().by_outcome[Outcome.DECLINED] >= 2
        assert (status.handed_to in ("b", "c"), status.reason) == (True, None)

    swarm(members, scenario)


def test_a_newcomer_that_is_left_alone_copies_the_leaver() -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab")
    members[1].peer.restore(members[1].peer.memory().model_copy(update={"newcomer": True}))
    members[1].step_seconds = 0.5

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: members[0].peer.members()[0].weight == 0.0, 30.0)
        assert (await leave(members[0])).handed_to == "b"
        await until(lambda: settled(members), 2.0)
        torch.testing.assert_close(values(members[1].model), values(tiny_model(0)), rtol=0, atol=1e-6)

    swarm(members, scenario)


@pytest.mark.parametrize("late", ["last word", "examining"])
def test_an_exchange_that_the_end_of_the_time_cuts_off_is_counted_where_the_partner_has_moved(late: str) -> None:
    # A leaver knew nothing of it: its partner had moved, and it counted no half exchange.
    committed = False

    def slow(event: Event) -> Verdict:
        nonlocal committed
        said = event.source == "b" and event.kind == "piece"
        committed = committed or (said and event.number == 3)  # after Accept, and its vector's header and chunk
        return Verdict(seconds=30.0 if said and committed and late == "last word" else 0.001)

    async def examine(_theirs: Tensor, _ours: Tensor) -> Trial:
        await asyncio.sleep(30.0)
        return Trial(1.0, 1.0, 0.0)

    network = SimulatedNetwork(judge=slow)
    members = joined(network, "ab", ALONE_LATER._replace(weighting="dynamic"))
    for theirs, ours in zip(members[1].model.parameters(), members[0].model.parameters(), strict=True):
        theirs.data.copy_(ours.data + 0.01)  # near enough to be followed

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        if late == "examining":
            members[0].peer.examine_with(examine)
        status = await leave(members[0], 1.0)
        assert (status.handed_to, status.reason) == (None, "there was no time for more")
        assert members[1].peer.exchanges().by_outcome == {Outcome.COMPLETED: 1}
        outcome = Outcome.HALF if late == "last word" else Outcome.COMPLETED  # then its own move waits already
        assert members[0].peer.exchanges().by_outcome == {outcome: 1}
        assert (members[0].peer.last_exchanges()[0].distance is None) is (late == "last word")
        assert torch.equal(values(members[0].model), values(tiny_model(0))) is (late == "last word")

    swarm(members, scenario)


def test_who_leaves_itself_by_then_takes_nothing_from_another_leaver() -> None:
    # It pulled all the same, and ended without the last word: half an exchange where several end together.
    network = SimulatedNetwork()
    asking = Switch(Schedule(period=1), on=False)
    takers = joined(network, "c", gossip("gossip-pull")._replace(schedule=asking), first=2)  # type: ignore[arg-type]
    members = [*joined(network, "ab", quiet("gossip-pull")), *takers]
    taker = members[2]

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        taker.step_seconds, asking.on = 1.0, True
        await until(lambda: taker.peer.exchange_state == DELIVERED, 5.0)
        asking.on = False
        first = asyncio.ensure_future(leave(members[0]))
        await until(lambda: "a" not in known(taker), 1.0)
        assert members[0].peer.parts.departure.awaited == "c"  # "a" chose it,
        assert taker.peer.exchange_state == DELIVERED  # and it waits until its own move is added
        second = await leave(taker)
        assert (second.handed_to, (await first).handed_to) == ("b", "b")
        assert [one.initiated for one in taker.peer.last_exchanges()] == [False, True]  # the latest first

    swarm(members, scenario)


def test_an_offer_that_waited_for_its_turn_while_its_partner_began_to_leave_is_declined() -> None:
    def slow(event: Event) -> Verdict:
        return Verdict(seconds=0.3 if event.kind == "piece" and event.source == "b" else 0.001)

    network, asking = SimulatedNetwork(judge=slow), Switch(Schedule(period=1), on=False)
    members = joined(network, "ab", gossip("elastic-gossip")._replace(schedule=asking))  # type: ignore[arg-type]

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        asked, asking.on = members[1], True
        # They offer to each other: that of "a" stands, and waits until the other has ended.
        await until(lambda: asked.peer.exchange_state == Slot(Phase.YIELDING, "a"), 5.0)
        asking.on = False
        leaving = asyncio.ensure_future(leave(asked))
        await until(lambda: bool(asked.peer.exchanges().declined_by_us), 1.0)
        assert set(asked.peer.exchanges().declined_by_us) == {"leaving"}
        await leaving
        assert asked.peer.exchange_state == IDLE

    swarm(members, scenario)


# ---------------------------------------------------------------- known at once, and for good


def test_partners_drop_a_leaver_before_they_read_the_directory() -> None:
    network = SimulatedNetwork()
    members = joined(network, "abcde")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await leave(members[0])
        for member in members[1:]:
            assert known(member) == set("bcde") - {member.peer.peer}
            assert told(member, "left") == ["a left"]

    swarm(members, scenario)


def test_no_older_record_brings_a_leaver_back_and_a_newer_one_does() -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        stale = network.records["a"][0]
        await leave(members[0])
        network.records["a"] = stale, math.inf
        await asyncio.sleep(5.0)
        assert (known(members[1]), told(members[1], "left")) == (set(), ["a left"])
        network.records["a"] = stale.model_copy(update={"sequence": stale.sequence + 1000}), math.inf
        await asyncio.sleep(1.0)
        assert known(members[1]) == {"a"}

    swarm(members, scenario)


def test_a_goodbye_from_an_earlier_life_does_not_drop_who_came_back() -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await say(network, "a", "b", sequence=0)
        assert known(members[1]) == {"a"}

    swarm(members, scenario)


def test_a_goodbye_for_somebody_else_is_refused_and_counted() -> None:
    network = SimulatedNetwork()
    members = joined(network, "abc")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        with pytest.raises(ExchangeError):
            await say(network, "evil", "b", peer="a")
        assert members[1].peer.streams_refused() == {"RemoteProtocolError": 1}
        assert await say(network, "a", "b", run="other") is None
        assert known(members[1]) == {"a", "c"}

    swarm(members, scenario)


def test_goodbyes_of_strangers_leave_nothing_behind_and_those_of_members_little() -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab", quiet("gossip-pull"))

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        for i in range(2000):
            await say(network, f"stranger-{i}", "b", seconds=60.0)
        assert len(members[1].peer.parts.members.departed) == 0
        assert told(members[1], "left") == []
        for _ in range(50):  # it asks again and again to be pulled from, and never answers
            network.handlers.pop("a", None)
            await say(network, "a", "b", seconds=60.0)
        totals = members[1].peer.exchanges().by_outcome
        assert totals == {Outcome.UNREACHABLE: 1}

    swarm(members, scenario)


def test_of_many_that_left_the_oldest_are_forgotten_and_all_after_a_while() -> None:
    departed = Departed()
    records = [PeerRecord(peer=f"p{i}", run="r", schema_hash="0" * 32, sequence=5) for i in range(DEPARTED_MAX + 1)]
    for record in records:
        departed.remember(record, 7, now=100.0)
    assert list(departed.without(records, 100.0)) == records[:1]
    newer = records[1].model_copy(update={"sequence": 8})
    assert list(departed.without([newer], 100.0)) == [newer]
    assert departed.get("p1") is None
    assert list(departed.without(records[2:3], 100.0 + RECORD_SECONDS_MAX)) == []
    assert list(departed.without(records[2:3], 100.1 + RECORD_SECONDS_MAX)) == records[2:3]


# ---------------------------------------------------------------- in time, whatever happens


def test_who_is_alone_leaves_at_once() -> None:
    network = SimulatedNetwork()
    members = joined(network, "a")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        begun = asyncio.get_running_loop().time()
        status = await leave(members[0])
        assert (status.handed_to, status.members, status.withdrawn) == (None, 0, True)
        assert status.describe() == "Left: nobody else was there."
        assert asyncio.get_running_loop().time() - begun < 0.05
        assert network.records["a"][0].left

    swarm(members, scenario)


@pytest.mark.parametrize("seconds", [LONG, 1.0])
@pytest.mark.parametrize("fault", ["dead", "silent", "cut"])
@pytest.mark.parametrize("rule", ["elastic-gossip", "gossip-pull", "gosgd", "easgd"])
def test_a_partner_that_fails_does_not_keep_the_leaver_beyond_its_time(rule: str, fault: str, seconds: float) -> None:
    broken: set[str] = set()

    def judge(event: Event) -> Verdict:
        if fault == "dead" or not broken & {event.source, event.target} or event.kind != "piece":
            return Verdict()
        return Verdict("silence" if fault == "silent" else "cut")

    network = SimulatedNetwork(judge=judge)
    members = joined(network, "abcd", EASGD._replace(schedule=NEVER) if rule == "easgd" else quiet(rule))

    async def scenario(lives: dict[str, asyncio.Task[None]]) -> None:
        for other in (members[0], members[2]):  # with easgd, one of them is the centre
            broken.add(other.peer.peer)
            if fault == "dead":
                await kill(other, network, lives[other.peer.peer])
        begun = asyncio.get_running_loop().time()
        status = await leave(members[1], seconds)
        assert asyncio.get_running_loop().time() - begun <= seconds + 0.1
        assert (status.members, status.told, status.withdrawn) == (3, 1, True)
        assert "b" not in known(members[3])
        assert fault == "dead" or network.faults["silence" if fault == "silent" else "cut"] > 0

    swarm(members, scenario)


def test_half_of_ten_peers_leave_at_once_and_the_other_half_has_what_they_learnt() -> None:
    network = SimulatedNetwork()
    members = joined(network, "abcdefghij")
    leavers, others = members[:5], members[5:]

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        before = total(members)
        statuses = await asyncio.gather(*(leave(m) for m in leavers))
        await until(lambda: settled(members), 1.0)
        torch.testing.assert_close(total(members), before, rtol=0, atol=2e-6)
        stayed = {m.peer.peer for m in others}
        assert sum(s.handed_to in stayed for s in statuses) == 5
        for member in others:
            assert known(member) == stayed - {member.peer.peer}

    swarm(members, scenario)


def test_an_exchange_under_way_ends_before_its_peer_leaves() -> None:
    def slow(event: Event) -> Verdict:
        return Verdict(seconds=0.3 if event.kind == "piece" and {event.source, event.target} == {"a", "b"} else 0.001)

    network = SimulatedNetwork(judge=slow)
    members = joined(network, "ab", Policy(elastic(0.5), Schedule(period=50)))

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        before = total(members)
        await until(lambda: members[0].peer.exchange_state != IDLE, 30.0)
        done = completed(members[0])
        await leave(members[0])
        members[1].stopped = True
        await until(lambda: members[1].peer.exchange_state in (IDLE, DELIVERED), 30.0)
        members[1].peer.settle()
        assert completed(members[0]) > done
        assert Outcome.HALF not in members[0].peer.exchanges().by_outcome
        torch.testing.assert_close(total(members), before, rtol=0, atol=2e-6)

    swarm(members, scenario)


def test_who_is_hurried_goes_on_with_its_goodbye_and_hands_nothing_over_twice() -> None:
    size = values(tiny_model(0)).nbytes

    def slow(event: Event) -> Verdict:
        return Verdict(seconds=2.0 if event.kind == "piece" and event.nbytes == size else 0.001)

    network = SimulatedNetwork(judge=slow)
    members = joined(network, "abc")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        first = asyncio.ensure_future(leave(members[0]))
        await until(lambda: members[0].peer.exchange_state.phase in (Phase.OFFERING, Phase.AGREED), 5.0)
        await asyncio.sleep(0.05)
        first.cancel()
        status = await leave(members[0], 1.0)
        assert (status.members, status.handed_to, status.reason) == (2, None, "there was no time for more")
        assert known(members[1]) == {"c"}
        assert known(members[2]) == {"b"}
        assert completed(members[0]) == 0

    swarm(members, scenario)


# ---------------------------------------------------------------- the centre variable


def centre_swarm(network: SimulatedNetwork, names: str = "abcd", policy: Policy = EASGD) -> list[Member]:
    return joined(network, names, policy, limits=Limits(streams_total=64))


def test_a_centre_that_leaves_loses_no_exchange_and_its_heir_takes_over_at_once() -> None:
    network = SimulatedNetwork()
    members = centre_swarm(network)
    leaver, others = members[0], members[1:]

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: centre_of(leaver).exchanges > 50, 30.0)
        status = await leave(leaver)
        centre = centre_at(leaver.peer)
        assert status.centre_to is not None
        assert not centre.seated
        assert {centre_of(m).holder for m in others} == {status.centre_to}  # all know it, no directory was read
        heir = next(m for m in others if m.peer.peer == status.centre_to)
        new = centre_at(heir.peer)
        assert new.seated
        assert (new.stamp.term, new.stamp.clock >= centre.stamp.clock) == (2, True)
        if new.stamp.clock == centre.stamp.clock:
            assert torch.equal(new.value, centre.value)
        done = [completed(m) for m in others]
        await asyncio.sleep(0.5)  # far less than a vacancy takes
        assert all(completed(m) > before for m, before in zip(others, done, strict=True))
        await asyncio.sleep(20.0)
        assert {centre_of(m).holder for m in others} == {status.centre_to}
        assert {centre_of(m).term for m in others} == {2}

    swarm(members, scenario)


def test_a_worker_that_leaves_meets_the_centre_once_more() -> None:
    network = SimulatedNetwork()
    members = joined(network, "ab", EASGD._replace(schedule=NEVER))

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: centre_of(members[1]).holder == "a", 10.0)
        before = centre_of(members[0]).exchanges
        assert (await leave(members[1])).handed_to == "a"
        assert centre_of(members[0]).exchanges == before + 1

    swarm(members, scenario)


def test_a_worker_that_leaves_at_the_same_time_as_the_centre_meets_its_heir() -> None:
    # The old centre declined, and that was all: what the worker learnt last was lost.
    network = SimulatedNetwork()
    members = joined(network, "abc", EASGD._replace(schedule=NEVER))

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: all(centre_of(m).holder == "a" for m in members), 10.0)
        first, second = await asyncio.gather(leave(members[0]), leave(members[1]))
        assert (first.centre_to, second.handed_to) == ("c", "c")
        assert centre_of(members[2]).exchanges == 2  # with the old centre's own model, and with the worker

    swarm(members, scenario)


def test_a_dead_heir_is_passed_over() -> None:
    network = SimulatedNetwork()
    members = centre_swarm(network)

    async def scenario(lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: centre_of(members[0]).exchanges > 50, 30.0)
        strategy = members[0].peer.parts.run.topology
        assert isinstance(strategy, CentreStrategy)
        heir = strategy.resignation.heir(set())
        assert heir is not None
        first = heir.peer
        dead = next(m for m in members if m.peer.peer == first)
        await kill(dead, network, lives[first])
        status = await leave(members[0])
        assert status.centre_to in {"b", "c", "d"} - {first}

    swarm(members, scenario)


def test_where_all_but_one_leave_at_once_the_centre_goes_to_the_one_that_stays() -> None:
    # The two with the freshest copies were asked, which left as well; what only the centre knew was lost.
    network = SimulatedNetwork()
    asking = Switch(EASGD.schedule)
    members = centre_swarm(network, "abcdefghijkl", EASGD._replace(schedule=asking))  # type: ignore[arg-type]

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: centre_of(members[0]).exchanges > 50, 30.0)
        asking.on = False
        await asyncio.sleep(3.0)  # now all know how fresh each copy is
        alive = members[0].peer.parts.members.alive()
        last = succession(candidates(alive, asyncio.get_running_loop().time(), 1.0))[-1].peer
        stays = next(m for m in members if m.peer.peer == last)
        for member in members[1:]:
            if member is not stays:  # their goodbyes are still to come
                member.peer.parts.departure.leave()
        status = await leave(members[0])
        assert status.centre_to == last
        assert centre_of(stays).here
        assert centre_of(stays).exchanges >= centre_of(members[0]).exchanges

    swarm(members, scenario)


def test_who_leaves_while_it_announces_itself_is_not_listed_afterwards() -> None:
    # The record arrived after the goodbye; who had not heard that chose the leaver for a minute.
    def slow(event: Event) -> Verdict:
        return Verdict(seconds=0.05 if event.kind == "announce" else 0.001)

    network = SimulatedNetwork(judge=slow)
    members = joined(network, "a")

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        announcing = asyncio.ensure_future(members[0].peer.announce())
        await asyncio.sleep(0.01)
        await leave(members[0])
        await announcing
        assert network.records["a"][0].left

    swarm(members, scenario)


def test_where_nobody_takes_the_centre_over_the_others_choose_one_as_if_it_had_died() -> None:
    network = SimulatedNetwork()
    members = centre_swarm(network)

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: centre_of(members[0]).exchanges > 50, 30.0)
        for member in members[1:]:
            member.peer.condition.drain()
        status = await leave(members[0])
        assert (status.centre_to, status.reason) == (None, "nobody took the centre variable over")
        for member in members[1:]:
            member.peer.condition.undrain()
        await until(lambda: sum(centre_of(m).here for m in members[1:]) == 1, 10.0)

    swarm(members, scenario)


def test_only_the_centre_names_its_heir() -> None:
    network = SimulatedNetwork()
    members = centre_swarm(network)

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: all(centre_of(m).holder == "a" for m in members), 10.0)
        liar, victim = members[3], members[1]
        liar.stopped = True
        centre_at(liar.peer).seated = True  # it has a value to give
        liar.peer.parts.departure.leave()
        liar.peer.parts.departure.await_taker("b")
        await say(network, "d", "b", seconds=60.0, heir="b", centre=Stamp(term=1000, clock=10**9).model_dump())
        await say(network, "d", "c", heir="b", centre=Stamp(term=1000, clock=10**9).model_dump())
        assert not centre_of(victim).here
        assert centre_of(members[2]).holder == "a"

    swarm(members, scenario)


def test_the_leader_that_left_is_followed_no_more() -> None:
    network = SimulatedNetwork()
    members = joined(network, "abc", LSGD)
    members[0].loss = 0.1

    async def scenario(_lives: dict[str, asyncio.Task[None]]) -> None:
        await until(lambda: all(leaders_of(m).leader == "a" for m in members[1:]), 30.0)
        await leave(members[0])
        assert all(leaders_of(m).leader != "a" for m in members[1:])

    swarm(members, scenario)
