"""Answering exchanges: offers, their further streams, and inquiries after a lost last word."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import torch
from helpers.peer_parts import ID, offer, parts_in, record, serve, step, talk, train, values_of
from helpers.topologies import LSGD

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.exchange.slot import IDLE
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.answering import Answering
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.parallel_streams import Lanes
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.protocol.exchange import Result, initiate, inquire
from p2p_elastic.protocol.messages import Offer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.policy import Policy
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

Scenario = Callable[[SimulatedNetwork, StrategyParts], Awaitable[None]]


def answering(scenario: Scenario, policy: Policy | None = None) -> StrategyParts:
    """A peer "a" that trains and answers while the scenario goes on."""
    network = SimulatedNetwork()
    parts = parts_in(network) if policy is None else parts_in(network, policy)

    async def main() -> None:
        step(parts)
        await serve(parts, Answering(parts.local, parts.limits, Admission(parts.local)))
        training = asyncio.ensure_future(train(parts))
        await scenario(network, parts)
        await asyncio.sleep(60.0)
        training.cancel()

    run_virtual(main())
    return parts


async def exchange(network: SimulatedNetwork, asked: Offer, start: float = 1.0) -> Result:
    """The peer "b", whose parameters are all `start`, asks for that."""
    return await talk(network, "b", "a", initiate(asked), Vectors.moving(torch.full((72,), start)))


def outcomes(parts: StrategyParts) -> dict[Outcome, int]:
    return parts.local.journal.totals(0.0).by_outcome


def test_whoever_offers_is_met_half_way() -> None:
    async def scenario(network: SimulatedNetwork, parts: StrategyParts) -> None:
        before = values_of(parts)
        result = await exchange(network, offer())
        await asyncio.sleep(1.0)
        assert result.outcome is Outcome.COMPLETED
        torch.testing.assert_close(values_of(parts), (before + 1.0) / 2.0)

    parts = answering(scenario)
    assert outcomes(parts) == {Outcome.COMPLETED: 1}
    assert [entry.initiated for entry in parts.local.journal.last(0.0)] == [False]


def test_an_exchange_is_answered_once_however_often_it_is_offered() -> None:
    async def scenario(network: SimulatedNetwork, parts: StrategyParts) -> None:
        await exchange(network, offer())
        await asyncio.sleep(1.0)
        before = values_of(parts)
        with pytest.raises(ExchangeError):
            await exchange(network, offer(), start=9.0)
        await asyncio.sleep(1.0)
        assert torch.equal(values_of(parts), before)

    assert answering(scenario).local.slot.state == IDLE


def test_who_missed_the_last_word_may_ask_for_it() -> None:
    async def scenario(network: SimulatedNetwork, parts: StrategyParts) -> None:
        await exchange(network, offer())
        assert (await talk(network, "b", "a", inquire(ID))).outcome is Outcome.COMPLETED
        assert (await talk(network, "c", "a", inquire(ID))).outcome is Outcome.BROKEN  # it was not its exchange

    answering(scenario)


def test_what_was_asked_after_before_it_came_never_takes_place() -> None:
    async def scenario(network: SimulatedNetwork, parts: StrategyParts) -> None:
        assert (await talk(network, "b", "a", inquire(ID))).outcome is Outcome.BROKEN
        with pytest.raises(ExchangeError):
            await exchange(network, offer())

    assert Outcome.COMPLETED not in outcomes(answering(scenario))


def test_an_asker_that_vanishes_leaves_the_model_as_it_was_and_the_next_one_is_served() -> None:
    async def scenario(network: SimulatedNetwork, parts: StrategyParts) -> None:
        def cut(event: Event) -> Verdict:
            return Verdict("cut" if event.source == "b" and event.kind == "piece" and event.number > 0 else "pass")

        before, network.judge = values_of(parts), cut
        with pytest.raises(ExchangeError):
            await exchange(network, offer())
        await asyncio.sleep(1.0)
        assert torch.equal(values_of(parts), before)
        network.judge = lambda _event: Verdict()
        assert (await talk(network, "b", "a", inquire(ID))).outcome is Outcome.BROKEN
        assert (await exchange(network, offer(id="1" * 32))).outcome is Outcome.COMPLETED

    assert outcomes(answering(scenario)) == {Outcome.BROKEN: 1, Outcome.COMPLETED: 1}


def test_vectors_may_travel_over_several_streams() -> None:
    async def scenario(network: SimulatedNetwork, parts: StrategyParts) -> None:
        lanes = Lanes(lambda: network.transport("b").open(record("a")), ID)
        stream = await network.transport("b").open(record("a"))
        conversation, before = Conversation(stream, Limits()), values_of(parts)
        conversation.carriers.widening = lanes.open
        result = await conversation.run(initiate(offer(streams=3)), Vectors.moving(torch.ones(72)))
        await lanes.close()
        await stream.close()
        await asyncio.sleep(1.0)
        assert result.outcome is Outcome.COMPLETED
        torch.testing.assert_close(values_of(parts), (before + 1.0) / 2.0)

    assert not answering(scenario).local.journal.streams_refused


def test_where_nobody_offers_an_offer_is_declined() -> None:
    async def scenario(network: SimulatedNetwork, _parts: StrategyParts) -> None:
        result = await exchange(network, offer())
        assert result.outcome is Outcome.DECLINED

    assert answering(scenario, LSGD).local.journal.declined_by_us == {"other-rule": 1}


def test_a_peer_under_way_with_one_declines_another_as_busy() -> None:
    async def scenario(network: SimulatedNetwork, parts: StrategyParts) -> None:
        assert parts.local.slot.answer("c", None)
        assert (await exchange(network, offer())).outcome is Outcome.DECLINED

    assert answering(scenario).local.journal.declined_by_us == {"busy": 1}
