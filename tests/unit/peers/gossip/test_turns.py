"""Offers that come during an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from helpers.peer_parts import offer, parts_in, step, train

from p2p_elastic.peers.exchange.busy_partners import CROSSED, told
from p2p_elastic.peers.exchange.slot import IDLE, Phase, Slot
from p2p_elastic.peers.exchange.waiting_partners import WAITING_MAX
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.gossip.turns import HELD_SECONDS, Turns
from p2p_elastic.peers.state.context import enter
from p2p_elastic.peers.state.endpoint import Refusal
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.messages import DeclineReason
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

Change = Callable[[StrategyParts], object]


def trained() -> StrategyParts:
    """The peer "m", which made a step."""
    parts = parts_in(SimulatedNetwork(), peer="m")
    step(parts)
    return parts


def offering(to: str) -> StrategyParts:
    parts = trained()
    step(parts, due=True)
    parts.local.slot.offer(to)
    return parts


def answering(peer: str) -> StrategyParts:
    parts = trained()
    assert parts.local.slot.answer(peer, None)
    return parts


def turn(
    parts: StrategyParts, peer: str, *, after: float = 60.0, change: Change = bool
) -> tuple[Refusal | None, float]:
    """What comes of the offer of that peer, and after how many seconds, if something changes meanwhile."""

    async def later() -> None:
        await asyncio.sleep(after)
        change(parts)

    async def main() -> tuple[Refusal | None, float]:
        loop = asyncio.get_running_loop()
        tasks, began = [asyncio.ensure_future(train(parts)), asyncio.ensure_future(later())], loop.time()
        refusal = await Turns(parts.local, parts.limits).wait(offer(peer=peer))
        took = loop.time() - began
        for task in tasks:
            task.cancel()
        return refusal, took

    return run_virtual(main())


def test_a_peer_that_is_free_answers_at_once() -> None:
    parts = trained()
    assert turn(parts, "b") == (None, 0.0)
    assert parts.local.slot.state == Slot(Phase.ANSWERING, "b")


def test_an_offer_waits_for_the_exchange_under_way() -> None:
    parts = answering("b")
    assert turn(parts, "c", after=0.2, change=lambda p: p.local.slot.release()) == (None, pytest.approx(0.2))
    assert parts.local.slot.state == Slot(Phase.ANSWERING, "c")
    assert not parts.local.slot.waiting.present


def test_one_that_does_not_end_soon_is_not_waited_for_for_long() -> None:
    refusal, took = turn(answering("b"), "c")
    assert took == pytest.approx(HELD_SECONDS, abs=0.002)
    assert refusal is not None
    assert refusal.reason is DeclineReason.BUSY
    assert told(refusal.detail) is not None


def test_if_exchanges_take_long_an_offer_is_declined_at_once() -> None:
    parts = answering("b")

    async def take_long() -> None:
        loop = asyncio.get_running_loop()
        agreed = Result(Outcome.COMPLETED)
        enter(parts.local, "0" * 32, "b", agreed, initiated=False, started=loop.time() - 30.0, traffic=(288, 288))

    run_virtual(take_long())
    assert turn(parts, "c") == (Refusal(DeclineReason.BUSY, "free in 30.000 s"), 0.0)


def test_while_an_own_offer_has_no_answer_those_of_larger_ids_wait_for_less() -> None:
    _, larger = turn(offering("a"), "z")
    _, smaller = turn(offering("a"), "b")
    _, agreed = turn(agreed_with("a"), "z")
    assert larger < smaller == agreed == pytest.approx(HELD_SECONDS, abs=0.002)


def agreed_with(peer: str) -> StrategyParts:
    parts = offering(peer)
    parts.local.slot.agree()
    return parts


def test_of_two_that_offer_to_each_other_the_smaller_id_goes_first() -> None:
    assert turn(offering("z"), "z") == (Refusal(DeclineReason.BUSY, CROSSED), 0.0)
    parts = offering("a")
    assert turn(parts, "a", after=1.0, change=lambda p: p.local.slot.release()) == (None, pytest.approx(1.0))
    assert parts.local.slot.state == Slot(Phase.ANSWERING, "a")


def test_an_own_offer_to_one_that_waits_here_crosses_with_its_offer() -> None:
    def ask_back(parts: StrategyParts) -> None:
        parts.local.slot.release()
        step(parts, due=True)
        parts.local.slot.offer("z")

    assert turn(answering("b"), "z", after=0.1, change=ask_back) == (
        Refusal(DeclineReason.BUSY, CROSSED),
        pytest.approx(0.1),
    )


def test_a_leaver_lets_nobody_wait() -> None:
    def leave(parts: StrategyParts) -> None:
        parts.local.departure.leave()
        parts.local.slot.release()

    parts = answering("b")
    assert turn(parts, "c", after=0.1, change=leave) == (Refusal(DeclineReason.LEAVING), pytest.approx(0.1))
    assert parts.local.slot.state == IDLE


def test_few_wait_and_each_once() -> None:
    parts = answering("b")

    async def main() -> list[Refusal | None]:
        turns = Turns(parts.local, parts.limits)
        peers = [f"peer {i}" for i in range(WAITING_MAX)]
        waiting = [asyncio.ensure_future(turns.wait(offer(peer=peer))) for peer in peers]
        await asyncio.sleep(0.0)
        refused = [await turns.wait(offer(peer=peer)) for peer in ("peer 0", "another")]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return refused

    assert [refusal and refusal.reason for refusal in run_virtual(main())] == [DeclineReason.BUSY] * 2
    assert not parts.local.slot.waiting.present
