"""A peer that is started again with its identity and its seed, among partners that remember its last life."""

from __future__ import annotations

import asyncio

from helpers.swarm import Member, build_member, run_members, tiny_model

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

STEPS = 100


def life(network: SimulatedNetwork, name: str, first_sequence: int) -> Member:
    model = tiny_model(1)
    peer = Peer(
        vector=ParameterVector(model),
        policy=Policy(elastic(0.5), Schedule(probability=1 / 8)),
        transport=network.transport(name),
        directory=network.directory(name),
        context=RunContext(run="test", announce_seconds=1.0, refresh_seconds=0.5, first_sequence=first_sequence),
        seed=1,
    )
    return Member(peer, model, step_seconds=0.01)


def test_exchanges_of_a_second_life_are_not_taken_for_those_of_the_first() -> None:
    network = SimulatedNetwork()
    lives: list[Member] = []

    async def main() -> None:
        partner = build_member(network, "partner", seed=2)
        task = asyncio.ensure_future(partner.peer.run())
        try:
            await partner.peer.announce()
            for number in (1, 2):
                lives.append(life(network, "peer", first_sequence=1000 * number))
                training = asyncio.ensure_future(partner.train(partner.steps + STEPS))
                await run_members([lives[-1]], steps=STEPS)
                await training
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())
    for each in lives:
        outcomes = each.peer.exchanges().by_outcome
        assert outcomes[Outcome.COMPLETED] > 5
        assert Outcome.REFUSED not in outcomes
    first, second = ({entry.id for entry in each.peer.last_exchanges() if entry.initiated} for each in lives)
    assert first
    assert second
    assert not first & second
