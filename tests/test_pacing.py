"""Who is asked to come again later, by what exchanges with it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from p2p_elastic.messages import Offer, Stamp
from p2p_elastic.methods import Topology, find_method
from p2p_elastic.pace import Budget
from p2p_elastic.peers.deadlines import StepTime
from p2p_elastic.peers.journal import Entry
from p2p_elastic.peers.pacing import Pacing
from p2p_elastic.peers.simulation import run_virtual
from p2p_elastic.policy import Policy
from p2p_elastic.schedule import Schedule
from p2p_elastic.status import Outcome

MODEL_BYTES = 4000
STAMP = Stamp(term=1, clock=5)


def offer(**said: Any) -> Offer:
    return Offer(
        id="0" * 32, peer="slow", run="run", schema_hash="0" * 32, elements=1000, codec="none", step=7, loss=0.5,
        weight=1.0, **said,
    )  # fmt: skip


def beside_a_slow_partner(topology: Topology, ask: Callable[[Pacing], None]) -> None:
    """A peer whose exchanges with one partner take a hundred times as long as those with another."""

    async def main() -> None:
        pacing = Pacing(
            Budget(), StepTime(), Policy(find_method("easgd").rule(0.2), Schedule(1), topology), MODEL_BYTES
        )
        await asyncio.sleep(1000.0)
        for partner, seconds in [("fast", 0.1), ("slow", 10.0)] * 3:
            now = asyncio.get_running_loop().time()
            entry = Entry("0", partner, False, Outcome.COMPLETED, None, 1, seconds, MODEL_BYTES, 0, 1.0, now)
            pacing.spent(MODEL_BYTES, entry)
        ask(pacing)

    run_virtual(main())


def test_the_last_offer_of_a_slow_partner_is_taken_once() -> None:
    def ask(pacing: Pacing) -> None:
        assert pacing.objection(offer()) == "slow link"
        assert pacing.objection(offer(last=True)) is None
        pacing.takes_last("slow")
        assert pacing.objection(offer(last=True)) == "slow link"

    beside_a_slow_partner(Topology.PAIRS, ask)


@pytest.mark.parametrize(("topology", "objection"), [(Topology.PAIRS, "slow link"), (Topology.CENTRE, None)])
def test_a_centre_is_given_up_only_where_a_run_has_one(topology: Topology, objection: str | None) -> None:
    def ask(pacing: Pacing) -> None:
        assert pacing.objection(offer(centre=STAMP)) == objection

    beside_a_slow_partner(topology, ask)
