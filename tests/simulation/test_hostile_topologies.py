"""Centre, leader and one-way gossip among strangers and members that lie, starve, stall or break; in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Generator

import pytest
import torch
from helpers.swarm import Member, begin_as_equals, build_member, following_at, run_members, tiny_model, values
from helpers.topologies import (
    EASGD,
    LSGD,
    NAMES,
    centre_of,
    completed,
    gossip,
    kill,
    leaders_of,
    living,
    until,
    with_loss,
)

from p2p_elastic.errors import ExchangeError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.exchange.slot import DELIVERED, IDLE
from p2p_elastic.peers.exchange.snapshots import SnapshotLosses
from p2p_elastic.peers.leader.strategy import LeaderStrategy
from p2p_elastic.peers.lifecycle.giving import OUTGOING_MAX
from p2p_elastic.peers.session.conversation import Conversation, Limits, Vectors
from p2p_elastic.protocol.exchange import Transfer, fetch, give, initiate
from p2p_elastic.protocol.framing import CHUNK_HEADER
from p2p_elastic.protocol.messages import (
    CLOCK_MAX,
    PROTOCOL_VERSION,
    SHARE_MAX,
    TERM_MAX,
    Accept,
    Committed,
    Decline,
    DeclineReason,
    Fetch,
    Given,
    Inquiry,
    Message,
    Offer,
    Stamp,
    Tell,
    Unchanged,
    Verified,
)
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import CentreClaim, PeerRecord
from p2p_elastic.rules.methods import Flow
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

SCHEMA = ParameterVector(tiny_model(0)).schema_hash
ELEMENTS = ParameterVector(tiny_model(0)).elements
ID = "e" * 32
Answer = Callable[[Conversation, Message], Awaitable[None]]


def record(peer: str, **facts: object) -> PeerRecord:
    return PeerRecord.model_validate({"peer": peer, "run": "test", "schema_hash": SCHEMA, **facts})


def asks(**facts: object) -> Fetch:
    of = {"id": ID, "peer": "evil", "run": "test", "schema_hash": SCHEMA, "elements": ELEMENTS, "codec": "none"}
    return Fetch.model_validate({**of, "origin": "a", **facts})


def offers(**facts: object) -> Offer:
    of = {"id": ID, "peer": "evil", "run": "test", "schema_hash": SCHEMA, "elements": ELEMENTS, "codec": "none"}
    return Offer.model_validate({**of, "step": 1, "loss": None, "weight": 1.0, **facts})


async def be_member(network: SimulatedNetwork, name: str, answer: Answer, **facts: object) -> None:
    """A member that is announced as everybody is, and answers what comes as it likes."""

    async def handle(stream: object) -> None:
        conversation = Conversation(stream, Limits())  # type: ignore[arg-type]
        try:
            await answer(conversation, await conversation.receive((Offer, Inquiry, Fetch, Tell), 5.0))
            await conversation.until_closed()
        except ExchangeError:
            pass

    await network.transport(name).serve(handle)
    for sequence in range(10**9):
        await network.directory(name).announce(record(name, sequence=sequence, **facts))
        await asyncio.sleep(1.0)


async def keeps_quiet(conversation: Conversation, message: Message) -> None:
    """Says how its training goes, and has no snapshot."""
    name = "evil"
    if isinstance(message, Tell):
        await conversation.send(Tell(id=message.id, peer=name, run="test", step=1, loss=None))
    else:
        await conversation.send(Decline(id=message.id, reason=DeclineReason.NO_SNAPSHOT))


async def say(network: SimulatedNetwork, target: str, message: Message, source: str = "evil") -> Message:
    stream = await network.transport(source).open(record(target))
    conversation = Conversation(stream, Limits())
    try:
        await conversation.send(message)
        return await conversation.receive((Decline, Tell, Accept, Given, Unchanged), 5.0)
    finally:
        await stream.close()


def swarm(network: SimulatedNetwork, policy: Policy, names: list[str] = NAMES) -> list[Member]:
    """All begin together; the earlier in the list, the lower the loss."""
    members = [
        with_loss(build_member(network, name, seed=i, policy=policy, newcomer=i > 0), 1.0 + i)
        for i, name in enumerate(names)
    ]
    begin_as_equals(members)
    return members


def check_sane(members: list[Member]) -> None:
    """What must hold at the end, whatever happened."""
    for member in members:
        run = member.peer.parts.run
        not_begun = member.peer.exchange_due  # a snapshot that nobody took up before the end
        assert member.peer.exchange_state in (IDLE, DELIVERED) or not_begun
        assert bool(torch.isfinite(values(member.model)).all())
        if isinstance(run.topology, CentreStrategy):
            assert bool(torch.isfinite(run.topology.centre.value).all())
            assert not run.topology.centre.reserved
        if isinstance(run.topology, LeaderStrategy):
            held = run.topology.following.snapshots.held
            assert all(s.sending == 0 and bool(torch.isfinite(s.vector).all()) for s in held)
        assert not member.peer.answered.fetches.outgoing


# ---------------------------------------------------------------- strangers


@pytest.mark.parametrize("policy", [EASGD, LSGD], ids=["centre", "leader"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": PROTOCOL_VERSION + 1}, DeclineReason.OTHER_VERSION),
        ({"run": "other"}, DeclineReason.OTHER_RUN),
        ({"schema_hash": "f" * 32}, DeclineReason.OTHER_SCHEMA),
        ({"elements": 2**39}, DeclineReason.OTHER_SCHEMA),
        ({"codec": "zip"}, DeclineReason.OTHER_CODEC),
        ({}, DeclineReason.NO_SNAPSHOT),  # not a member
        ({"origin": "nobody"}, DeclineReason.NO_SNAPSHOT),
    ],
)
def test_a_stranger_gets_no_snapshot(policy: Policy, change: dict[str, object], reason: DeclineReason) -> None:
    network = SimulatedNetwork()
    members = swarm(network, policy)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(m.steps > 200 for m in members), 60.0)
        answer = await say(network, "a", asks(**change))
        assert isinstance(answer, Decline)
        assert answer.reason is reason
        assert members[0].peer.exchanges().declined_by_us[reason.value] >= 1
        if policy is LSGD:
            assert isinstance(await say(network, "a", asks(), source="evil"), Decline)
            assert not following_at(members[1].peer).asked_for

    living(members, scenario)
    check_sane(members)


def test_strangers_words_do_not_count_and_false_names_are_refused() -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(m.steps > 200 for m in members), 60.0)
        for i in range(200):
            told = Tell(id=ID, peer=f"s{i}", run="test", step=1, loss=0.0)
            assert isinstance(await say(network, "a", told, source=f"s{i}"), Tell)
        assert set(following_at(members[0].peer).heard) <= set(NAMES)
        other = await say(network, "a", Tell(id=ID, peer="evil", run="other", step=1, loss=0.0))
        assert isinstance(other, Decline)
        for message in (Tell(id=ID, peer="b", run="test", step=1, loss=0.0), asks(peer="b"), offers(peer="b")):
            with pytest.raises(ExchangeError):
                await say(network, "a", message)
        assert members[0].peer.streams_refused() == {"RemoteProtocolError": 3}

    living(members, scenario)
    assert [leaders_of(m).leader for m in members] == ["a"] * 4
    check_sane(members)


def test_where_nobody_offers_an_offer_is_declined() -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: members[0].steps > 50, 60.0)
        answer = await say(network, "a", offers())
        assert isinstance(answer, Decline)
        assert answer.reason is DeclineReason.OTHER_RULE

    living(members, scenario)
    check_sane(members)


# ---------------------------------------------------------------- snapshots under attack


def greedy(network: SimulatedNetwork, name: str) -> Callable[[], Awaitable[None]]:
    """Takes every snapshot of `a` as soon as it is there, and again and again."""

    async def take() -> None:
        while True:
            with_it = Vectors(torch.empty(ELEMENTS), torch.empty(ELEMENTS))
            stream = await network.transport(name).open(record("a"))
            try:
                await Conversation(stream, Limits()).run(fetch(asks(peer=name)), with_it)
            except ExchangeError:
                pass
            finally:
                await stream.close()
            await asyncio.sleep(0.01)

    return take


@pytest.mark.parametrize("announced", [False, True])
def test_those_that_take_all_copies_do_not_starve_the_others(announced: bool) -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD)
    for member in members:
        member.step_seconds = 0.037 if member is members[0] else 0.05  # they come when the copies are long gone
    start = values(members[0].model).clone()

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        tasks = [asyncio.ensure_future(greedy(network, f"evil{i}")()) for i in range(3)]
        if announced:
            tasks += [asyncio.ensure_future(be_member(network, f"evil{i}", keeps_quiet)) for i in range(3)]
        await until(lambda: all(m.steps > 300 for m in members), 60.0)
        for task in tasks:
            task.cancel()

    living(members, scenario)
    for member in members[1:]:
        torch.testing.assert_close(values(member.model), start, rtol=0, atol=1e-3)
        assert completed(member) > 20  # of 30 pulls
    check_sane(members)


def test_slow_readers_keep_few_snapshots_in_memory() -> None:
    """Many members that begin to take each snapshot and then read no further."""
    slow = {f"slow{i}" for i in range(12)}

    def judge(event: Event) -> Verdict:
        return Verdict(seconds=300.0) if event.source == "a" and event.target in slow and event.number else Verdict()

    network = SimulatedNetwork(judge=judge)
    wide = [
        with_loss(build_member(network, n, seed=i, model=tiny_model(i, width=800), policy=LSGD), 1.0 + i)
        for i, n in enumerate(["a", "b"])
    ]
    vector = ParameterVector(wide[0].model)
    most = 0

    async def take(name: str) -> None:
        while True:
            stream = await network.transport(name).open(record("a"))
            asked = asks(peer=name, schema_hash=vector.schema_hash, elements=vector.elements)
            try:
                await Conversation(stream, Limits(idle_seconds=200.0)).run(fetch(asked), Vectors(*[vector.empty()] * 2))
            except ExchangeError:
                await asyncio.sleep(0.01)
            finally:
                await stream.close()

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        nonlocal most
        for name in slow:
            tasks.append(asyncio.ensure_future(be_member(network, name, keeps_quiet, schema_hash=vector.schema_hash)))
            tasks.append(asyncio.ensure_future(take(name)))
        while wide[1].steps < 300:
            await asyncio.sleep(0.01)
            most = max(most, len(set(wide[0].peer.answered.fetches.outgoing)))
        for task in tasks:
            task.cancel()

    tasks: list[asyncio.Task[None]] = []
    living(wide, scenario)
    assert 1 < most <= OUTGOING_MAX + 1  # one may be on its way out
    check_sane(wide)


def test_a_dead_holder_in_a_referral_is_passed_over() -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD, [f"p{i}" for i in range(8)])
    start = values(members[0].model).clone()

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 3 for m in members[1:]), 30.0)
        for index in (1, 2, 3):
            await kill(members[index], network, lives[index])
        before = [completed(m) for m in members]
        await until(lambda: all(completed(m) > b + 10 for m, b in zip(members[4:], before[4:], strict=True)), 20.0)

    living(members, scenario)
    for member in members[4:]:
        torch.testing.assert_close(values(member.model), start, rtol=0, atol=1e-2)
    check_sane(members)


HOSTILE_LEADERS = ("other origin", "not finite", "wrong length", "silence", "no loss")


def hostile_leader(way: str) -> Answer:
    async def answer(conversation: Conversation, message: Message) -> None:
        if isinstance(message, Tell):
            await conversation.send(Tell(id=message.id, peer="evil", run="test", step=1, loss=0.001))
        if not isinstance(message, Fetch):
            return
        origin = "b" if way == "other origin" else message.origin
        given = Given(id=message.id, origin=origin, step=1, loss=None if way == "no loss" else 0.001)
        vector = torch.full((ELEMENTS,), float("nan") if way == "not finite" else 1.0)
        if way == "wrong length":
            await conversation.send(given)
            await conversation.stream.send(CHUNK_HEADER.pack(2**32 - 1, 0))
        elif way == "silence":
            await conversation.send(given)
            await conversation.stream.send(CHUNK_HEADER.pack(ELEMENTS * 4, 0))
            await asyncio.sleep(1000.0)
        else:
            await conversation.run(give(given), Vectors(vector, vector))

    return answer


@pytest.mark.parametrize("way", HOSTILE_LEADERS)
def test_a_leader_that_gives_no_snapshot_worth_the_name_is_not_followed(way: str) -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD)
    for member in members:
        member.peer.judge_leaders(lambda snapshot: SnapshotLosses(1.0, 0.1, 1.0))
    start = values(members[0].model).clone()

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        evil = asyncio.ensure_future(be_member(network, "evil", hostile_leader(way), loss=0.001))
        await until(lambda: all(m.steps > 2500 for m in members), 100.0)
        evil.cancel()

    living(members, scenario)
    counted = {Outcome.REFUSED, Outcome.TIMEOUT, Outcome.BROKEN}
    for member in members[1:]:
        assert way == "no loss" or counted & set(member.peer.exchanges().by_outcome)
        torch.testing.assert_close(values(member.model), start, rtol=0, atol=1e-3)  # they followed the honest best
    if way in ("not finite", "no loss"):
        assert all("evil" in following_at(m.peer).disbelieved for m in members)
    check_sane(members)


def test_a_low_claim_is_held_against_a_snapshot_that_admits_to_be_bad() -> None:
    """It tells 0.001 to lead, and sends bad parameters with the bad loss that they give."""
    network = SimulatedNetwork()
    members = swarm(network, LSGD)
    for member in members:
        member.peer.judge_leaders(lambda s: SnapshotLosses(90.0 if s.origin == "evil" else 1.0, 0.1, 1.0))

    async def answer(conversation: Conversation, message: Message) -> None:
        if isinstance(message, Tell):
            await conversation.send(Tell(id=message.id, peer="evil", run="test", step=1, loss=0.001))
        elif isinstance(message, Fetch):
            vector = torch.full((ELEMENTS,), 50.0)
            given = Given(id=message.id, origin="evil", step=1, loss=100.0)
            await conversation.run(give(given), Vectors(vector, vector))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        evil = asyncio.ensure_future(be_member(network, "evil", answer, loss=0.001))
        await until(lambda: all(m.steps > 500 for m in members), 60.0)
        evil.cancel()

    living(members, scenario)
    for member in members:
        assert values(member.model).abs().max() < 10.0
        assert "claims a loss of 0.001" in leaders_of(member).disbelieved["evil"]
    check_sane(members)


def test_a_relay_that_changes_a_snapshot_harms_neither_followers_nor_the_leader() -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD)
    for member in members:
        member.peer.judge_leaders(lambda s: SnapshotLosses(9.0 if s.vector.max() > 40.0 else 1.0, 0.1, 1.0))
    start, lies = values(members[0].model).clone(), 0

    async def answer(conversation: Conversation, message: Message) -> None:
        nonlocal lies
        if isinstance(message, Fetch) and message.origin == "a":
            lies += 1
            vector = torch.full((ELEMENTS,), 50.0)
            given = Given(id=message.id, origin="a", step=2**52, loss=0.5)
            await conversation.run(give(given), Vectors(vector, vector))
        else:
            await keeps_quiet(conversation, message)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        tasks = [asyncio.ensure_future(be_member(network, f"evil{i}", answer)) for i in range(2)]
        tasks += [asyncio.ensure_future(greedy(network, f"evil{i}")()) for i in range(2)]
        await until(lambda: all(m.steps > 1500 for m in members), 60.0)
        for task in tasks:
            task.cancel()

    living(members, scenario)
    assert lies >= 3
    for member in members[1:]:
        torch.testing.assert_close(values(member.model), start, rtol=0, atol=1e-2)
        assert leaders_of(member).leader == "a"
        assert leaders_of(member).disbelieved == {}
    check_sane(members)


def test_a_newcomer_that_does_not_believe_its_first_leader_stays_one() -> None:
    network = SimulatedNetwork()
    liar = with_loss(build_member(network, "a", seed=0, policy=LSGD), 0.001)
    late = with_loss(build_member(network, "z", seed=1, policy=LSGD, newcomer=True, step_seconds=0.02), 1.0)
    late.peer.judge_leaders(lambda _snapshot: SnapshotLosses(9.0, 0.1, 1.0))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: "a" in leaders_of(late).disbelieved, 30.0)
        assert late.peer.memory().newcomer

    living([liar, late], scenario)
    assert torch.equal(values(late.model), values(tiny_model(1)))


def test_training_survives_a_network_that_ended_before_it() -> None:
    network = SimulatedNetwork()
    liar, other = (with_loss(build_member(network, n, seed=i, policy=LSGD), 0.1 + i) for i, n in enumerate("ab"))
    other.peer.judge_leaders(lambda _snapshot: SnapshotLosses(90.0, 0.1, 1.0))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        delivered = other.peer.parts.slot.deliver

        def deliver(*words: object, **more: object) -> None:
            delivered(*words, **more)  # type: ignore[arg-type]
            other.stopped = True

        other.peer.parts.slot.deliver = deliver  # type: ignore[method-assign]
        await until(lambda: other.stopped, 30.0)

    living([liar, other], scenario)
    other.peer.after_step()
    assert other.peer.exchanges().skipped["leader not believed"] == 1


# ---------------------------------------------------------------- the centre under attack


@pytest.mark.parametrize("seated", [True, False])
def test_a_member_that_claims_the_highest_stamp_and_vanishes_breaks_nobody(seated: bool) -> None:
    network = SimulatedNetwork()
    members = swarm(network, EASGD)
    claim = CentreClaim(stamp=Stamp(term=TERM_MAX, clock=CLOCK_MAX), seated=seated)

    async def answer(conversation: Conversation, message: Message) -> None:
        if isinstance(message, Offer):
            accept = Accept(
                id=message.id, peer="evil", schema_hash=SCHEMA, step=1, loss=None, weight=1.0, centre=claim.stamp
            )
            await conversation.send(accept)
            with_it = Vectors(torch.zeros(ELEMENTS), torch.empty(ELEMENTS))
            await conversation.run(only_transfer(), with_it)
            await conversation.receive((Verified,), 5.0)
            await conversation.send(Committed(id=message.id))

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 5 for m in members[1:]), 30.0)
        evil = asyncio.ensure_future(be_member(network, "evil", answer, centre=claim))
        await asyncio.sleep(5.0)
        assert centre_of(members[1]).holder == ("evil" if seated else "a")
        evil.cancel()
        await network.transport("evil").close()
        if not seated:
            await kill(members[0], network, lives[0])
        rest = members if seated else members[1:]
        await until(lambda: len({centre_of(m).holder for m in rest} - {None, "evil", "a" * (not seated)}) == 1, 30.0)
        before = [completed(m) for m in rest]
        await until(lambda: sum(completed(m) for m in rest) > sum(before) + 20, 20.0)
        assert not any(life.done() for life in lives[not seated :])

    living(members, scenario)
    check_sane(members)


def only_transfer() -> Generator[Transfer, object, None]:
    """The vectors of an exchange, in both directions, without the words before and after."""
    yield Transfer(send=True, receive=True)


def test_an_heir_that_never_claims_does_not_leave_the_run_without_a_centre() -> None:
    network = SimulatedNetwork()
    members = swarm(network, EASGD)
    claim = CentreClaim(stamp=Stamp(term=5, clock=10**9), seated=False)

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        evil = asyncio.ensure_future(be_member(network, "evil", keeps_quiet, centre=claim))
        await until(lambda: all(completed(m) > 5 for m in members[1:]), 30.0)
        await kill(members[0], network, lives[0])
        took = await until(lambda: len({centre_of(m).holder for m in members[1:]} - {None, "a"}) == 1, 30.0)
        assert took < 10.0
        assert sum(centre_of(m).here for m in members[1:]) == 1
        evil.cancel()

    living(members, scenario)
    check_sane(members)


def test_a_partner_that_stalls_the_centre_delays_it_only_and_leaks_no_place() -> None:
    network = SimulatedNetwork()
    members = swarm(network, EASGD)

    async def stall(name: str) -> None:
        while True:
            stream = await network.transport(name).open(record("a"))
            conversation = Conversation(stream, Limits())
            try:
                await conversation.send(offers(peer=name))
                await conversation.receive((Accept, Decline), 10.0)
                await asyncio.sleep(8.0)
            except ExchangeError:
                pass
            finally:
                stream.abort()
            await asyncio.sleep(2.0)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(members[1]) > 3, 30.0)
        evil = asyncio.ensure_future(stall("evil"))
        await asyncio.sleep(60.0)
        assert members[0].peer.exchanges().skipped["centre busy"] >= 1
        before = [completed(m) for m in members]
        evil.cancel()
        await until(lambda: all(completed(m) > b + 5 for m, b in zip(members[1:], before[1:], strict=True)), 60.0)
        assert all(m.steps > 4000 for m in members)

    living(members, scenario)
    check_sane(members)


# ---------------------------------------------------------------- sum weights


def test_huge_shares_do_not_end_a_peer() -> None:
    network = SimulatedNetwork()
    members = swarm(network, gossip("gosgd"))

    async def push(target: str, number: int) -> None:
        stream = await network.transport("evil").open(record(target))
        offer = offers(id=f"{number:032x}", share=SHARE_MAX)
        vectors = Vectors(torch.zeros(ELEMENTS), torch.empty(ELEMENTS))
        try:
            await Conversation(stream, Limits()).run(initiate(offer, Flow.PUSH), vectors)
        finally:
            await stream.close()

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        await asyncio.sleep(0.5)
        for number in range(12):
            await push("a", number)
            await asyncio.sleep(0.05)
        before = completed(members[0])
        await until(lambda: completed(members[0]) > before + 20, 30.0)
        assert not any(life.done() for life in lives)

    living(members, scenario)
    check_sane(members)


# ---------------------------------------------------------------- everything at once


@pytest.mark.parametrize(
    "policy",
    [gossip("gossip-pull"), gossip("gossip-push"), gossip("gosgd"), EASGD, LSGD],
    ids=["pull", "push", "gosgd", "centre", "leader"],
)
def test_faults_at_random_stop_nobody(policy: Policy) -> None:
    faults = Counter[str]()
    for seed in range(24):
        rng = random.Random(seed)
        actions = ("cut", "corrupt", "silence") if seed % 3 == 0 else ("cut", "corrupt")

        def judge(event: Event, rng: random.Random = rng, actions: tuple[str, ...] = actions) -> Verdict:
            if event.kind in ("open", "piece") and rng.random() < 0.03:
                return Verdict(rng.choice(actions))  # type: ignore[arg-type]
            return Verdict(seconds=rng.choice((0.001, 0.005, 0.05)))

        network = SimulatedNetwork(judge=judge)
        members = swarm(network, policy, NAMES[:3])
        run_virtual(run_members(members, steps=150))
        assert [m.steps for m in members] == [150] * 3
        faults.update(network.faults)
        check_sane(members)
        assert all(m.peer.exchange_state == IDLE for m in members)
    assert min(faults[action] for action in ("cut", "corrupt", "silence")) > 3


def test_a_run_with_a_period_that_is_no_multiple_does_both_in_turn() -> None:
    network = SimulatedNetwork()
    policy = LSGD._replace(schedule=Schedule(period=7), global_rule=LSGD.rule, global_period=10)
    members = swarm(network, policy, ["a", "b"])

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(m.steps > 700 for m in members), 60.0)

    living(members, scenario)
    assert leaders_of(members[1]).leader == leaders_of(members[1]).leader_of_all == "a"
    check_sane(members)
