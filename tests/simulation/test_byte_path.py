"""Codecs, fragments and several streams, with the production peer in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from helpers.swarm import Member, build_member, run_members, simulate, tiny_model, values
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.mailbox import OVERLAP_BYTES_MIN
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.protocol.framing import CHUNK_ELEMENTS, pack
from p2p_elastic.protocol.messages import Lane
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NAMES = ["a", "b", "c", "d"]


def end(members: list[Member]) -> Tensor:
    return torch.stack([values(m.model) for m in members])


def start(count: int = 4) -> Tensor:
    return torch.stack([values(tiny_model(i)) for i in range(count)])


def count(members: list[Member], outcome: Outcome) -> int:
    return sum(m.peer.exchanges().by_outcome.get(outcome, 0) for m in members)


def wide(value: float, elements: int = 3 * CHUNK_ELEMENTS + 7) -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(torch.full((elements,), value))
    return model


def two(network: SimulatedNetwork, make: Callable[[float], nn.Module] = wide, **options: object) -> list[Member]:
    """Two peers of which the first asks every ten steps."""
    schedules = Schedule(period=10), Schedule(probability=0.0)
    return [
        build_member(network, name, model=make(value), schedule=schedule, **options)  # type: ignore[arg-type]
        for name, value, schedule in zip("ab", (1.0, 3.0), schedules, strict=True)
    ]


def run(members: list[Member], steps: int = 40) -> list[Member]:
    async def main() -> None:
        await run_members(members, steps=steps)

    run_virtual(main())
    return members


@pytest.mark.parametrize("fragments", [1, 5])
@pytest.mark.parametrize("codec", ["none", "float16", "bfloat16", "int8", "auto"])
def test_whatever_travels_the_sum_stays_and_all_come_together(codec: str, fragments: int) -> None:
    members = simulate(SimulatedNetwork(), NAMES, moving_rate=0.3, codec=codec, fragments=fragments, steps=1500)
    assert count(members, Outcome.COMPLETED) > 600
    assert not count(members, Outcome.REFUSED)
    torch.testing.assert_close(end(members).sum(dim=0), start().sum(dim=0), rtol=0, atol=1e-5)
    assert end(members).std(dim=0).max() < (0.03 if codec in ("bfloat16", "int8") else 2e-3) * start().std(dim=0).max()


@pytest.mark.parametrize("rule", ["gossip-pull", "gossip-push", "easgd"])
@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_every_rule_that_has_fragments_brings_all_of_the_vector_together(rule: str, weighting: str) -> None:
    method = find_method(rule)
    policy = Policy(
        rule_of(method, 0.3, weighting),  # type: ignore[arg-type]
        Schedule(probability=1 / 4),
        topology=method.topology,
        flow=method.flow,
        weighting=weighting,  # type: ignore[arg-type]
    )
    members = simulate(SimulatedNetwork(), NAMES, policy=policy, codec="float16", fragments=4, steps=2000)
    assert count(members, Outcome.COMPLETED) > 300
    near = 0.05 if weighting == "fixed" else 0.1  # they begin too far apart to be followed at once
    assert end(members).std(dim=0).max() < near * start().std(dim=0).max()


def test_a_fragment_is_all_that_travels_and_all_that_moves() -> None:
    sent: Counter[str] = Counter()

    def counted(event: Event) -> Verdict:
        if event.kind == "piece":
            sent[event.source] += event.nbytes
        return Verdict()

    members = two(SimulatedNetwork(judge=counted), fragments=4)
    members[1].stopped = False
    before = 4 * (3 * CHUNK_ELEMENTS + 7)

    async def main() -> tuple[int, Tensor]:
        tasks = [asyncio.ensure_future(m.peer.run()) for m in members]
        for member in members:
            await member.peer.announce()
        for member in members:
            await member.peer.refresh()
        await asyncio.gather(*(m.train(19) for m in members))
        moved = values(members[0].model)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sum(sent.values()), moved

    total, moved = run_virtual(main())
    assert count(members, Outcome.COMPLETED) == 2  # one exchange, seen from both ends
    assert total < 2 * before / 4 + 20_000
    assert int((moved == 2.0).sum()) in (before // 16, before // 16 + 1)
    assert int((moved == 1.0).sum()) == len(moved) - int((moved == 2.0).sum())


def test_several_streams_share_the_chunks_of_one_exchange() -> None:
    opened: Counter[str] = Counter()

    def counted(event: Event) -> Verdict:
        opened[event.source] += event.kind == "open"
        return Verdict()

    members = run(two(SimulatedNetwork(judge=counted), streams=3))
    assert count(members, Outcome.COMPLETED) >= 4
    assert opened["a"] >= 3 * count(members[:1], Outcome.COMPLETED)
    assert not opened["b"]
    assert torch.equal(values(members[0].model), torch.full((3 * CHUNK_ELEMENTS + 7,), 2.0))
    assert torch.equal(values(members[0].model), values(members[1].model))


def test_far_away_several_streams_are_used_once_the_round_trip_is_known() -> None:
    streams: list[int] = []

    def far(event: Event) -> Verdict:
        if event.kind == "open" and event.source == "a":
            streams.append(round(event.now, 6))
        return Verdict(seconds=0.05)

    members = two(SimulatedNetwork(judge=far), lambda value: wide(value, 2**21))
    run(members, 400)
    exchanges = count(members[:1], Outcome.COMPLETED)
    assert exchanges >= 2
    assert len(streams) >= 1 + 8 * (exchanges - 1)  # the first one with one stream, the next with eight


def test_a_stream_that_breaks_in_the_middle_costs_the_exchange_and_nothing_else() -> None:
    broken: list[Event] = []

    def cut(event: Event) -> Verdict:
        if event.kind == "piece" and event.nbytes > 1000 and len(broken) < 3:
            broken.append(event)
            if len(broken) == 3:
                return Verdict("cut")
        return Verdict()

    network = SimulatedNetwork(judge=cut)
    members = run(two(network, streams=2))
    assert network.faults["cut"] == 1
    assert count(members, Outcome.BROKEN) + count(members, Outcome.UNREACHABLE) >= 1
    assert count(members, Outcome.COMPLETED) >= 2
    assert torch.equal(values(members[0].model) + values(members[1].model), torch.full((3 * CHUNK_ELEMENTS + 7,), 4.0))


def test_a_snapshot_that_was_partly_overwritten_is_not_offered_to_another() -> None:
    cuts: list[Event] = []

    def cut(event: Event) -> Verdict:  # in the middle of the first vectors
        if event.kind == "piece" and event.nbytes > 1000 and event.number >= 4 and not cuts:
            cuts.append(event)
            return Verdict("cut")
        return Verdict()

    network = SimulatedNetwork(judge=cut)
    members = [
        build_member(network, name, model=wide(value), schedule=Schedule(probability=0.1), seed=i)
        for i, (name, value) in enumerate(zip("abc", (0.0, 3.0, 6.0), strict=True))
    ]
    run(members, 300)
    assert network.faults["cut"] == 1
    assert count(members, Outcome.COMPLETED) > 10
    total = sum(values(m.model) for m in members)
    torch.testing.assert_close(total, torch.full_like(total, 9.0), rtol=0, atol=1e-4)


def test_a_newcomer_copies_all_of_the_vector_whatever_the_fragments() -> None:
    network = SimulatedNetwork()
    old = [build_member(network, name, model=wide(3.0), fragments=4, seed=i) for i, name in enumerate("ab")]
    new = build_member(network, "n", model=wide(0.0), fragments=4, newcomer=True, seed=9)

    async def main() -> None:
        life = asyncio.ensure_future(run_members(old, steps=1000))
        await asyncio.sleep(2.5)  # until their records say how far they are
        await run_members([new], steps=500)
        await life

    run_virtual(main())
    assert torch.equal(values(new.model), torch.full((3 * CHUNK_ELEMENTS + 7,), 3.0))


def test_who_trained_alone_exchanges_as_the_run_does_that_it_adopts() -> None:
    network = SimulatedNetwork()
    old = [build_member(network, name, seed=i, codec="float16", fragments=3) for i, name in enumerate("ab")]
    late = build_member(network, "n", run="alone", seed=9)

    def found(_model: nn.Module) -> None:
        if late.steps == 100:
            policy = Policy(elastic(0.5), Schedule(probability=1 / 8))
            late.peer.adopt("test", policy, codec="float16", fragments=3)

    late.on_step = found
    run([*old, late], 1000)
    totals = late.peer.exchanges()
    assert totals.by_outcome[Outcome.COMPLETED] > 50
    assert set(totals.declined_by_us) | set(totals.declined_by_partner) <= {"busy", "leaving", "not-training"}


def test_nan_in_a_fragment_run_is_healed_as_a_whole() -> None:
    network = SimulatedNetwork()
    members = [build_member(network, name, seed=i, fragments=4) for i, name in enumerate(NAMES)]

    def spoil(model: nn.Module) -> None:
        if members[0].steps == 200:
            for parameter in model.parameters():
                parameter.data.fill_(float("nan"))

    members[0].on_step = spoil
    run(members, 800)
    assert members[0].replaced >= 1
    assert bool(torch.isfinite(end(members)).all())


def test_streams_that_nobody_awaits_are_refused_and_counted() -> None:
    network = SimulatedNetwork()

    async def main() -> Member:
        member = build_member(network, "a", schedule=Schedule(probability=0.0))
        life, training = asyncio.ensure_future(member.peer.run()), asyncio.ensure_future(member.train(500))
        await asyncio.sleep(0.1)
        record = PeerRecord(
            peer="a", run="test", schema_hash=ParameterVector(member.model).schema_hash, addresses=(), step=1, loss=1.0,
            weight=1.0, sequence=1,
        )  # fmt: skip
        for _ in range(20):
            stream = await network.transport("evil").open(record)
            await stream.send(pack(Lane(id="f" * 32, number=1)))
        await training
        life.cancel()
        return member

    member = run_virtual(main())
    assert sum(member.peer.streams_refused().values()) == 20


def test_a_lane_that_never_comes_ends_in_a_timeout_and_frees_the_peer() -> None:
    lost: list[Event] = []

    def lose(event: Event) -> Verdict:
        if event.kind == "open" and event.number == 0 and len(lost) < 2:
            lost.append(event)
            if len(lost) == 2:  # the second stream of the first exchange
                return Verdict("cut")
        return Verdict()

    network = SimulatedNetwork(judge=lose)
    members = run(two(network, streams=2, limits=Limits(header_seconds=0.2)), 200)
    assert network.faults["cut"] == 1
    assert count(members[1:], Outcome.COMPLETED) >= 2


LARGE = OVERLAP_BYTES_MIN // 4 + 7


@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
@pytest.mark.parametrize("breaks", [0, 1])
def test_a_large_snapshot_that_is_not_finite_is_taken_back_and_looked_at_from_then_on(
    breaks: int, weighting: str
) -> None:
    policy = Policy(elastic(0.5), Schedule(period=10), weighting=weighting)  # type: ignore[arg-type]
    members = two(SimulatedNetwork(), lambda value: wide(value, LARGE), policy=policy)
    broken = members[breaks]

    def on_step(model: nn.Module) -> None:
        if broken.steps == 25:
            with torch.no_grad():
                model.weight[:] = math.nan  # type: ignore[index]

    broken.on_step = on_step
    run(members, steps=120)
    totals = [member.peer.exchanges().by_outcome for member in members]
    assert totals[breaks][Outcome.BROKEN] == 1
    assert all(total[Outcome.COMPLETED] >= 4 for total in totals)
    assert all(bool(values(member.model).isfinite().all()) for member in members)
    assert all(member.state == "alive" for peer in members for member in peer.peer.members())
