"""Leaving a run: let the exchange under way end, hand over what was learnt, and say goodbye.

The goodbye always gets out, at whatever cost for the rest: most members hear it at once, so that none of them chooses
this peer any more, while the hand-over to one of them goes on. Only a peer that holds what all exchange with hands that
over first, and then says to which member.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import DirectoryError, ExchangeError
from p2p_elastic.peers.gossip.initiator import Initiator, new_id
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.peers.transport.interfaces import Directory
from p2p_elastic.protocol.exchange import say_goodbye
from p2p_elastic.protocol.messages import STAY_SECONDS_MAX, DeclineReason, Goodbye, Heard
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import Flow
from p2p_elastic.status.schema import FarewellStatus

log = logging.getLogger(__name__)
T = TypeVar("T")
GOODBYE_SECONDS, GOODBYE_SHARE = 1.0, 0.4  # kept for the last goodbyes: seconds, or a share of all if that is less
TOLD_MAX = 32  # members that hear it from this peer; the others read it in the directory
TRIES = 2  # partners, or heirs, that may fail to take something
ASKED_MAX = 8  # partners asked at all: those that decline at once cost no time
BUSY_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # seconds before those that were busy are asked again
NO_TIME = "there was no time for more"
STAY_SHARE = 0.8  # of the time of one try: this peer says that it stays for that, and waits longer for the answer


class Farewell:
    """The end of one peer in its run. Belongs to the network thread.

    Args:
        parts: what every strategy works with.
        directory: has this peer's record, which is withdrawn.
        presence: knows the number of the last record.
    """

    def __init__(self, parts: StrategyParts, directory: Directory, presence: Presence) -> None:
        self._parts, self._local, self._limits = parts, parts.local, parts.limits
        self._directory, self._presence = directory, presence
        self._status = FarewellStatus()
        self._told = set[str]()  # members that are not told again
        self._heard = set[str]()  # those of them that said that they heard it
        self._begun = False  # handing over: never twice, what became of the first time may not be known

    async def say(self, seconds: float, *, hand_over: bool = True) -> FarewellStatus:
        """Leave the run. If it is cancelled and called again, it goes on with what was not begun.

        Args:
            seconds: that it may take.
            hand_over: whether a partner is to take over the last parameters; a centre variable is handed over anyway.

        Returns:
            How that went.
        """
        local, loop = self._local, asyncio.get_running_loop()
        local.departure.leave()
        alive = self._alive()
        self._note(members=max(self._status.members, len(alive)))
        end, last = loop.time() + seconds, min(GOODBYE_SECONDS, GOODBYE_SHARE * seconds)
        if local.run.topology.here:
            await self._hand_over(end - last, None)
            await asyncio.gather(self._withdraw(end), self._say_to_all(end, except_for=None))
            return self._status
        partner = local.run.topology.taker(set()) if hand_over else None
        if not hand_over:
            self._note(reason="its training ended with an error")
            await asyncio.gather(self._withdraw(end), self._say_to_all(end, except_for=None))
            return self._status
        await asyncio.gather(
            self._withdraw(end),
            self._say_to_all(loop.time() + last, except_for=partner),
            self._hand_over(end - last, partner),
        )
        await self._say_to_all(end, except_for=None)
        return self._status

    def _note(self, **facts: object) -> None:
        self._status = self._status.model_copy(update=facts)

    def _alive(self) -> dict[str, PeerRecord]:
        return {peer: member.record for peer, member in self._local.members.alive().items()}

    # -- goodbye ------------------------------------------------------------------------------------------------------

    async def _say_to_all(self, end: float, *, except_for: PeerRecord | None) -> None:
        """Tell the members that were not told yet, all at the same time."""
        open_ones = sorted(self._alive().keys() - self._told - {except_for.peer if except_for is not None else ""})
        chosen = self._parts.rng.sample(open_ones, max(0, min(len(open_ones), TOLD_MAX - len(self._told))))
        self._told.update(chosen)
        records = self._alive()
        await asyncio.gather(*(self._tell(records[peer], end) for peer in chosen))

    async def _tell(
        self, member: PeerRecord, end: float, *, stay: float = 0.0, place: Mapping[str, Any] | None = None
    ) -> Heard | None:
        """Say goodbye to one member, and offer it that `place`; its answer, None if there is none in time."""
        goodbye = Goodbye(
            id=new_id(self._parts.rng),
            peer=self._local.peer,
            run=self._local.run.context.run,
            sequence=self._presence.next_sequence,
            seconds=min(stay, STAY_SECONDS_MAX),
            **(self._local.run.topology.goodbye() if place is None else place),
        )
        try:
            heard = await _until(end, self._converse(member, goodbye))
        except (ExchangeError, asyncio.TimeoutError) as error:
            log.info("goodbye to %s: %s", member.peer, error or "no answer")
            return None
        if heard is not None and (
            place is None or heard.took
        ):  # an heir that refuses is told again, with the name of the other heir
            self._heard.add(member.peer)
            self._told.add(member.peer)
            self._note(told=len(self._heard))
        return heard

    async def _converse(self, member: PeerRecord, goodbye: Goodbye) -> Heard | None:
        stream = await self._parts.transport.open(member)
        conversation = Conversation(stream, self._limits)
        try:
            return await conversation.run(say_goodbye(goodbye))
        finally:
            stream.abort()  # nothing more is to be read at either end, and nobody waits for a slow close
            self._local.journal.gave(conversation.traffic)

    async def _withdraw(self, end: float) -> None:
        try:
            await _until(end, self._directory.withdraw())
            self._note(withdrawn=True)
        except (asyncio.TimeoutError, DirectoryError) as error:
            log.info("could not withdraw this peer's record: %s", error or "no answer")

    # -- what was learnt ----------------------------------------------------------------------------------------------

    async def _hand_over(self, end: float, partner: PeerRecord | None) -> None:
        """Let the exchange under way end, and hand over what this peer has."""
        try:
            await _until(end, self._local.slot.until_quiet())
            if not self._begun:
                self._begun = True
                self._note(reason=NO_TIME)  # stands if the time is over before that ends
                await _until(end, self._hand_over_all(end, partner))
        except asyncio.TimeoutError:
            self._note(reason=NO_TIME)
        finally:
            self._local.departure.handed_over()

    async def _hand_over_all(self, end: float, partner: PeerRecord | None) -> None:
        local = self._local
        local.departure.hand_over()
        reason = self._nothing_to_give()
        if reason is None:
            reason = await self._hand_parameters(end, partner)
        facts: Mapping[str, Any] = {"reason": reason}
        if local.run.topology.here:
            facts = await local.run.topology.hand_place(
                lambda heir, failed, place: self._offer(heir, _turn(end, failed), place), TRIES
            )
        self._note(**facts)

    def _nothing_to_give(self) -> str | None:
        """Why this peer's parameters are of no use to others; None if they are."""
        local = self._local
        if not local.run.topology.hands_parameters:
            return "this rule hands nothing over"
        if local.own.condition.drained:
            return "drained"
        if local.own.progress.step == 0 or local.own.weight == 0.0:
            return "it counts for nobody"
        if local.slot.handed_step == local.own.progress.step and local.share == 0.0:
            return "nothing new since the last exchange"
        return None

    async def _hand_parameters(self, end: float, partner: PeerRecord | None) -> str | None:
        """One last exchange. Says why it did not come to that; None if it did."""
        topology, vain, failed = self._local.run.topology, set[str](), 0
        limits = replace(self._limits, idle_seconds=min(self._limits.idle_seconds, _left(end) / TRIES), inquiries=1)
        initiator = Initiator(self._local, self._parts.transport, limits, self._parts.rng)
        if topology.here:
            return await self._meet_here()
        busy = set[str]()
        for pause in BUSY_PAUSES:
            await asyncio.sleep(pause)
            busy.clear()
            while len(vain | busy) < ASKED_MAX:
                partner = partner or topology.taker(vain | busy)
                if partner is None:
                    break
                outcome = await self._give(partner, initiator, _turn(end, failed))
                if outcome is Outcome.COMPLETED:
                    self._note(handed_to=partner.peer)
                    return None
                failed += outcome is not Outcome.DECLINED
                if outcome is Outcome.HALF or failed == TRIES:
                    return "nobody took it, as far as is known"
                (busy if self._was_busy(partner, outcome) else vain).add(partner.peer)
                partner = None
            if not busy:
                break
        return "nobody took it" if vain or busy else "nobody is there to take it"

    def _was_busy(self, partner: PeerRecord, outcome: Outcome | None) -> bool:
        met = self._local.journal.met.get(partner.peer)
        reasons = {reason.value for reason in (DeclineReason.BUSY, *self._local.run.topology.asks_again)}
        return outcome is Outcome.DECLINED and met is not None and met.last.reason in reasons

    async def _meet_here(self) -> str | None:
        if not await self._parts.own.take_snapshot():
            return "no snapshot could be had"
        reason: str | None = "interrupted"
        try:
            reason = await self._local.run.topology.meet_here()
        finally:
            if reason is not None:
                self._local.slot.release()
        return reason

    async def _give(self, partner: PeerRecord, initiator: Initiator, end: float) -> Outcome | None:
        local = self._local
        if local.run.policy.flow is Flow.PULL:  # only the asker moves
            heard = await self._offer(partner, end)
            if heard is None:
                return None
            return Outcome.COMPLETED if heard.took else Outcome.DECLINED
        if not await self._parts.own.take_snapshot():
            return None
        return await initiator.exchange_with(partner)

    async def _offer(self, partner: PeerRecord, end: float, place: Mapping[str, Any] | None = None) -> Heard | None:
        """Say goodbye to a member that is to take something from this peer, and let it."""
        self._local.departure.await_taker(partner.peer)
        try:
            return await self._tell(partner, end, stay=STAY_SHARE * _left(end), place=place)
        finally:
            self._local.departure.await_nobody()


def _left(end: float) -> float:
    return max(0.0, end - asyncio.get_running_loop().time())


def _turn(end: float, turn: int) -> float:
    """Until when one try may last: the last one to the end, those before it two thirds of what is left."""
    return end if turn == TRIES - 1 else end - _left(end) / 3


async def _until(end: float, wait: Awaitable[T]) -> T:
    return await wait_for(wait, _left(end))
