"""What seeds of `tests/chaos` found, each as small as it can be said."""

from __future__ import annotations

import asyncio
import random

from helpers.swarm import Member, build_member, tiny_model

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.membership.liveness import observe
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.membership.selection import choose_partner
from p2p_elastic.peers.peer import Peer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

OFTEN, NEVER = Schedule(period=5), Schedule(probability=0.0)


def completed(member: Member) -> int:
    return member.peer.exchanges().by_outcome.get(Outcome.COMPLETED, 0)


async def end(life: asyncio.Future[None], network: SimulatedNetwork, name: str) -> None:
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    await network.transport(name).close()


def a_life(network: SimulatedNetwork, number: int) -> Member:
    """Peer "a" with the seed and identity that it always has; a later life announces with higher numbers."""
    model = tiny_model(0)
    peer = Peer(
        vector=ParameterVector(model),
        policy=Policy(elastic(0.5), OFTEN),
        transport=network.transport("a"),
        directory=network.directory("a"),
        context=RunContext(run="test", first_sequence=1 + 1000 * number, announce_seconds=1.0, refresh_seconds=0.5),
        seed=3,
    )
    return Member(peer, model, 0.01)


def test_a_peer_that_begins_anew_with_the_same_seed_offers_new_exchange_ids() -> None:
    # Partners refused its offers: their ledgers had those ids from its former life. Worse, to an inquiry about a new
    # exchange they would have answered how the old one ended.
    network = SimulatedNetwork()

    async def main() -> None:
        b = build_member(network, "b", seed=1, schedule=NEVER)
        life_b, training = asyncio.ensure_future(b.peer.run()), asyncio.ensure_future(b.train(10**6))
        await asyncio.sleep(0.1)
        seen: list[set[str]] = []
        for number in range(2):
            a = a_life(network, number)
            life = asyncio.ensure_future(a.peer.run())
            await asyncio.sleep(1.0)
            await a.train(100)
            assert completed(a) > 10
            assert set(a.peer.exchanges().by_outcome) <= {Outcome.COMPLETED, Outcome.DECLINED}
            seen.append({record.id for record in a.peer.last_exchanges()})
            await end(life, network, "a")
        assert not seen[0] & seen[1]
        training.cancel()
        life_b.cancel()

    run_virtual(main())


def test_a_peer_that_begins_anew_with_its_clock_behind_is_seen_again_in_a_few_announcements() -> None:
    # Sequences begin at the wall clock. With the clock set back, or a machine without one, every record of the new life
    # looked like a replay, and the last one of the old life was kept for ever: gone, or suspect, and never chosen. Now
    # the new life counts on from the record that it finds.
    network = SimulatedNetwork()

    async def main() -> None:
        b = build_member(network, "b", seed=1, schedule=NEVER)
        life_b = asyncio.ensure_future(b.peer.run())
        for number in (1, 0):
            life = asyncio.ensure_future(a_life(network, number).peer.run())
            await asyncio.sleep(10.0)
            if number:
                await end(life, network, "a")
        (seen,) = b.peer.members()
        assert seen.age_seconds < 2.0
        life.cancel()
        life_b.cancel()

    run_virtual(main())


def test_who_pushes_chooses_a_newcomer_as_often_as_anybody_else() -> None:
    # A newcomer counts nothing, and so was chosen five times less often; but by rules that push, being chosen is the
    # only way to be told anything: one of them learnt nothing of the run in a minute.
    def record(peer: str, weight: float) -> PeerRecord:
        return PeerRecord(peer=peer, run="test", schema_hash="0" * 32, weight=weight)

    members = observe({}, [record("a", 1.0), record("b", 1.0), record("c", 1.0), record("new", 0.0)], now=0.0)
    for receives, least, most in ((True, 40, 90), (False, 220, 280)):  # of 1,000; 62 and 250 are meant
        rng = random.Random(0)
        chosen = [choose_partner(members, rng, now=0.0, announce_seconds=5.0, receives=receives) for _ in range(1000)]
        assert least < sum(one is not None and one.peer == "new" for one in chosen) < most


def test_a_peer_that_leaves_once_it_committed_still_gets_its_last_word_through() -> None:
    # It ended while "Committed" was on its way: it had moved, its partner had not, and nobody was left to be asked.
    delayed = []

    def slow_last_word(event: Event) -> Verdict:
        if (event.source, event.kind, event.number) == ("b", "piece", 3):  # after Accept, chunk header and chunk
            delayed.append(event)
            return Verdict(seconds=0.8)
        return Verdict()

    network = SimulatedNetwork(judge=slow_last_word)

    async def main() -> None:
        a, b = build_member(network, "a", seed=0, schedule=OFTEN), build_member(network, "b", seed=1, schedule=NEVER)
        lives = [asyncio.ensure_future(member.peer.run()) for member in (a, b)]
        training = asyncio.ensure_future(a.train(10**6))
        await b.train(20)
        assert completed(b) == 1
        await b.peer.leave(10.0)
        await end(lives[1], network, "b")
        await asyncio.sleep(30.0)  # longer than "a" would ask after the last word
        assert delayed
        assert completed(a) == completed(b) == 1
        assert Outcome.HALF not in a.peer.exchanges().by_outcome
        for task in (training, lives[0]):
            task.cancel()

    run_virtual(main())
