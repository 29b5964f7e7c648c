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


# -- members that are not there, and offers that come to nothing -----------------------------------------------------


def ended(pacing: Pacing, partner: str, outcome: Outcome, seconds: float, *, initiated: bool) -> None:
    now = asyncio.get_running_loop().time()
    pacing.spent(0, Entry("0", partner, initiated, outcome, None, 1, seconds, 0, 0, None, now))


def gossip(answered: Callable[[str], bool]) -> Pacing:
    policy = Policy(find_method("elastic-gossip").rule(0.5), Schedule(1))
    return Pacing(Budget(), StepTime(), policy, MODEL_BYTES, answered)


async def until(wanted: Callable[[], bool]) -> float:
    """Seconds until that is so."""
    began = asyncio.get_running_loop().time()
    while not wanted():  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize(
    ("partner", "outcome", "initiated", "pauses"),
    [
        ("ghost", Outcome.UNREACHABLE, True, True),
        ("ghost", Outcome.TIMEOUT, True, True),
        ("ghost", Outcome.COMPLETED, True, False),
        ("known", Outcome.UNREACHABLE, True, False),
        ("ghost", Outcome.BROKEN, False, False),
    ],
)
def test_members_that_never_answer_take_a_fiftieth_of_the_time(
    partner: str, outcome: Outcome, initiated: bool, pauses: bool
) -> None:
    async def main() -> None:
        await asyncio.sleep(1000.0)
        pacing = gossip("known".__eq__)
        assert pacing.tries_unheard()
        ended(pacing, partner, outcome, 8.0, initiated=initiated)
        assert pacing.tries_unheard() is not pauses
        if pauses:
            assert 8.0 / 0.02 - 20.0 < await until(pacing.tries_unheard) < 8.0 / 0.02

    run_virtual(main())


def test_a_partner_whose_offers_come_to_nothing_waits_and_no_other_does() -> None:
    async def main() -> None:
        await asyncio.sleep(1000.0)
        pacing = gossip(lambda _: True)
        for outcome in (Outcome.COMPLETED, Outcome.DECLINED):
            ended(pacing, "slow", outcome, 1.0, initiated=False)
        assert pacing.objection(offer()) is None
        for _ in range(20):
            ended(pacing, "slow", Outcome.BROKEN, 0.001, initiated=False)
        assert pacing.objection(offer()) == "offers that came to nothing"
        assert pacing.objection(offer().model_copy(update={"peer": "other"})) is None
        assert await until(lambda: pacing.objection(offer()) is None) < 20 * 0.1 / 0.05

    run_virtual(main())
