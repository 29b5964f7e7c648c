"""Several processes with one identity: the one that began first goes on, and a restart is not taken for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from helpers.swarm import Member, build_member, run_members, tiny_model

from p2p_elastic.errors import IdentityInUse
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.membership.instances import LOOKS_ALONE, TAKEN_OVER, Instances
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import RULES, Topology
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.virtual_network import SimulatedNetwork, SimulatedTransport
from p2p_elastic.testing.virtual_time import run_virtual

ANNOUNCE_SECONDS = 1.0
STEP_SECONDS = 0.05
POLICIES = {
    "pairs": Policy(elastic(0.5), Schedule(probability=1 / 8)),
    "centre": Policy(elastic(0.2), Schedule(period=4), topology=Topology.CENTRE),
    "leader": Policy(elastic(0.5), Schedule(period=4), topology=Topology.LEADER, flow=RULES["lsgd"].flow),
}


def process(
    network: SimulatedNetwork,
    policy: Policy,
    first_sequence: int,
    name: str = "twin",
    transport: SimulatedTransport | None = None,
) -> Member:
    peer = Peer(
        vector=ParameterVector(model := tiny_model(1)),
        policy=policy,
        transport=transport or network.transport(name),
        directory=network.directory(name),
        context=RunContext(
            run="test", announce_seconds=ANNOUNCE_SECONDS, refresh_seconds=0.5, first_sequence=first_sequence
        ),
        events=EventLog(lambda: 0.0),
    )
    member = Member(peer, model, STEP_SECONDS)
    member.loss = 0.1  # the others follow it
    return member


def in_a_swarm(policy: Policy, test: Callable[[SimulatedNetwork, Member], Awaitable[None]]) -> None:
    """Run `test` beside two other members that train, given the network and one of them."""

    async def main() -> None:
        network = SimulatedNetwork()
        others = [
            build_member(network, name, seed=i, policy=policy, step_seconds=STEP_SECONDS) for i, name in enumerate("ab")
        ]
        tasks = [asyncio.ensure_future(one.peer.run()) for one in others]
        tasks += [asyncio.ensure_future(one.train(10**9)) for one in others]
        try:
            await test(network, others[0])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(main())


def told(member: Member) -> list[str]:
    return [event.text for event in member.peer.events.since(0) if event.kind == "duplicate"]


@pytest.mark.parametrize("phase", [0.05, 0.95])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_of_two_processes_with_one_identity_the_later_one_ends_within_an_announcement(
    policy: Policy, phase: float
) -> None:
    async def test(network: SimulatedNetwork, other: Member) -> None:
        first = process(network, policy, 10_000)
        life = asyncio.ensure_future(first.peer.run())
        training = asyncio.ensure_future(first.train(10**9))
        await asyncio.sleep(6.0 + phase)
        before = network.records["twin"][0]
        link = network.transport("twin")
        second = process(network, policy, 40_000, transport=link)
        began = asyncio.get_running_loop().time()
        with pytest.raises(IdentityInUse, match="alive elsewhere.*instance 40"):
            await second.peer.run()
        assert asyncio.get_running_loop().time() - began <= 1.1 * ANNOUNCE_SECONDS
        with pytest.raises(IdentityInUse):  # whoever asks it to announce itself
            await second.peer.announce()
        await link.close()

        states = []
        for _ in range(40):  # the others never lose the first one
            await asyncio.sleep(0.25)
            states += [member.state for member in other.peer.members() if member.peer == "twin"]
        assert states == ["alive"] * 40
        assert len(told(first)) == 1
        assert "began later" in told(first)[0]
        seen = other.peer.parts.members.known["twin"].record
        assert seen.step > before.step + 150
        assert seen.sequence == pytest.approx(network.records["twin"][0].sequence, abs=1)
        assert not life.done()
        for task in (life, training):
            task.cancel()
        await asyncio.gather(life, training, return_exceptions=True)

    in_a_swarm(policy, test)


@pytest.mark.parametrize("says_goodbye", [True, False])
@pytest.mark.parametrize(
    ("topology", "first_sequence", "pause"),
    [
        *((topology, 40_000, 0.01) for topology in POLICIES),
        ("pairs", 40_000, 5.0),
        ("pairs", 5_000, 0.01),  # the clock was set back
        ("pairs", 5_000, 5.0),
    ],
)
def test_a_restart_is_not_hindered_by_the_record_of_the_life_before(
    topology: str, first_sequence: int, pause: float, says_goodbye: bool
) -> None:
    policy = POLICIES[topology]

    async def test(network: SimulatedNetwork, other: Member) -> None:
        link = network.transport("twin")
        first = process(network, policy, 10_000, transport=link)
        life = asyncio.ensure_future(first.peer.run())
        await first.train(60)
        if says_goodbye:
            leaving = asyncio.ensure_future(first.peer.leave(5.0))
            while not leaving.done():
                first.peer.settle()
                await asyncio.sleep(0.01)
        life.cancel()  # without another word, where it is killed
        await link.close()
        await asyncio.sleep(pause)

        second = process(network, policy, first_sequence)
        life = asyncio.ensure_future(second.peer.run())
        await second.train(100)
        assert not life.done()
        assert told(second) == []
        assert [member.state for member in other.peer.members() if member.peer == "twin"] == ["alive"]
        assert [member.step > 70 for member in other.peer.members() if member.peer == "twin"] == [True]
        life.cancel()

    in_a_swarm(policy, test)


def test_alone_too_the_later_one_ends() -> None:
    async def main() -> None:
        network = SimulatedNetwork()
        first = process(network, POLICIES["pairs"], 10_000)
        await asyncio.gather(run_members([first], steps=100), later(network))

    async def later(network: SimulatedNetwork) -> None:
        await asyncio.sleep(2.3)
        with pytest.raises(IdentityInUse):
            await process(network, POLICIES["pairs"], 12_000).peer.run()

    run_virtual(main())


# ---------------------------------------------------------------- by sequences alone


def record(sequence: int, *, left: bool = False) -> PeerRecord:
    return PeerRecord(peer="twin", run="test", schema_hash="0" * 32, sequence=sequence, left=left)


def begun(first_sequence: int = 1000, records: int = 3) -> Instances:
    instances = Instances(first_sequence)
    instances.sequence += records
    return instances


def test_our_own_records_and_none_say_nothing() -> None:
    instances = begun()
    assert [instances.saw(one) for one in (None, record(1001), record(1003), record(1002))] == [None] * 4
    assert instances.sequence == 1003


def test_an_earlier_one_is_alive_once_its_record_is_renewed() -> None:
    instances = begun()
    assert [instances.saw(record(n)) for n in (500, 500, 499, 500, 501)] == [None, None, None, None, "earlier"]


def test_one_that_said_goodbye_is_no_other() -> None:
    instances = begun()
    assert [instances.saw(record(n, left=True)) for n in (500, 501, 9000)] == [None] * 3


def test_a_later_one_is_told_once_and_outlasted() -> None:
    instances = begun()
    assert [instances.saw(record(n)) for n in (9001, 9002, 9003)] == ["later", None, None]
    assert instances.sequence == 1003  # it would take us for one that began after it
    for _ in range(LOOKS_ALONE):
        assert instances.sequence == 1003
        assert instances.saw(record(1003)) is None
    assert instances.sequence == 9003 + TAKEN_OVER
    instances.sequence += 1
    assert instances.saw(record(9004 + TAKEN_OVER)) is None
    assert instances.saw(record(20_000)) == "later"


def test_a_record_from_before_we_began_is_no_later_one_unless_it_is_renewed() -> None:
    waiting = Instances(1000)
    assert [waiting.saw(record(n)) for n in (9001, 9001, 9002)] == [None, None, "later"]


def test_one_that_began_later_and_left_before_we_looked_is_outlasted() -> None:
    instances = begun()
    assert instances.saw(record(9000, left=True)) is None
    assert instances.sequence == 9000 + TAKEN_OVER


@pytest.mark.parametrize("period", [5.0, 5.1, 6.0, 7.0, 9.0, 12.0])
@pytest.mark.parametrize("phase", [0.0, 0.7, 1.3, 2.5, 3.9, 4.9])
def test_the_one_that_began_first_stays_though_the_other_announces_less_often(period: float, phase: float) -> None:
    first, later = Instances(1000), Instances(9000)
    due, ended, store = {first: 0.0, later: 50.0 + phase}, set[Instances](), None
    while min(due.values()) < 150.0 and not ended:
        one = min(due, key=due.__getitem__)
        now = due[one]
        if one.saw(store) == "earlier":
            ended.add(one)
        one.sequence += 1
        store = record(one.sequence)
        due[one] = now + (5.0 if one is first else period)
    assert ended == {later}
