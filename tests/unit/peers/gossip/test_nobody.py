"""Everybody trains alone."""

from __future__ import annotations

import random

from helpers.peer_parts import GOSSIP, introduce, parts_in, step

from p2p_elastic.peers.exchange.slot import CHOOSING, IDLE
from p2p_elastic.peers.gossip.nobody import NobodyStrategy
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


def test_nothing_is_due_with_anybody_who_is_there() -> None:
    network = SimulatedNetwork()
    parts = parts_in(network)
    introduce(parts, parts_in(network, peer="b"))
    nobody = NobodyStrategy(parts)
    assert [errand for number in range(100) for errand in nobody.due(number, random.Random(0))] == []
    assert (nobody.next_partner(set()), nobody.taker(set()), nobody.endpoint()) == (None, None, None)
    assert "alone" in nobody.why_alone


def test_what_was_due_in_another_run_is_given_up() -> None:
    parts = parts_in(SimulatedNetwork(), GOSSIP)
    step(parts, due=True)
    assert parts.local.slot.state == CHOOSING
    run_virtual(NobodyStrategy(parts).run_due("exchange"))
    assert parts.local.slot.state == IDLE
