"""What people see of the others."""

from __future__ import annotations

import pytest
from helpers.peer_parts import DYNAMIC, ID, parts_in, record

from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.state.context import enter
from p2p_elastic.peers.state.views import members_of, partners_of
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.trial import Trial
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

FACTS = Facts(step=10, loss=1.0, weight=0.7)


def met(*partners: str) -> StrategyParts:
    """A peer that knows "b" and "c", after exchanges of 100 kB with these partners, 2 s each."""
    parts = parts_in(SimulatedNetwork(), DYNAMIC)
    parts.local.members.look([record("c", step=3), record("b", loss=0.5)], 0.0)

    async def main() -> None:
        for partner in partners:
            enter(
                parts.local,
                ID,
                partner,
                Result(Outcome.COMPLETED, theirs=FACTS),
                initiated=True,
                started=-2.0,
                traffic=(50_000, 50_000),
                distance=3.0,
            )

    run_virtual(main())
    return parts


def test_members_are_shown_by_peer_id_with_what_their_records_say() -> None:
    shown = members_of(met().local, 1.0)
    assert [(one.peer, one.step, one.loss, one.state) for one in shown] == [
        ("b", 10, 0.5, "alive"),
        ("c", 3, None, "alive"),
    ]
    assert [one.age_seconds for one in shown] == [1.0, 1.0]


def test_partners_are_those_of_exchanges_the_latest_first_with_what_they_showed() -> None:
    latest, first = partners_of(met("b", "c").local, 5.0)
    assert (latest.peer, first.peer) == ("c", "b")
    assert (first.weight, first.distance, first.exchange_seconds) == (0.7, 3.0, 2.0)
    assert first.deadline_seconds == pytest.approx(10.0)


def test_a_partner_that_is_no_member_any_more_has_no_deadline() -> None:
    [gone] = partners_of(met("stranger").local, 5.0)
    assert (gone.deadline_seconds, gone.exchange_seconds) == (None, 2.0)


def test_a_partner_is_shown_with_the_trust_in_it_and_why() -> None:
    parts = met("b")
    for theirs in (1.0, 9.0):
        parts.local.judge.verdict("b", FACTS, 1.0, Trial(theirs, 1.0, 1e-6))
    [shown] = partners_of(parts.local, 5.0)
    assert shown.trust == 0.0
    assert shown.reasons
