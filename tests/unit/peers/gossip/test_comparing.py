"""Answering whoever compares losses with this peer."""

from __future__ import annotations

import pytest
from helpers.peer_parts import introduce, parts_in, serve, talk, tell
from helpers.topologies import LSGD

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.comparing import Comparing
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.protocol.exchange import compare
from p2p_elastic.protocol.messages import Tell
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


def told(parts: StrategyParts, network: SimulatedNetwork, said: Tell) -> Tell | None:
    """What the peer answers."""

    async def main() -> Tell | None:
        await serve(parts, Comparing(parts.local, Admission(parts.local)))
        return await talk(network, "b", "a", compare(said))

    return run_virtual(main())


def leader_of(parts: StrategyParts) -> str | None:
    """Whom the peer would follow, with a loss of 1 nat itself."""
    strategy, members = parts.local.run.topology, parts.local.members.known
    following = strategy.following  # type: ignore[attr-defined]
    chosen = following.choose(1.0, members, 0.5, of_all=False)
    assert chosen is None or isinstance(chosen, str)
    return chosen


def test_our_loss_is_the_answer_and_its_bytes_are_counted() -> None:
    network = SimulatedNetwork()
    parts = parts_in(network)
    parts.local.own.report_loss(0.25)
    assert told(parts, network, tell()) == tell(peer="a", step=0, loss=0.25)
    totals = parts.local.journal.totals(0.0)
    assert totals.bytes_sent > 0
    assert totals.bytes_received > 0


@pytest.mark.parametrize(("known", "leader"), [(True, "b"), (False, "a")])
def test_a_member_that_tells_a_lower_loss_may_lead_and_a_stranger_may_not(known: bool, leader: str) -> None:
    network = SimulatedNetwork()
    parts, other = parts_in(network, LSGD), parts_in(network, LSGD, "b")
    if known:
        introduce(parts, other)
    assert leader_of(parts) == "a"
    assert told(parts, network, tell(loss=0.1)) is not None
    introduce(parts, other)
    assert leader_of(parts) == leader


def test_another_run_hears_nothing() -> None:
    network = SimulatedNetwork()
    assert told(parts_in(network), network, tell(run="other")) is None


def test_who_tells_in_the_name_of_another_is_refused() -> None:
    network = SimulatedNetwork()
    parts = parts_in(network)
    with pytest.raises(ExchangeError):
        told(parts, network, tell(peer="c"))
    assert parts.local.journal.streams_refused == {"RemoteProtocolError": 1}
