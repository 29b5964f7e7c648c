"""What a partner can exchange with at any peer: the model that trains here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from helpers.peer_parts import GOSSIP, offer, parts_in, step, train, values_of

from p2p_elastic.peers.exchange.busy_partners import CROSSED
from p2p_elastic.peers.exchange.pacing import ORDINARY
from p2p_elastic.peers.exchange.slot import CHOOSING, DELIVERED, IDLE, Phase, Slot
from p2p_elastic.peers.gossip.endpoint import OwnEndpoint
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.endpoint import Refusal
from p2p_elastic.protocol.chunks import Received
from p2p_elastic.protocol.messages import DeclineReason
from p2p_elastic.rules.methods import Flow
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NOT_FINITE = torch.full((72,), math.nan)


def trained(steps: int = 1, policy: Any = GOSSIP, **context: Any) -> StrategyParts:
    parts = parts_in(SimulatedNetwork(), policy, **context)
    for _ in range(steps):
        step(parts)
    return parts


def reserved(parts: StrategyParts, *, training: bool = True, **said: Any) -> Refusal | None:
    """What comes of an offer of "b"."""

    async def main() -> Refusal | None:
        if training:
            task = asyncio.ensure_future(train(parts))
        try:
            return await parts.own.reserve(offer(**said))
        finally:
            if training:
                task.cancel()

    return run_virtual(main())


def test_for_an_offer_a_snapshot_is_taken_at_the_next_step() -> None:
    parts = trained()
    assert reserved(parts) is None
    assert parts.local.slot.state == Slot(Phase.ANSWERING, "b")
    assert torch.equal(parts.own.vectors(offer()).mine, values_of(parts))
    assert parts.own.precedence(offer()) == ORDINARY
    parts.own.free()
    assert parts.local.slot.state == IDLE


@pytest.mark.parametrize(
    ("parts", "said", "reason"),
    [
        (lambda: trained(0), {}, DeclineReason.NOT_TRAINING),
        (lambda: trained(newcomer=True, fragments=4), {"part": (0, 18)}, DeclineReason.NOT_TRAINING),
    ],
    ids=["not begun", "needs a whole model"],
)
def test_some_peers_cannot_answer_yet(
    parts: Callable[[], StrategyParts], said: dict[str, Any], reason: DeclineReason
) -> None:
    one = parts()
    refusal = reserved(one, **said, training=False)
    assert refusal is not None
    assert refusal.reason is reason
    assert one.local.slot.state == IDLE


def test_a_peer_whose_steps_end_too_late_says_so_in_time_and_is_free_again() -> None:
    parts = trained()
    hasty = OwnEndpoint(parts.local, Limits(snapshot_seconds=2.0))
    for seat, seconds in ((parts.own, 5), (hasty, 2)):
        refusal = run_virtual(seat.reserve(offer()))
        assert refusal == Refusal(DeclineReason.NOT_TRAINING, f"no step ended in {seconds} s")
        assert parts.local.slot.state == IDLE


def test_one_exchange_at_a_time() -> None:
    parts = trained()
    assert parts.local.slot.take()
    assert reserved(parts) == Refusal(DeclineReason.BUSY, "free in 0.100 s")
    assert parts.local.slot.state == CHOOSING


def test_a_leaver_answers_only_the_one_that_it_awaits() -> None:
    parts = trained()
    parts.local.departure.leave()
    assert reserved(parts) == Refusal(DeclineReason.LEAVING)
    parts.local.departure.await_taker("b")
    assert reserved(parts) is None


def test_parameters_that_are_not_finite_go_out_as_zeros_that_nobody_follows() -> None:
    parts = trained()
    parts.local.vector.load_(NOT_FINITE)
    assert reserved(parts) is None
    assert not parts.own.vectors(offer()).mine.any()
    assert parts.own.accept(offer()).weight == 0.0


def test_where_the_asker_sends_nothing_broken_parameters_are_declined() -> None:
    parts = trained(policy=GOSSIP._replace(flow=Flow.PULL))
    parts.local.vector.load_(NOT_FINITE)
    assert reserved(parts) == Refusal(DeclineReason.NOT_FINITE)
    assert parts.local.slot.state == IDLE


def exchanged(policy: Any) -> tuple[StrategyParts, torch.Tensor, float | None]:
    """After an exchange with a partner whose parameters are all one above ours; ours before, and the distance."""
    parts, before = trained(policy=policy), torch.empty(0)

    async def main() -> float | None:
        task = asyncio.ensure_future(train(parts))
        assert await parts.own.reserve(offer()) is None
        task.cancel()
        vectors = parts.own.vectors(offer())
        vectors.mine.fill_(1.0)  # the difference, as it arrives in place
        received = Received(zero=False, distance=72**0.5)
        accept = parts.own.accept(offer())
        assert await parts.own.try_out(offer(), accept) is None
        return parts.own.commit(offer(), accept, None, received)

    before = values_of(parts)
    return parts, before, run_virtual(main())


def test_what_was_exchanged_moves_the_model_at_the_next_step() -> None:
    parts, before, distance = exchanged(GOSSIP)
    assert distance == pytest.approx(72**0.5)
    assert parts.local.slot.state == DELIVERED
    assert torch.equal(values_of(parts), before)
    step(parts)
    torch.testing.assert_close(values_of(parts), before + 0.5)


def test_where_the_asker_only_pulls_the_model_stays() -> None:
    parts, before, distance = exchanged(GOSSIP._replace(flow=Flow.PULL))
    assert (distance, parts.local.slot.state) == (None, IDLE)
    step(parts)
    assert torch.equal(values_of(parts), before)


# -- two that offer to each other --------------------------------------------------------------------------------------


def offering(to: str) -> StrategyParts:
    """The peer "b" has offered to that one."""
    parts = parts_in(SimulatedNetwork(), peer="b")
    step(parts, due=True)
    parts.local.slot.offer(to)
    return parts


def answer_while_offering(to: str, end: Callable[[StrategyParts], Awaitable[None]]) -> Refusal | None:
    """What the peer "b", which has offered to one, says to the offer of that one, while the test goes on."""
    parts = offering(to)

    async def main() -> Refusal | None:
        tasks = [asyncio.ensure_future(train(parts)), asyncio.ensure_future(end(parts))]
        refusal = await parts.own.reserve(offer(peer=to))
        await tasks[1]
        tasks[0].cancel()
        return refusal

    return run_virtual(main())


async def is_declined(parts: StrategyParts) -> None:
    """Its own offer ends a second later."""
    await asyncio.sleep(1.0)
    parts.local.slot.release()


def test_the_offer_of_the_smaller_id_stands_once_our_own_has_ended() -> None:
    assert answer_while_offering("a", is_declined) is None


def test_that_of_the_greater_id_is_declined_at_once() -> None:
    async def still_offers(parts: StrategyParts) -> None:
        assert parts.local.slot.state == Slot(Phase.OFFERING, "c")

    assert answer_while_offering("c", still_offers) == Refusal(DeclineReason.BUSY, CROSSED)


# -- outside of the schedule -------------------------------------------------------------------------------------------


def test_a_snapshot_for_an_exchange_outside_of_the_schedule_waits_for_the_one_under_way() -> None:
    parts = trained()
    assert parts.local.slot.answer("b", None)

    async def main() -> None:
        training = asyncio.ensure_future(train(parts))
        taking = asyncio.ensure_future(parts.own.take_snapshot())
        await asyncio.sleep(1.0)
        assert not taking.done()
        parts.local.slot.release()
        assert await taking
        training.cancel()

    run_virtual(main())
    assert parts.local.slot.state == CHOOSING


def test_none_can_be_had_where_the_exchange_under_way_or_the_step_does_not_end() -> None:
    busy, idle = trained(), trained()
    assert busy.local.slot.answer("b", None)
    for parts, state in ((busy, Slot(Phase.ANSWERING, "b")), (idle, IDLE)):
        assert not run_virtual(parts.own.take_snapshot())
        assert parts.local.slot.state == state


def test_none_can_be_had_of_parameters_that_are_not_finite() -> None:
    parts = trained()
    parts.local.vector.load_(NOT_FINITE)

    async def main() -> bool:
        training = asyncio.ensure_future(train(parts))
        try:
            return await parts.own.take_snapshot()
        finally:
            training.cancel()

    assert not run_virtual(main())
    assert parts.local.slot.state == IDLE
