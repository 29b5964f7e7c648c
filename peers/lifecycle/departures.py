"""Hearing the goodbyes of others: a member that leaves is dropped, and what it hands over is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.endpoint import OwnEndpoint
from p2p_elastic.peers.gossip.initiator import Initiator
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.membership.periodic import attempt
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.protocol.messages import Goodbye, Heard
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import Flow

TAKE_SECONDS_MAX = 10.0  # for what a leaver hands over, however long it says that it stays


class Goodbyes:
    """What a member's goodbye changes here. Belongs to the network thread.

    Args:
        local: this peer's side of any exchange.
        admission: says which askers are heard.
        presence: announces what follows.
        initiator: exchanges with a leaver, by rules that only pull.
        endpoint: this peer's end of that exchange.
    """

    def __init__(
        self,
        local: LocalContext,
        admission: Admission,
        presence: Presence,
        initiator: Initiator,
        endpoint: OwnEndpoint,
    ) -> None:
        self._local, self._admission, self._presence = local, admission, presence
        self._initiator, self._endpoint = initiator, endpoint
        self._turn = asyncio.Lock()

    def register(self, answers: Answers) -> None:
        """Register the answer to goodbyes.

        Args:
            answers: the table of the responder.
        """
        answers.register(Goodbye, self.hear)

    async def hear(self, conversation: Conversation, goodbye: Goodbye) -> None:
        """Drop the member that proved to be `goodbye.peer`, take what it hands over, and say that it was heard.

        Args:
            conversation: with that member.
            goodbye: what it said.

        Raises:
            ExchangeError: if it is not that member, or if the answer cannot be sent.
        """
        self._admission.identify(conversation, goodbye.peer)
        if await self._admission.declines_other_run(conversation, goodbye):
            return
        inherits = goodbye.seconds > 0.0 and goodbye.heir == self._local.peer
        # An heir drops the leaver afterwards: while it is there nobody else thinks of taking the place.
        took = inherits and await self._take(goodbye, lambda: self._local.run.topology.inherit(goodbye))
        giver = None if inherits and not took else self._drop(goodbye)  # it will name the heir instead
        if giver is not None and goodbye.heir is None:
            took = await self._take(goodbye, lambda: self._pull(giver))
        try:
            await conversation.send(Heard(id=goodbye.id, took=took))
        finally:
            self._local.journal.gave(conversation.traffic)
            # A peer that leaves itself takes no place, but has to know which one is to have its last parameters.
            await attempt(self._presence.announce if inherits and took else self._presence.look)

    async def _take(self, goodbye: Goodbye, taking: Callable[[], Coroutine[None, None, bool]]) -> bool:
        """Take something from a member that leaves, one at a time, while it stays."""
        if self._local.departure.leaving or self._local.own.condition.drained:
            return False

        async def in_turn() -> bool:
            async with self._turn:
                return await taking()

        try:
            return await wait_for(in_turn(), min(goodbye.seconds, TAKE_SECONDS_MAX))
        except asyncio.TimeoutError:
            return False

    def _drop(self, goodbye: Goodbye) -> PeerRecord | None:
        """Drop it from the members. Its record, if it asks this peer to take something for the first time."""
        local, asked = self._local, goodbye.seconds > 0.0
        if goodbye.peer not in local.members.known:  # of strangers nothing is remembered
            return local.members.asked_after_leaving(goodbye.peer) if asked else None
        record = local.members.left(goodbye.peer, goodbye.sequence, asked=asked)
        if record is None:
            return None
        local.run.topology.left(goodbye)
        local.own.weigh()
        return record if asked else None

    async def _pull(self, giver: PeerRecord) -> bool:
        """Average with a member that leaves: by rules that pull only the asker, this peer, can move."""
        local = self._local
        if local.run.policy.flow is not Flow.PULL or not local.run.topology.hands_parameters:
            return False
        if local.own.progress.step == 0 or not await self._endpoint.take_snapshot():
            return False
        if local.departure.leaving:  # since then: a peer that leaves is no heir, and would end without the last word
            local.slot.release()
            return False
        return await self._initiator.exchange_with(giver) is Outcome.COMPLETED
