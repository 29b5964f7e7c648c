"""The production peer in virtual time, under faults of the network. Each test counts the faults it injected."""

from __future__ import annotations

import asyncio

import pytest
import torch
from helpers.swarm import Member, build_member, run_members, simulate, tiny_model, values
from helpers.topologies import seeded
from torch import Tensor, nn

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.protocol.framing import CHUNK_HEADER, MESSAGE_HEADER, chunk_header, pack
from p2p_elastic.protocol.messages import Offer, Verified
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import SimulationDeadlock, run_virtual

NAMES = ["a", "b", "c", "d"]


def start(count: int = 4) -> Tensor:
    return torch.stack([values(tiny_model(i)) for i in range(count)])


def end(members: list[Member]) -> Tensor:
    return torch.stack([values(m.model) for m in members])


def count(members: list[Member], outcome: Outcome) -> int:
    return sum(m.peer.exchanges().by_outcome.get(outcome, 0) for m in members)


def test_a_quiet_network_conserves_the_sum_and_brings_consensus() -> None:
    members = simulate(SimulatedNetwork(), NAMES, moving_rate=0.3)
    assert count(members, Outcome.COMPLETED) > 200
    torch.testing.assert_close(end(members).sum(dim=0), start().sum(dim=0), rtol=0, atol=2e-6)
    assert end(members).std(dim=0).max() < 1e-3 * start().std(dim=0).max()


def test_the_same_seed_gives_the_same_bits() -> None:
    def once() -> tuple[Tensor, list[dict[Outcome, int]]]:
        network = SimulatedNetwork(judge=seeded(3, 0.05, Verdict("cut")))
        members = simulate(network, NAMES, moving_rate=0.3)
        return end(members), [m.peer.exchanges().by_outcome for m in members]

    (first, counts), (second, again) = once(), once()
    assert torch.equal(first, second)
    assert counts == again


def test_cut_streams_are_counted_and_nobody_moves_alone() -> None:
    network = SimulatedNetwork(judge=seeded(1, 0.03, Verdict("cut")))
    members = simulate(network, NAMES, moving_rate=0.3)
    assert network.faults["cut"] > 20
    assert count(members, Outcome.BROKEN) + count(members, Outcome.UNREACHABLE) > 10
    assert count(members, Outcome.COMPLETED) > 100
    assert count(members, Outcome.HALF) == 0
    torch.testing.assert_close(end(members).sum(dim=0), start().sum(dim=0), rtol=0, atol=2e-6)


def test_corrupted_bytes_never_reach_the_parameters() -> None:
    network = SimulatedNetwork(judge=seeded(2, 0.05, Verdict("corrupt")))
    members = simulate(network, NAMES, moving_rate=0.3)
    assert network.faults["corrupt"] > 20
    assert count(members, Outcome.REFUSED) > 5
    assert count(members, Outcome.COMPLETED) > 50
    torch.testing.assert_close(end(members).sum(dim=0), start().sum(dim=0), rtol=0, atol=2e-6)


def test_silence_ends_in_a_timeout_and_the_run_goes_on() -> None:
    network = SimulatedNetwork(judge=seeded(4, 0.01, Verdict("silence")))
    members = simulate(network, NAMES, moving_rate=0.3, steps=3000)
    assert network.faults["silence"] > 5
    assert count(members, Outcome.TIMEOUT) > 0
    assert count(members, Outcome.COMPLETED) > 50
    torch.testing.assert_close(end(members).sum(dim=0), start().sum(dim=0), rtol=0, atol=2e-6)


def test_a_slow_network_delays_moves_and_stops_nobody() -> None:
    network = SimulatedNetwork(judge=lambda event: Verdict(seconds=0.2))
    members = simulate(network, NAMES, moving_rate=0.3)
    assert [m.steps for m in members] == [400] * 4
    assert all(r.staleness is None or r.staleness >= 1 for m in members for r in m.peer.last_exchanges())
    torch.testing.assert_close(end(members).sum(dim=0), start().sum(dim=0), rtol=0, atol=2e-6)


def test_a_lost_last_word_is_asked_for_and_both_ends_move_once() -> None:
    lost = []

    def lose_committed(event: Event) -> Verdict:
        # From the responder b: its Accept, then header and chunk of its vector, then Committed.
        if event.source == "b" and event.kind == "piece" and event.number == 3 and not lost:
            lost.append(event)
            return Verdict("cut")
        return Verdict()

    network = SimulatedNetwork(judge=lose_committed)

    async def main() -> list[Member]:
        a = build_member(network, "a", seed=0, schedule=Schedule(period=50))
        b = build_member(network, "b", seed=1, schedule=Schedule(probability=0.0))
        await run_members([a, b], steps=60)
        return [a, b]

    members = run_virtual(main())
    assert network.faults == {"cut": 1}
    assert len(lost) == 1
    assert [m.peer.exchanges().by_outcome for m in members] == [{Outcome.COMPLETED: 1}] * 2
    torch.testing.assert_close(end(members)[0], end(members)[1], rtol=0, atol=1e-7)
    torch.testing.assert_close(end(members).sum(dim=0), start(2).sum(dim=0), rtol=0, atol=1e-6)


def test_a_last_word_that_never_comes_is_a_half_exchange() -> None:
    def silence_after_commit(event: Event) -> Verdict:
        gone = event.source == "b" and event.kind == "piece" and event.number >= 3
        return Verdict("cut") if gone or (event.kind == "open" and event.now > 0.56) else Verdict()

    network = SimulatedNetwork(judge=silence_after_commit)

    async def main() -> list[Member]:
        a = build_member(network, "a", seed=0, schedule=Schedule(period=50))
        b = build_member(network, "b", seed=1, schedule=Schedule(probability=0.0))
        await run_members([a, b], steps=60)
        return [a, b]

    a, b = run_virtual(main())
    assert a.peer.exchanges().by_outcome == {Outcome.HALF: 1}
    assert b.peer.exchanges().by_outcome == {Outcome.COMPLETED: 1}
    assert torch.equal(values(a.model), start(2)[0])


def test_a_partition_splits_the_swarm_and_healing_merges_it() -> None:
    halves = {"a": 0, "b": 0, "c": 1, "d": 1}

    def partition(event: Event) -> Verdict:
        crosses = event.kind != "announce" and halves[event.source] != halves[event.target]
        return Verdict("cut") if crosses and 1.0 < event.now < 3.0 else Verdict()

    network, spread = SimulatedNetwork(judge=partition), []

    async def main() -> list[Member]:
        members = [build_member(network, name, seed=i, moving_rate=0.3) for i, name in enumerate(NAMES)]
        for i, member in enumerate(members):  # something to learn that differs between the halves
            drift = 0.001 if halves[NAMES[i]] else -0.001
            member.on_step = lambda model, drift=drift: _shift(model, drift)

        async def watch() -> None:
            for now in (0.9, 2.9, 6.0):
                await asyncio.sleep(now - asyncio.get_running_loop().time())
                ends = end(members).mean(dim=1)
                spread.append(float((ends[:2].mean() - ends[2:].mean()).abs()))

        watching = asyncio.ensure_future(watch())
        await run_members(members, steps=600)
        await watching
        return members

    members = run_virtual(main())
    before, split, healed = spread
    assert network.faults["cut"] > 10
    assert split > 5 * max(before, healed)
    assert count(members, Outcome.COMPLETED) > 100


def test_a_peer_whose_training_begins_before_its_network_exchanges_once_that_is_there() -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [build_member(network, n, seed=i, schedule=Schedule(period=1)) for i, n in enumerate("ab")]
        members[0].peer.after_step()  # due, and nobody there to take the snapshot
        await run_members(members, steps=100)
        return members

    assert all(m.peer.exchanges().by_outcome[Outcome.COMPLETED] > 10 for m in run_virtual(main()))


def _shift(model: nn.Module, drift: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(drift)


def break_parameters(member: Member) -> None:
    ParameterVector(member.model).load_(torch.full_like(values(member.model), float("nan")))


def test_a_peer_with_broken_parameters_is_healed_by_one_exchange_that_moves_nobody_else() -> None:
    network, quiet = SimulatedNetwork(), Schedule(probability=0.0)

    async def main() -> list[Member]:
        members = [build_member(network, n, seed=i, schedule=quiet, moving_rate=0.3) for i, n in enumerate(NAMES[:3])]
        members.append(build_member(network, "d", seed=3, schedule=Schedule(period=20), moving_rate=0.3))
        break_parameters(members[3])
        await run_members(members, steps=39)
        return members

    members = run_virtual(main())
    broken = members[3]
    assert broken.peer.exchanges().by_outcome == {Outcome.COMPLETED: 1}
    assert torch.equal(end(members[:3]), start(3))
    assert any(torch.equal(values(broken.model), values(other.model)) for other in members[:3])
    assert [m.replaced for m in members] == [0, 0, 0, 1]


def test_a_peer_with_broken_parameters_is_healed_by_whoever_asks_it_and_moves_it_not() -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        a = build_member(network, "a", seed=0, schedule=Schedule(period=20), moving_rate=0.3)
        b = build_member(network, "b", seed=1, schedule=Schedule(probability=0.0), moving_rate=0.3)
        break_parameters(b)
        await run_members([a, b], steps=39)
        return [a, b]

    a, b = run_virtual(main())
    assert torch.equal(values(a.model), start(1)[0])
    assert torch.equal(values(b.model), values(a.model))
    assert (a.replaced, b.replaced) == (0, 1)


def test_where_a_broken_peer_could_only_send_it_declines() -> None:
    network, method = SimulatedNetwork(), find_method("gossip-pull")

    async def main() -> list[Member]:
        policy = Policy(method.rule(0.5), Schedule(period=20), method.topology, method.flow)
        a = build_member(network, "a", seed=0, policy=policy)
        b = build_member(network, "b", seed=1, policy=policy._replace(schedule=Schedule(probability=0.0)))
        break_parameters(b)
        await run_members([a, b], steps=30)
        return [a, b]

    a, b = run_virtual(main())
    assert b.peer.exchanges().declined_by_us == {"not-finite": 1}
    assert torch.equal(values(a.model), start(1)[0])


def test_a_peer_that_breaks_in_a_busy_swarm_is_soon_one_of_many() -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [build_member(network, name, seed=i, moving_rate=0.3) for i, name in enumerate(NAMES)]
        break_parameters(members[3])
        await run_members(members, steps=400)
        return members

    members = run_virtual(main())
    assert [m.replaced for m in members] == [0, 0, 0, 1]
    assert end(members).std(dim=0).max() < 0.1 * start().std(dim=0).max()


def test_a_newcomer_copies_a_member_and_does_not_disturb_it() -> None:
    network = SimulatedNetwork()

    async def main() -> tuple[Tensor, list[Member], float]:
        old = build_member(network, "old", seed=0, schedule=Schedule(probability=0.0))
        running = asyncio.ensure_future(run_members([old], steps=600))
        await asyncio.sleep(2.0)
        new = build_member(network, "new", seed=1, schedule=Schedule(period=10), newcomer=True, moving_rate=0.25)
        await new.peer.refresh()
        before = values(old.model)
        life = asyncio.ensure_future(new.peer.run())
        await new.peer.announce()
        await new.peer.refresh()
        weight = new.peer.weight
        await new.train(19)  # it copies after 10, and counts after five more
        life.cancel()
        await running
        return before, [old, new], weight

    before, (old, new), weight = run_virtual(main())
    assert weight == 0.0
    assert new.peer.exchanges().by_outcome == {Outcome.COMPLETED: 1}
    assert torch.equal(values(old.model), before)
    torch.testing.assert_close(values(new.model), before, rtol=0, atol=1e-7)
    assert new.peer.weight == 1.0


def test_two_peers_that_always_ask_each_other_at_once_still_exchange() -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [build_member(network, n, seed=i, schedule=Schedule(period=10)) for i, n in enumerate("ab")]
        await run_members(members, steps=200)
        return members

    members = run_virtual(main())
    assert count(members, Outcome.COMPLETED) >= 2 * 15


def test_a_peer_that_is_announced_and_not_there_is_left_alone_and_dead_in_the_end() -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [build_member(network, name, seed=i) for i, name in enumerate("abc")]
        await members[2].peer.announce()  # and nothing else: it never serves
        await run_members(members[:2], steps=400)
        return members[:2]

    for member in run_virtual(main()):
        totals = member.peer.exchanges()
        assert set(totals.by_outcome) <= {Outcome.COMPLETED, Outcome.DECLINED}
        assert totals.by_outcome[Outcome.COMPLETED] > 30
        assert [(m.peer, m.state) for m in member.peer.members() if m.peer == "c"] == [("c", "dead")]


def test_a_peer_that_stopped_training_declines_and_the_others_go_on() -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [build_member(network, name, seed=i) for i, name in enumerate("abc")]
        members[2].stopped = True
        frozen = asyncio.ensure_future(_serve_only(members[2]))
        await run_members(members[:2], steps=2000)
        frozen.cancel()
        return members

    members = run_virtual(main())
    assert members[2].peer.exchanges().declined_by_us["not-training"] > 0
    assert count(members[:2], Outcome.COMPLETED) > 100


async def _serve_only(member: Member) -> None:
    await member.peer.announce()
    await member.peer.run()


def test_a_partner_with_another_model_or_run_is_declined_with_the_reason() -> None:
    network = SimulatedNetwork()

    async def main() -> tuple[dict[str, int], Member]:
        member = build_member(network, "a")
        life = asyncio.ensure_future(member.peer.run())
        await member.train(1)
        stranger = network.transport("stranger")
        good = offer("stranger", member.model)
        for change in ({"run": "other"}, {"schema_hash": "f" * 32}, {"elements": 73}, {"codec": "zip"}, {"version": 9}):
            stream = await stranger.open(_record("a"))
            await stream.send(pack(good.model_copy(update=change)))
            await stream.receive_into(memoryview(bytearray(MESSAGE_HEADER.size)))
            await stream.close()
        life.cancel()
        return member.peer.exchanges().declined_by_us, member

    declined, _ = run_virtual(main())
    assert declined == {"other-run": 1, "other-schema": 2, "other-codec": 1, "other-version": 1}


HOSTILE = {
    "garbage": b"\x00" * 64,
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown kind": MESSAGE_HEADER.pack(b"PXE1", 99, 2) + b"{}",
    "message of 4 GiB": MESSAGE_HEADER.pack(b"PXE1", 1, 2**32 - 1),
    "no JSON": MESSAGE_HEADER.pack(b"PXE1", 1, 4) + b"\xff\xfe\x00\x01",
    "empty offer": MESSAGE_HEADER.pack(b"PXE1", 1, 2) + b"{}",
    "out of turn": pack(Verified(id="0" * 32)),
    "silence": b"",
    "half a header": b"PXE",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stream_is_refused_and_counted_and_exchanges_go_on(name: str) -> None:
    network = SimulatedNetwork()

    async def main() -> list[Member]:
        members = [build_member(network, n, seed=i) for i, n in enumerate("ab")]
        evil = network.transport("evil")

        async def attack() -> None:
            await asyncio.sleep(0.5)
            stream = await evil.open(_record("a"))
            await stream.send(HOSTILE[name])
            with pytest.raises(PartnerUnreachable):
                await stream.receive_into(memoryview(bytearray(1)))

        attacking = asyncio.ensure_future(attack())
        await run_members(members, steps=1000)
        await attacking
        return members

    members = run_virtual(main())
    assert sum(members[0].peer.streams_refused().values()) == 1
    assert count(members, Outcome.COMPLETED) > 100


def test_a_chunk_that_claims_another_length_is_refused() -> None:
    network = SimulatedNetwork()

    async def main() -> Member:
        member = build_member(network, "a", schedule=Schedule(probability=0.0))
        life, training = asyncio.ensure_future(member.peer.run()), asyncio.ensure_future(member.train(500))
        await asyncio.sleep(0.1)
        stream = await network.transport("evil").open(_record("a"))
        await stream.send(pack(offer("evil", member.model)))
        await stream.send(CHUNK_HEADER.pack(2**32 - 1, 0))
        await training
        life.cancel()
        return member

    member = run_virtual(main())
    assert member.peer.exchanges().by_outcome == {Outcome.REFUSED: 1}
    assert "4294967295 bytes" in (member.peer.last_exchanges()[0].reason or "")
    assert torch.equal(values(member.model), values(tiny_model(0)))


def test_an_exchange_offered_twice_under_one_id_takes_place_once() -> None:
    network = SimulatedNetwork()

    async def main() -> Member:
        member = build_member(network, "a", schedule=Schedule(probability=0.0))
        life, training = asyncio.ensure_future(member.peer.run()), asyncio.ensure_future(member.train(500))
        await asyncio.sleep(0.1)
        twin = build_member(network, "twin", seed=1, schedule=Schedule(probability=0.0))
        header = pack(offer("twin", twin.model, exchange_id="1" * 32))
        payload = values(twin.model).numpy().tobytes()

        whole = header + chunk_header(memoryview(payload)) + payload + pack(Verified(id="1" * 32))
        for _ in range(2):
            stream = await network.transport("twin").open(_record("a"))
            await stream.send(whole)
            await asyncio.sleep(1.0)
            await stream.close()
        await training
        life.cancel()
        return member

    member = run_virtual(main())
    assert member.peer.exchanges().by_outcome == {Outcome.COMPLETED: 1, Outcome.REFUSED: 1}
    expected = (values(tiny_model(0)) + values(tiny_model(1))) / 2
    torch.testing.assert_close(values(member.model), expected)


def test_one_stranger_cannot_take_all_streams() -> None:
    network = SimulatedNetwork()
    limits = Limits(streams_per_peer=2, header_seconds=5.0)

    async def main() -> dict[str, int]:
        member = build_member(network, "a", limits=limits)
        life = asyncio.ensure_future(member.peer.run())
        await asyncio.sleep(0.1)
        for _ in range(5):
            await network.transport("evil").open(_record("a"))
        await asyncio.sleep(0.1)
        refused = member.peer.streams_refused()
        life.cancel()
        return refused

    assert run_virtual(main()) == {"too many streams": 3}


def test_a_deadlock_is_found_instead_of_waited_for() -> None:
    with pytest.raises(SimulationDeadlock):
        run_virtual(asyncio.Event().wait())


def test_virtual_hours_pass_at_once() -> None:
    async def sleep() -> float:
        await asyncio.sleep(36_000.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(sleep()) == 36_000.0


def offer(peer: str, model: nn.Module, exchange_id: str = "0" * 32) -> Offer:
    """What an honest peer with this model sends first."""
    vector = ParameterVector(model)
    return Offer(
        id=exchange_id,
        peer=peer,
        run="test",
        schema_hash=vector.schema_hash,
        elements=vector.elements,
        codec="none",
        step=1,
        loss=None,
        weight=1.0,
    )


def _record(peer: str) -> PeerRecord:
    return PeerRecord(peer=peer, run="test", schema_hash="0" * 32)
