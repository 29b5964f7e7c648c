"""Which partner has the mailbox: the one exchange that may be under way, as a state machine.

    from           take      answer(by)     offer(to)     yield_to(to)  declined      deliver    settle  release
    idle           choosing  answering(by)  -             -             -             -          none    idle
    choosing       busy      busy           offering(to)  -             -             delivered  none    idle
    offering(to)   busy      busy           -             yielding(to)  choosing      delivered  none    idle
    agreed(to)     busy      busy           -             -             choosing      delivered  none    idle
    yielding(to)   busy      busy           -             -             yielding(to)  delivered  none    idle
    answering(by)  busy      busy           -             -             -             delivered  none    idle
    delivered      busy      busy           -             -             -             -          idle    delivered

`-`: a bug of this package, which an assertion shows. `busy`: False, nothing changes. `settle` is the training thread's,
between two steps (`Mailbox.between_steps`); by itself it also goes from idle to choosing, if an exchange is due.
`agree` leads from offering(to) to agreed(to), and changes nothing in the other phases with a partner. `yield_to` takes
only the partner that is offered to. A move that was delivered is not taken back: `release` leaves it.

Two things are apart from this. How far the snapshot is (wanted, taking, ready) is between the two threads:
`mailbox.py`. Whether this peer leaves, and which member it awaits, goes on beside any of these states: `departure.py`.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import NamedTuple

from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.peers.exchange.mailbox import Mailbox, Move, State
from p2p_elastic.peers.exchange.waiting_partners import WaitingPartners


class Phase(Enum):
    """What the one exchange is doing."""

    IDLE = "idle"
    CHOOSING = "choosing"  # a snapshot is wanted or there, and no partner has it yet
    OFFERING = "offering"  # it is offered to a partner
    AGREED = "agreed"  # and that partner took it: this ends without anything else
    YIELDING = "yielding"  # the same, and that partner offered to this peer, and goes first
    ANSWERING = "answering"  # a partner asked for it
    DELIVERED = "delivered"  # a move waits for the training thread


class Slot(NamedTuple):
    """One state of the exchange.

    Attributes:
        phase: what it is doing.
        partner: with which peer; None in phases without a partner.
    """

    phase: Phase
    partner: str | None = None


IDLE, CHOOSING, DELIVERED = Slot(Phase.IDLE), Slot(Phase.CHOOSING), Slot(Phase.DELIVERED)


class ExchangeSlot:
    """The mailbox and the exchange that has it. Belongs to the network thread; `state` may be read from any.

    Args:
        vector: the model.
    """

    def __init__(self, vector: ParameterVector) -> None:
        self.mailbox = Mailbox(vector)
        self.handed_step: int | None = None  # of the last snapshot that another peer moved by: past, so no state
        self.freed = asyncio.Event()  # set when waiting for another state may be over
        self.waiting = WaitingPartners()  # for the end of the exchange under way
        self._held = CHOOSING  # what the snapshot is for, while there is one

    @property
    def state(self) -> Slot:
        """The present state."""
        mailbox = self.mailbox.state
        if mailbox is State.FREE:
            return IDLE
        return DELIVERED if mailbox is State.DELIVERED else self._held

    # -- transitions --------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Ask for a snapshot, for an exchange outside of the schedule.

        Returns:
            False if an exchange is under way.
        """
        return self._request(CHOOSING, None)

    def answer(self, partner: str, part: Part | None) -> bool:
        """Ask for a snapshot, for a partner that asked this peer.

        Args:
            partner: its peer id.
            part: of the vector, that it asks for; None: all of it.

        Returns:
            False if an exchange is under way.
        """
        return self._request(Slot(Phase.ANSWERING, partner), part)

    def _request(self, held: Slot, part: Part | None) -> bool:
        if not self.mailbox.request(part):
            return False
        self._held = held
        return True

    def offer(self, partner: str) -> None:
        """Offer the snapshot to a partner.

        Args:
            partner: its peer id.
        """
        self._move(Slot(Phase.OFFERING, partner), Phase.CHOOSING)
        self.waiting.asked()

    def agree(self) -> None:
        """The partner took the offer."""
        if self.state.phase is Phase.OFFERING:
            self._move(Slot(Phase.AGREED, self.state.partner), Phase.OFFERING)

    def yield_to(self, partner: str) -> None:
        """Let the partner go first that this peer offers to, since it offered to this peer.

        Args:
            partner: its peer id.
        """
        assert self.state.partner == partner, f"yields to {partner} while {self.state}"
        self._move(Slot(Phase.YIELDING, partner), Phase.OFFERING)

    def declined(self) -> None:
        """The partner did not take the offer: it is another's turn, unless this peer yields to that one."""
        state = self.state
        sources = (Phase.OFFERING, Phase.AGREED, Phase.YIELDING)
        self._move(state if state.phase is Phase.YIELDING else CHOOSING, *sources)

    def deliver(self, move: Move) -> None:
        """Hand an exchange's move to the training thread, as `Mailbox.deliver` does.

        Args:
            move: the move.
        """
        self.mailbox.deliver(move)
        self._held = CHOOSING
        self.freed.set()

    def release(self) -> None:
        """Give up the exchange under way: neither end moves."""
        self.mailbox.release()
        self._held = CHOOSING
        self.freed.set()

    def _move(self, to: Slot, *sources: Phase) -> None:
        state = self.state
        assert state.phase in sources, f"{to.phase.value} after {state.phase.value}"
        self._held = to
        self.freed.set()

    # -- beside them --------------------------------------------------------------------------------------------------

    def gave(self) -> None:
        """Note that another peer moves by the snapshot under way."""
        self.handed_step = self.mailbox.snapshot_step

    async def until_idle(self) -> None:
        """Wait until no exchange is under way and no move waits to be added."""
        await self._until(Phase.IDLE)

    async def until_quiet(self) -> None:
        """Wait until no exchange is under way; a move may still wait to be added."""
        await self._until(Phase.IDLE, Phase.DELIVERED)

    async def _until(self, *phases: Phase) -> None:
        while self.state.phase not in phases:
            self.freed.clear()
            await self.freed.wait()
