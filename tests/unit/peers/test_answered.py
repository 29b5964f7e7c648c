"""All that a peer answers."""

from __future__ import annotations

import pytest
from helpers.peer_parts import ID, goodbye, offer, parts_in, talk, tell, wanted

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.answered import answered_by, responder_of
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.session.answers import table_of
from p2p_elastic.peers.session.responder import Responder
from p2p_elastic.protocol.exchange import compare, fetch, initiate, inquire, say_goodbye
from p2p_elastic.protocol.messages import Describe, Fetch, Goodbye, Inquiry, Lane, Offer, Tell
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


def answering(parts: StrategyParts, network: SimulatedNetwork) -> Responder:
    presence = Presence(parts.local, network.directory("a"))
    answered = answered_by(parts, presence, presence.refresh)
    assert table_of(answered).kinds == (Offer, Inquiry, Lane, Fetch, Tell, Goodbye, Describe)
    return responder_of(answered, parts)


def test_each_question_has_its_answer_and_none_is_counted_as_refused() -> None:
    network = SimulatedNetwork()
    parts = parts_in(network)

    async def main() -> None:
        await parts.transport.serve(answering(parts, network).answer)
        assert (await talk(network, "b", "a", initiate(offer()))).outcome is Outcome.DECLINED  # it has not begun
        assert (await talk(network, "b", "a", inquire(ID))).outcome is Outcome.BROKEN
        assert (await talk(network, "b", "a", fetch(wanted(part=(0, 9))))).reason == "no-snapshot"
        assert await talk(network, "b", "a", compare(tell())) is not None
        assert await talk(network, "b", "a", say_goodbye(goodbye())) is not None

    run_virtual(main())
    assert not parts.local.journal.streams_refused


def test_an_answer_that_nobody_asked_for_is_refused_and_counted_in_the_journal() -> None:
    network = SimulatedNetwork()
    parts = parts_in(network)

    async def main() -> None:
        await parts.transport.serve(answering(parts, network).answer)
        with pytest.raises(ExchangeError):
            await talk(network, "b", "a", say_goodbye(goodbye(peer="c")))

    run_virtual(main())
    assert parts.local.journal.streams_refused == {"RemoteProtocolError": 1}
