"""Who has the mailbox: every transition of the table, those that are forbidden, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import torch
from helpers.swarm import tiny_model

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.mailbox import Move
from p2p_elastic.peers.exchange.slot import CHOOSING, DELIVERED, IDLE, ExchangeSlot, Phase, Slot
from p2p_elastic.testing.virtual_time import run_virtual

OFFERING, AGREED, YIELDING, ANSWERING = (
    Slot(phase, "b") for phase in (Phase.OFFERING, Phase.AGREED, Phase.YIELDING, Phase.ANSWERING)
)
FORBIDDEN = "an assertion"


def step(slot: ExchangeSlot, *, due: bool = False) -> None:
    """What the training thread does between two steps."""
    slot.mailbox.between_steps(7, due=due, settle=True, published=lambda _: None)


def deliver(slot: ExchangeSlot) -> None:
    slot.deliver(Move("x", torch.ones(72), 1.0))


def slot_in(state: Slot) -> ExchangeSlot:
    """A slot that came there, with a snapshot where one is under way."""
    slot = ExchangeSlot(ParameterVector(tiny_model(0)))
    if state.phase is Phase.ANSWERING:
        slot.answer("b", None)
        step(slot)
    elif state != IDLE:
        step(slot, due=True)
    if state.phase in (Phase.OFFERING, Phase.AGREED, Phase.YIELDING):
        slot.offer("b")
    if state.phase is Phase.AGREED:
        slot.agree()
    if state.phase is Phase.YIELDING:
        slot.yield_to("b")
    if state == DELIVERED:
        deliver(slot)
    assert slot.state == state
    return slot


DO: dict[str, Callable[[ExchangeSlot], object]] = {
    "take": lambda slot: slot.take(),
    "answer": lambda slot: slot.answer("c", None),
    "due": lambda slot: step(slot, due=True),
    "offer": lambda slot: slot.offer("b"),
    "agree": lambda slot: slot.agree(),
    "yield_to": lambda slot: slot.yield_to("b"),
    "declined": lambda slot: slot.declined(),
    "deliver": deliver,
    "settle": step,
    "release": lambda slot: slot.release(),
}
ASKED = Slot(Phase.ANSWERING, "c")
TABLE: dict[Slot, dict[str, Slot | str]] = {
    IDLE: {"take": CHOOSING, "answer": ASKED, "due": CHOOSING, "settle": IDLE, "release": IDLE},
    CHOOSING: {"offer": OFFERING, "deliver": DELIVERED, "release": IDLE},
    OFFERING: {"agree": AGREED, "yield_to": YIELDING, "declined": CHOOSING, "deliver": DELIVERED, "release": IDLE},
    AGREED: {"declined": CHOOSING, "deliver": DELIVERED, "release": IDLE},
    YIELDING: {"declined": YIELDING, "deliver": DELIVERED, "release": IDLE},
    ANSWERING: {"deliver": DELIVERED, "release": IDLE},
    # At a step that is due the move is added first, and the next exchange begins at once.
    DELIVERED: {"settle": IDLE, "due": CHOOSING, "release": DELIVERED},
}
NOTHING = (
    "take",
    "answer",
    "due",
    "settle",
    "agree",
)  # change nothing where they are not in the table; the others are bugs


@pytest.mark.parametrize("what", DO)
@pytest.mark.parametrize("state", TABLE, ids=lambda state: state.phase.value)
def test_each_transition_leads_where_the_table_says_or_is_a_bug(state: Slot, what: str) -> None:
    slot = slot_in(state)
    expected = TABLE[state].get(what, state if what in NOTHING else FORBIDDEN)
    if expected == FORBIDDEN:
        with pytest.raises(AssertionError):
            DO[what](slot)
        assert slot.state == state
    else:
        done = DO[what](slot)
        assert slot.state == expected
        if what in ("take", "answer"):
            assert done is (state == IDLE)


def test_it_yields_only_to_the_partner_that_it_offers_to() -> None:
    slot = slot_in(OFFERING)
    with pytest.raises(AssertionError, match="yields to c"):
        slot.yield_to("c")
    assert slot.state == OFFERING


def test_a_move_is_delivered_only_into_a_snapshot_that_is_there() -> None:
    slot = ExchangeSlot(ParameterVector(tiny_model(0)))
    assert slot.answer("b", None)
    with pytest.raises(AssertionError):
        deliver(slot)  # no step ended yet
    assert slot.state == ANSWERING


def test_after_a_release_the_next_exchange_remembers_nobody() -> None:
    slot = slot_in(YIELDING)
    slot.release()
    step(slot, due=True)
    assert slot.state == CHOOSING


def test_what_was_given_is_the_step_of_the_snapshot_and_outlasts_the_exchange() -> None:
    slot = slot_in(ANSWERING)
    assert slot.handed_step is None
    slot.gave()
    slot.release()
    assert slot.handed_step == 7


def test_who_waits_hears_of_the_end_of_the_exchange_and_of_the_move_that_was_added() -> None:
    async def main() -> None:
        slot = slot_in(OFFERING)
        quiet, idle = asyncio.ensure_future(slot.until_quiet()), asyncio.ensure_future(slot.until_idle())
        await asyncio.sleep(0.1)
        assert not quiet.done()
        deliver(slot)
        await asyncio.sleep(0.1)
        assert (quiet.done(), idle.done()) == (True, False)
        step(slot)
        slot.freed.set()  # as `Peer` does for the training thread
        await asyncio.sleep(0.1)
        assert idle.done()

    run_virtual(main())
