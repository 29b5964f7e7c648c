"""Gossip: whom a peer asks, given what it knows of the members."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from helpers.peer_parts import DYNAMIC, GOSSIP, parts_in, record

from p2p_elastic.peers.gossip.strategy import PairsStrategy
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.trial import Trial
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

FACTS = Facts(step=10, loss=1.0, weight=1.0)
GOOD, BAD = Trial(theirs=1.0, mine=1.0, error=1e-6), Trial(theirs=9.0, mine=1.0, error=1e-6)


def pairs(policy: Policy = GOSSIP, **weights: float) -> PairsStrategy:
    """That of a peer which sees these members, whose weights are given."""
    parts = parts_in(SimulatedNetwork(), policy)
    parts.local.members.look([record(peer, weight=weight) for peer, weight in weights.items()], 0.0)
    return PairsStrategy(parts)


def asked(strategy: PairsStrategy, times: int = 300, **options: Any) -> Counter[str]:
    """How often each member is chosen."""

    async def main() -> Counter[str]:
        chosen = [strategy.next_partner(set(), **options) for _ in range(times)]
        return Counter(one.peer for one in chosen if one is not None)

    return run_virtual(main())


def test_members_are_asked_by_how_much_they_count() -> None:
    counts = asked(pairs(b=1.0, c=1.0, d=0.1))
    assert set(counts) == {"b", "c", "d"}
    assert counts["d"] < counts["b"] / 2
    assert counts["d"] < counts["c"] / 2


def test_one_that_is_not_trusted_is_asked_less_often() -> None:
    parts = parts_in(SimulatedNetwork(), DYNAMIC)
    parts.local.members.look([record("b"), record("c")], 0.0)
    for trial in (GOOD, BAD):
        parts.local.judge.verdict("b", FACTS, 1.0, trial)
    counts = asked(PairsStrategy(parts))
    assert counts["b"] < counts["c"] / 5


def test_who_failed_lately_is_asked_only_where_nobody_else_is_there() -> None:
    parts = parts_in(SimulatedNetwork())
    parts.local.members.look([record("b"), record("c")], 0.0)
    strategy = PairsStrategy(parts)

    async def main() -> tuple[set[str], str]:
        parts.local.members.failed("b", Outcome.TIMEOUT)
        first = {one.peer for _ in range(50) if (one := strategy.next_partner(set())) is not None}
        parts.local.members.failed("c", Outcome.TIMEOUT)
        last = strategy.next_partner({"c"})
        return first, "" if last is None else last.peer

    assert run_virtual(main()) == ({"c"}, "b")


@pytest.mark.parametrize(("policy", "compares"), [(GOSSIP, False), (DYNAMIC, True)])
def test_partners_are_tried_only_where_the_run_weighs_by_that(policy: Policy, compares: bool) -> None:
    assert pairs(policy).compares is compares
