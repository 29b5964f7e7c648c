"""Where two centre variables met, the one that steps down hands its value to the one that stands."""

from __future__ import annotations

import asyncio

import pytest
import torch
from helpers.peer_parts import introduce, parts_in, serve
from helpers.topologies import EASGD

from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.centre.surrender import TRIES_MAX, Bequest
from p2p_elastic.peers.centre.variable import Centre, Given
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.answering import Answering
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


def centre_of(parts: StrategyParts) -> Centre:
    strategy = parts.local.run.topology
    assert isinstance(strategy, CentreStrategy)
    return strategy.centre


def two_centres() -> tuple[StrategyParts, StrategyParts]:
    """The peer "a" gave up its centre, all five, for that of "b", all one; three exchanges are behind each."""
    network = SimulatedNetwork()
    yields, stands = parts_in(network, EASGD), parts_in(network, EASGD, "b")
    centre_of(stands).value, centre_of(stands).behind = torch.ones(72), 3
    introduce(yields, stands)
    centre = centre_of(yields)
    centre.give_up("b")
    centre.given = Given(torch.full((72,), 5.0), Stamp(term=1, clock=3))
    centre.stamp = Stamp(term=0)
    return yields, stands


def handed_over(yields: StrategyParts, stands: StrategyParts, *, times: int = 1, answers: bool = True) -> None:
    async def main() -> None:
        if answers:
            await serve(stands, Answering(stands.local, stands.limits, Admission(stands.local)))
        for _ in range(times):
            await Bequest(centre_of(yields), yields).hand_over()
            await asyncio.sleep(1.0)

    run_virtual(main())


def test_the_one_that_stands_takes_it_in_and_the_other_sees_it_as_it_was() -> None:
    yields, stands = two_centres()
    handed_over(yields, stands, times=2)
    torch.testing.assert_close(centre_of(stands).value, torch.full((72,), 3.0))
    assert centre_of(yields).given is None
    assert torch.equal(centre_of(yields).value, torch.ones(72))
    assert centre_of(yields).stamp.term == 1
    assert yields.local.journal.totals(0.0).by_outcome == {"completed": 1}


def test_where_nobody_answers_it_is_tried_a_few_times() -> None:
    yields, stands = two_centres()
    handed_over(yields, stands, answers=False)
    given = centre_of(yields).given
    assert given is not None
    assert given.tries == 1
    handed_over(yields, stands, times=TRIES_MAX - 1, answers=False)
    assert centre_of(yields).given is None
    assert torch.equal(centre_of(stands).value, torch.ones(72))


@pytest.mark.parametrize("state", ["drained", "leaving", "no heir"])
def test_some_peers_hand_nothing_over_and_keep_it(state: str) -> None:
    yields, stands = two_centres()
    if state == "drained":
        yields.local.own.condition.drain()
    elif state == "leaving":
        yields.local.departure.leave()
    else:
        centre_of(yields).holder = None
    handed_over(yields, stands)
    assert centre_of(yields).given is not None
    assert torch.equal(centre_of(stands).value, torch.ones(72))
    assert not yields.local.journal.met
