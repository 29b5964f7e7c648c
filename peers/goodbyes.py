"""Hearing the goodbyes of others: who leaves is dropped at once, and what it has for us is taken from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from p2p_elastic.peers.centre import Centre
from p2p_elastic.peers.conversation import Conversation
from p2p_elastic.peers.follower import Follower
from p2p_elastic.peers.initiator import Initiator
from p2p_elastic.peers.local_context import LocalContext
from p2p_elastic.peers.presence import Presence
from p2p_elastic.peers.records import CentreClaim, PeerRecord
from p2p_elastic.peers.repeat import attempt
from p2p_elastic.peers.seats import OwnSeat
from p2p_elastic.peers.timeouts import wait_for
from p2p_elastic.protocol.messages import Goodbye, Heard, Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import Flow, Topology

TAKE_SECONDS_MAX = 10.0  # for what a leaver has for us, however long it says that it stays


class Goodbyes:
    """What a member's goodbye changes here. Belongs to the network thread."""

    def __init__(
        self, local: LocalContext, presence: Presence, follower: Follower, initiator: Initiator, seat: OwnSeat
    ) -> None:
        self._local, self._presence, self._follower = local, presence, follower
        self._initiator, self._seat = initiator, seat
        self._turn = asyncio.Lock()

    async def hear(self, conversation: Conversation, goodbye: Goodbye) -> None:
        """Drop the member that proved to be `goodbye.peer`, take what it has for us, and say that we heard it.

        Raises ExchangeError.
        """
        inherits = goodbye.seconds > 0.0 and goodbye.heir == self._local.peer
        # An heir drops the old centre afterwards: while it is there nobody else thinks of taking the place.
        took = inherits and await self._take(goodbye, lambda: self._inherit(goodbye))
        giver = None if inherits and not took else self._drop(goodbye)  # it will say who is the heir instead
        if giver is not None and goodbye.heir is None:
            took = await self._take(goodbye, lambda: self._pull(giver))
        try:
            await conversation.send(Heard(id=goodbye.id, took=took))
        finally:
            self._local.journal.gave(conversation.traffic)
            # Who leaves itself takes no place, but has to know who is to have its last parameters.
            await attempt(self._presence.announce if inherits and took else self._presence.look_for_centre)

    async def _take(self, goodbye: Goodbye, taking: Callable[[], Coroutine[None, None, bool]]) -> bool:
        """Take something from who leaves, one at a time, while it stays."""
        if self._local.departure.leaving or self._local.own.condition.drained:
            return False

        async def in_turn() -> bool:
            async with self._turn:
                return await taking()

        try:
            return await wait_for(in_turn(), min(goodbye.seconds, TAKE_SECONDS_MAX))
        except asyncio.TimeoutError:
            return False

    # -- the centre variable ------------------------------------------------------------------------------------------

    async def _inherit(self, goodbye: Goodbye) -> bool:
        """Fetch the centre variable from the centre that leaves, and take its place."""
        local, stamp = self._local, goodbye.centre
        centre, member = local.run.centre, local.members.known.get(goodbye.peer)
        if centre is None or stamp is None or member is None or centre.holder != goodbye.peer or centre.seated:
            return False
        known = centre.stamp.clock if centre.stamp.term == stamp.term else None
        # Into the vectors of the place that is to be ours: an exchange of our own may be under way in the others.
        answer = await self._follower.ask(member.record, goodbye.peer, known, into=centre.vectors.theirs)
        if answer.given is not None:
            centre.saw(centre.vectors.theirs, Stamp(term=stamp.term, clock=answer.given.step))
        elif not answer.unchanged:
            return False
        if centre.seated or local.departure.leaving:
            return False
        centre.inherit(local.peer, local.members.known, asyncio.get_running_loop().time())
        local.events.add("centre", f"the centre is {local.peer}", holder=local.peer)
        return True

    def _name_heir(self, centre: Centre, goodbye: Goodbye) -> None:
        """The centre that leaves says who took its place: that counts until the heir's own next record."""
        if goodbye.centre is None or goodbye.heir is None or centre.holder != goodbye.peer:
            return
        claim = CentreClaim(stamp=goodbye.centre.next_term(), seated=True)
        self._local.members.name_centre(goodbye.heir, claim)

    # -- the member ---------------------------------------------------------------------------------------------------

    def _drop(self, goodbye: Goodbye) -> PeerRecord | None:
        """It is a member no more. Its record, where it asks us to take something for the first time."""
        local, asked = self._local, goodbye.seconds > 0.0
        if goodbye.peer not in local.members.known:  # of strangers nothing is remembered
            return local.members.asked_after_leaving(goodbye.peer) if asked else None
        record = local.members.left(goodbye.peer, goodbye.sequence, asked=asked)
        if record is None:
            return None
        if local.run.centre is not None:
            self._name_heir(local.run.centre, goodbye)
        if local.run.following is not None:
            local.run.following.lose(goodbye.peer)
        local.own.weigh()
        return record if asked else None

    async def _pull(self, giver: PeerRecord) -> bool:
        """Average with who leaves: by rules that pull only we, who ask, can move."""
        policy = self._local.run.policy
        if policy.topology is not Topology.PAIRS or policy.flow is not Flow.PULL:
            return False
        if self._local.own.progress.step == 0 or not await self._seat.take_snapshot():
            return False
        if self._local.departure.leaving:  # since then: who goes is no heir, and would end without the last word
            self._local.slot.release()
            return False
        return await self._initiator.exchange_with(giver) is Outcome.COMPLETED
