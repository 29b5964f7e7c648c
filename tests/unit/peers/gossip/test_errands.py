"""What a peer is to do on its own."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers.swarm import build_parts

from p2p_elastic.peers.exchange.journal import Journal
from p2p_elastic.peers.gossip.errands import Errands
from p2p_elastic.peers.state.topology import Errand, Strategy
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule


class Due(Strategy):
    """At even steps an exchange is due, at multiples of six one of all groups, too."""

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        if step % 2 == 0:
            yield "exchange"
        if step % 6 == 0:
            yield "global"


def errands() -> tuple[Errands, Journal]:
    parts = build_parts(Policy(elastic(0.5), Schedule(period=10)))
    parts.run.topology = Due()
    return Errands(parts.run, parts.journal, random.Random(0)), parts.journal


def test_nothing_is_owed_until_the_topology_says_so() -> None:
    owed, _ = errands()
    owed.owe(owed.due(1), None)
    assert not owed.owed
    owed.owe(owed.due(2), None)
    assert owed.owed


def test_what_is_due_at_once_is_done_one_after_the_other() -> None:
    owed, _ = errands()
    owed.owe(owed.due(6), None)
    owed.begin()
    assert (owed.current, owed.owed) == ("exchange", True)
    owed.begin()
    assert (owed.current, owed.owed) == ("global", False)


def test_of_each_kind_one_waits_and_further_ones_are_counted_as_skipped() -> None:
    owed, journal = errands()
    for step in (2, 4, 6):
        owed.owe(owed.due(step), None)
    owed.begin()
    owed.begin()
    assert not owed.owed
    assert journal.skipped == {"busy": 2}


def test_what_was_postponed_is_owed_again_when_its_time_has_come() -> None:
    owed, journal = errands()
    owed.owe(owed.due(2), None)
    owed.begin()
    owed.postpone(5.0)
    owed.resume(4.9)
    assert not owed.owed
    owed.owe(owed.due(4), None)  # another one of its kind
    assert (owed.owed, journal.skipped) == (False, {"busy": 1})
    owed.resume(5.0)
    assert owed.owed
    owed.begin()
    owed.resume(6.0)
    assert (owed.current, owed.owed) == ("exchange", False)


def test_a_drained_peer_owes_nothing_and_one_whose_budget_is_spent_owes_one() -> None:
    drained, its_journal = errands()
    drained.owe(drained.due(2), "drained")
    assert not drained.owed
    assert its_journal.skipped == {"drained": 1}
    paced, journal = errands()
    paced.owe(paced.due(2), "paced")
    paced.owe(paced.due(4), "paced")
    assert paced.owed
    assert journal.skipped == {"paced": 1}
