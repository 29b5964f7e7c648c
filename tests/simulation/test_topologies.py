"""Centre and leader in virtual time: the production peer, its elections, relays and disbelief. Faults are counted."""

from __future__ import annotations

import asyncio

import pytest
import torch
from helpers.swarm import Member, begin_as_equals, build_member, centre_at, run_members, tiny_model, values
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
from torch import Tensor

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.centre.variable import Given
from p2p_elastic.peers.exchange.slot import IDLE
from p2p_elastic.peers.exchange.snapshots import SnapshotLosses
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.pairwise import follow
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.rules.trial import Trial
<<<<<<< HEAD:tests/simulation/test_topologies.py
from p2p_elastic.testing.virtual_network import Event, SimulatedNetwork, Verdict
=======
from p2p_elastic.status.schema import CentreStatus, LeaderStatus
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
>>>>>>> 406a3933d6cfe34edb57f57de8c7341046ae15b7:tests/scenarios/test_topologies.py
from p2p_elastic.testing.virtual_time import run_virtual


def swarm(network: SimulatedNetwork, policy: Policy, names: list[str], **options: object) -> list[Member]:
    """One member per name, each with its own start; the first is the founder."""
    return [
        build_member(network, name, seed=i, policy=policy, newcomer=i > 0, **options)  # type: ignore[arg-type]
        for i, name in enumerate(names)
    ]


def agreed(members: list[Member]) -> str | None:
    """Whom all of them take for the centre; None where they differ."""
    holders = {centre_of(m).holder for m in members}
    return holders.pop() if len(holders) == 1 else None


# ---------------------------------------------------------------- gossip one way


def test_pull_gossip_moves_the_asker_only_and_brings_consensus() -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [  # with a vector that is longer than the headers
            build_member(network, n, model=tiny_model(i, width=16), seed=i, policy=gossip("gossip-pull"))
            for i, n in enumerate(NAMES)
        ]
        await run_members(members, steps=300)
        return members

    members = run_virtual(main())
    ends = torch.stack([values(m.model) for m in members])
    size, offer = ParameterVector(members[0].model).nbytes, 400  # at most; with a vector it would be more
    assert ends.std(dim=0).max() < 1e-3
    for member in members:
        totals = member.peer.exchanges()
        initiated = [r for r in member.peer.last_exchanges() if r.initiated and r.outcome is Outcome.COMPLETED]
        answered = [r for r in member.peer.last_exchanges() if not r.initiated and r.outcome is Outcome.COMPLETED]
        assert totals.by_outcome[Outcome.COMPLETED] > 30
        assert all(r.bytes_received > size and r.bytes_sent < offer and r.distance is not None for r in initiated)
        assert all(r.bytes_sent > size and r.bytes_received < offer and r.distance is None for r in answered)


def test_push_gossip_moves_the_one_that_was_asked() -> None:
    network = SimulatedNetwork()
    quiet = gossip("gossip-push")._replace(schedule=Schedule(probability=0.0))

    async def main() -> tuple[Member, Member]:
        a = build_member(network, "a", seed=0, policy=gossip("gossip-push")._replace(schedule=Schedule(period=50)))
        b = build_member(network, "b", seed=1, policy=quiet)
        await run_members([a, b], steps=60)
        return a, b

    a, b = run_virtual(main())
    first, second = values(tiny_model(0)), values(tiny_model(1))
    assert completed(a) == completed(b) == 1
    assert torch.equal(values(a.model), first)
    torch.testing.assert_close(values(b.model), (first + second) / 2, rtol=0, atol=1e-6)


def test_sum_weights_survive_cut_streams_and_keep_the_weighted_mean() -> None:
    rolls = iter(range(10**9))

    def judge(event: Event) -> Verdict:
        return Verdict("cut") if event.kind == "piece" and next(rolls) % 41 == 0 else Verdict()

    network = SimulatedNetwork(judge=judge)

    async def main() -> list[Member]:
        members = [build_member(network, n, seed=i, policy=gossip("gosgd")) for i, n in enumerate(NAMES)]
        await run_members(members, steps=400)
        return members

    members = run_virtual(main())
    shares = [m.peer.memory().rule for m in members]
    ends = torch.stack([values(m.model) for m in members])
    start = torch.stack([values(tiny_model(i)) for i in range(4)])
    assert network.faults["cut"] > 20
    assert sum(m.peer.exchanges().by_outcome.get(Outcome.HALF, 0) for m in members) == 0
    assert sum(shares) == pytest.approx(4.0, rel=1e-12)
    weighted = (torch.tensor(shares)[:, None] * ends).sum(dim=0) / 4
    torch.testing.assert_close(weighted, start.mean(dim=0), rtol=0, atol=2e-6)


# ---------------------------------------------------------------- the centre variable


def test_a_founder_that_trains_is_the_centre_and_the_sum_with_the_centre_is_conserved() -> None:
    network = SimulatedNetwork()

    async def main() -> tuple[list[Member], Tensor]:
        members = [build_member(network, n, seed=i, policy=EASGD, newcomer=i > 0) for i, n in enumerate(NAMES)]
        begin_as_equals(members)
        before = sum(values(m.model) for m in members) + members[0].peer.centre_value()  # type: ignore[operator]
        await run_members(members, steps=400)
        return members, before

    members, before = run_virtual(main())
    centre = members[0].peer.centre_value()
    assert centre is not None
    after = sum(values(m.model) for m in members) + centre
    assert {centre_of(m).holder for m in members} <= {"a", None}  # it said goodbye to some of them, too
    assert [centre_of(m).here for m in members] == [True, False, False, False]
    assert centre_of(members[0]).exchanges > 200
    torch.testing.assert_close(after, before, rtol=0, atol=5e-6)
    for member in members:
        torch.testing.assert_close(values(member.model), centre, rtol=0, atol=1e-3)


def test_a_newcomer_copies_the_centre_and_does_not_disturb_it() -> None:
    network = SimulatedNetwork()
    members = swarm(network, EASGD, ["a"])
    seen: list[Tensor] = []

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await asyncio.sleep(3.0)
        before = members[0].peer.centre_value()
        assert before is not None
        late = build_member(network, "late", seed=9, policy=EASGD, newcomer=True)
        life, training = asyncio.ensure_future(late.peer.run()), asyncio.ensure_future(late.train(10**9))
        await until(lambda: completed(late) >= 1 and late.peer.weight == 1.0, 10.0)
        await asyncio.sleep(0.05)
        seen.extend([before, values(late.model)])
        for task in (life, training):
            task.cancel()

    living(members, scenario)
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=1e-3)


def test_the_centre_killed_twice_moves_on_and_keeps_its_value() -> None:
    network = SimulatedNetwork()
    members = swarm(network, EASGD, NAMES)
    gone: list[str] = []
    took: list[float] = []

    async def kill_centre(lives: list[asyncio.Task[None]]) -> None:
        rest = [m for m in members if m.peer.peer not in gone]
        centre = next(m for m in rest if centre_of(m).here)
        value, clock = centre.peer.centre_value(), centre_of(centre).exchanges
        gone.append(centre.peer.peer)
        await kill(centre, network, lives[members.index(centre)])
        rest.remove(centre)
        took.append(await until(lambda: agreed(rest) not in (None, *gone), 30.0))
        heir = next(m for m in rest if centre_of(m).here)
        assert all(centre_of(m).holder == heir.peer.peer for m in rest)
        assert centre_of(heir).exchanges >= clock - 2  # the freshest copy
        inherited = heir.peer.centre_value()
        assert value is not None
        assert inherited is not None
        torch.testing.assert_close(inherited, value, rtol=0, atol=1e-2)
        before = [completed(m) for m in rest]
        await until(lambda: all(completed(m) > b + 3 for m, b in zip(rest, before, strict=True)), 10.0)

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 20 for m in members), 30.0)
        await kill_centre(lives)
        await kill_centre(lives)
        left = [m for m in members if m.peer.peer not in gone]
        assert len(left) == 2
        assert sorted(centre_of(m).term for m in left) == [3, 3]
        assert all(m.steps > 100 for m in left)

    living(members, scenario)
    assert gone[0] == "a"
    assert max(took) < 5.0  # five announce intervals


def test_a_standby_that_does_not_train_keeps_a_fresh_copy_and_takes_over() -> None:
    network = SimulatedNetwork()
    rarely = EASGD._replace(schedule=Schedule(period=2000))  # the others' copies are older
    members = [*swarm(network, EASGD, ["a"]), *swarm(network, rarely, ["x", "b", "c"])[2:]]
    standby = build_member(network, "s", seed=0, policy=EASGD, newcomer=True, standby=True)

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        life = asyncio.ensure_future(standby.peer.run())
        await until(lambda: centre_of(standby).exchanges > 100, 60.0)
        value = members[0].peer.centre_value()
        assert value is not None
        await kill(members[0], network, lives[0])
        await until(lambda: agreed([standby, *members[1:]]) == "s", 30.0)
        inherited = standby.peer.centre_value()
        assert inherited is not None
        torch.testing.assert_close(inherited, value, rtol=0, atol=5e-2)
        before = [completed(m) for m in members[1:]]
        await until(lambda: all(completed(m) > b for m, b in zip(members[1:], before, strict=True)), 60.0)
        assert standby.steps == 0
        life.cancel()

    living(members, scenario)


def test_a_centre_that_was_only_silent_steps_down_for_its_successor() -> None:
    cut_off = {"a": False}

    def judge(event: Event) -> Verdict:
        return Verdict("cut") if cut_off["a"] and "a" in (event.source, event.target) else Verdict()

    network = SimulatedNetwork(judge=judge)
    members = swarm(network, EASGD, NAMES)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 10 for m in members), 30.0)
        cut_off["a"] = True
        await until(lambda: any(centre_of(m).here for m in members[1:]), 10.0)
        assert centre_of(members[0]).here  # it does not know yet
        cut_off["a"] = False
        await until(lambda: not centre_of(members[0]).here, 10.0)
        before = completed(members[0])
        await until(lambda: completed(members[0]) > before + 3, 10.0)
        assert len({centre_of(m).holder for m in members}) == 1

    living(members, scenario)
    assert network.faults["cut"] > 5


def test_alone_nobody_makes_itself_the_centre() -> None:
    network = SimulatedNetwork()
    members = swarm(network, EASGD, ["a", "b"])

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(members[1]) > 3, 30.0)
        await kill(members[0], network, lives[0])
        steps = members[1].steps
        await asyncio.sleep(90.0)
        assert not centre_of(members[1]).here
        assert members[1].steps > steps + 1000

    living(members, scenario)


def test_a_centre_given_up_while_an_earlier_one_is_handed_over_is_not_forgotten() -> None:
    network = SimulatedNetwork(judge=lambda event: Verdict(seconds=0.2 if event.kind == "piece" else 0.001))
    members = swarm(network, EASGD, ["a", "b"])

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: centre_of(members[1]).holder == "a", 10.0)
        centre = centre_at(members[1].peer)
        second = Given(centre.value + 1.0, Stamp(term=1, clock=9))
        centre.given = Given(centre.value, Stamp(term=1, clock=3))
        handing = asyncio.ensure_future(members[1].peer.parts.run.topology.attend())
        await asyncio.sleep(0.1)
        centre.given = second  # it had been the centre again for a moment
        await handing
        assert centre.given is second

    living(members, scenario)


def test_who_joins_a_run_while_it_meets_its_own_centre_is_a_newcomer_there() -> None:
    # The move that came of it ended that: what it had learnt alone counted at once, and nobody was copied.
    examining = asyncio.Event()

    async def examine(_theirs: Tensor, _ours: Tensor) -> Trial:
        examining.set()
        await asyncio.sleep(0.5)
        return Trial(1.0, 1.0, 0.0)

    network, policy = SimulatedNetwork(), EASGD._replace(weighting="dynamic")
    (alone,) = swarm(network, policy, ["a"])
    alone.peer.examine_with(examine)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await examining.wait()
        alone.peer.adopt("other", policy, codec="none", fragments=1)
        await asyncio.sleep(1.0)
        assert alone.peer.memory().newcomer
        assert alone.peer.exchange_state == IDLE

    living([alone], scenario)


# ---------------------------------------------------------------- leaders


def test_everybody_follows_the_lowest_loss_and_the_leader_sends_few_copies() -> None:
    network = SimulatedNetwork()
    names = [f"p{i}" for i in range(8)]
    members = [
        with_loss(
            build_member(network, name, policy=LSGD, model=tiny_model(i, width=80), seed=i, newcomer=i > 0), 1.0 + i
        )
        for i, name in enumerate(names)
    ]
    start = values(members[0].model).clone()

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(m.steps > 600 for m in members), 60.0)

    living(members, scenario)
    leader, size = members[0], ParameterVector(members[0].model).nbytes
    published = leaders_of(leader).snapshots_published
    assert [leaders_of(m).leader for m in members] == ["p0"] * 8
    assert published > 40
    assert torch.equal(values(leader.model), start)
    for member in members[1:]:
        torch.testing.assert_close(values(member.model), start, rtol=0, atol=1e-4)
    assert leader.peer.exchanges().bytes_sent < 3 * size * published
    relayed = sum(m.peer.exchanges().bytes_sent for m in members[1:])
    assert relayed > 3 * size * published  # the others' copies came from each other


def test_a_leader_that_dies_is_replaced_by_the_next_best() -> None:
    network = SimulatedNetwork()
    members = [with_loss(m, 1.0 + i) for i, m in enumerate(swarm(network, LSGD, NAMES))]

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(leaders_of(m).leader == "a" for m in members), 30.0)
        await kill(members[0], network, lives[0])
        took = await until(lambda: all(leaders_of(m).leader == "b" for m in members[1:]), 10.0)
        assert took < 5.0
        before = completed(members[3])
        await until(lambda: completed(members[3]) > before + 3, 10.0)

    living(members, scenario)


def test_a_loss_that_is_not_finite_never_leads() -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD, NAMES)
    for member, loss in zip(members, [float("nan"), float("-inf"), 2.0, 3.0], strict=True):
        with_loss(member, loss)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(m.steps > 300 for m in members), 60.0)

    living(members, scenario)
    assert [leaders_of(m).leader for m in members] == ["c"] * 4


def test_a_leader_that_lies_low_is_not_followed_and_the_reason_is_said() -> None:
    network = SimulatedNetwork()
    members = swarm(network, LSGD, NAMES)
    for member, loss in zip(members, [0.001, 1.0, 1.1, 1.2], strict=True):
        with_loss(member, loss)
    with torch.no_grad():
        members[0].model.weight.fill_(50.0)  # type: ignore[operator, union-attr]
    truth = {"a": 9.0, "b": 1.0, "c": 1.1, "d": 1.2}
    for member in members:
        own = truth[member.peer.peer]
        member.peer.judge_leaders(lambda snapshot, own=own: SnapshotLosses(truth[snapshot.origin], 0.1, own))  # type: ignore[misc]

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(m.steps > 500 for m in members), 60.0)

    living(members, scenario)
    assert [leaders_of(m).leader for m in members] == ["a", "b", "b", "b"]
    for member in members[1:]:
        assert values(member.model).abs().max() < 10.0
        assert "claims a loss of 0.001, its parameters give 9" in leaders_of(member).disbelieved["a"]
        assert member.peer.exchanges().skipped["leader not believed"] >= 1


def test_groups_follow_their_own_leader_and_now_and_then_the_best_of_all() -> None:
    network = SimulatedNetwork()
    apart = LSGD._replace(global_rule=follow(0.0), global_period=50)
    members = [
        with_loss(build_member(network, n, seed=i, policy=apart, newcomer=i > 0, group=g), 1.0 + i)
        for i, (n, g) in enumerate([("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")])
    ]
    start = [values(m.model).clone() for m in members]

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        begin_as_equals(members)
        await until(lambda: all(m.steps > 500 for m in members), 60.0)

    living(members, scenario)
    assert [leaders_of(m).leader for m in members] == ["a", "a", "c", "c"]
    assert [leaders_of(m).leader_of_all for m in members] == ["a"] * 4
    torch.testing.assert_close(values(members[1].model), start[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(values(members[3].model), start[2], rtol=0, atol=1e-4)
    assert torch.equal(values(members[2].model), start[2])
