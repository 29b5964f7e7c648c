"""Who is asked to come again later, by what exchanges with it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from helpers.swarm import build_member

from p2p_elastic.peers.exchange.journal import Entry
from p2p_elastic.peers.exchange.pacing import Pacing
from p2p_elastic.peers.session.deadlines import StepTime
from p2p_elastic.protocol.messages import Offer, Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rate_limit import Budget
from p2p_elastic.rules.methods import Topology, find_method
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

MODEL_BYTES = 4000
STAMP = Stamp(term=1, clock=5)


def offer(**said: Any) -> Offer:
    return Offer(
        id="0" * 32, peer="slow", run="run", schema_hash="0" * 32, elements=1000, codec="none", step=7, loss=0.5,
        weight=1.0, **said,
    )  # fmt: skip


def exchange(pacing: Pacing, partner: str, seconds: float) -> None:
    """It asked for one, which took so long and is over."""
    now = asyncio.get_running_loop().time()
    entry = Entry("0", partner, False, Outcome.COMPLETED, None, 1, seconds, MODEL_BYTES, 0, 1.0, now)
    pacing.spent(MODEL_BYTES, entry)


def beside_the_slow(topology: Topology) -> Pacing:
    """A peer whose exchanges with one partner take a hundred times as long as those with another."""
    policy = Policy(find_method("easgd").rule(0.2), Schedule(1), topology)
    pacing = Pacing(Budget(), StepTime(), policy, MODEL_BYTES)
    for partner, seconds in [("fast", 0.1), ("slow", 10.0)] * 3:
        exchange(pacing, partner, seconds)
    return pacing


def objection(pacing: Pacing, topology: Topology, asked: Offer) -> str | None:
    """What that peer, the founder of a run of that topology, says to an offer."""
    policy = Policy(find_method("easgd").rule(0.2), Schedule(1), topology)
    endpoint = build_member(SimulatedNetwork(), "founder", policy=policy).peer.parts.run.topology.endpoint()
    assert endpoint is not None
    return pacing.objection(asked, endpoint.precedence(asked))


def beside_a_slow_partner(topology: Topology, ask: Callable[[Pacing], None]) -> None:
    """That peer, long after it began."""

    async def main() -> None:
        await asyncio.sleep(1000.0)
        ask(beside_the_slow(topology))

    run_virtual(main())


async def seconds_until_let_in(pacing: Pacing) -> int:
    for seconds in range(10**6):
        if objection(pacing, Topology.CENTRE, offer()) is None:
            return seconds
        await asyncio.sleep(1.0)
    raise AssertionError("never")


def test_a_centre_tries_a_slow_partner_again_ever_more_seldom_and_one_that_is_quick_again_at_once() -> None:
    # One exchange of 16 s over a link in trouble kept a worker from the centre for five minutes.
    async def main() -> None:
        pacing, waited = beside_the_slow(Topology.CENTRE), list[int]()
        for _ in range(3):
            waited.append(await seconds_until_let_in(pacing))
            exchange(pacing, "slow", 10.0)
        assert waited[1:] == [2 * waited[0], 4 * waited[0]]
        await asyncio.sleep(8 * waited[0])
        exchange(pacing, "slow", 0.1)
        assert objection(pacing, Topology.CENTRE, offer()) is None

    run_virtual(main())


def test_the_last_offer_of_a_slow_partner_is_taken_once() -> None:
    def ask(pacing: Pacing) -> None:
        assert objection(pacing, Topology.PAIRS, offer()) == "slow link"
        assert objection(pacing, Topology.PAIRS, offer(last=True)) is None
        pacing.takes_last("slow")
        assert objection(pacing, Topology.PAIRS, offer(last=True)) == "slow link"

    beside_a_slow_partner(Topology.PAIRS, ask)


@pytest.mark.parametrize(("topology", "expected"), [(Topology.PAIRS, "slow link"), (Topology.CENTRE, None)])
def test_a_centre_is_given_up_only_where_a_run_has_one(topology: Topology, expected: str | None) -> None:
    def ask(pacing: Pacing) -> None:
        assert objection(pacing, topology, offer(centre=STAMP)) == expected

    beside_a_slow_partner(topology, ask)
