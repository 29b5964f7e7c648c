"""What is checked of a peer that asks for something, before a feature looks at what it asks for."""

from __future__ import annotations

from p2p_elastic.errors import RemoteProtocolError
from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.protocol.chunks import EXACT
from p2p_elastic.protocol.exchange import objection
from p2p_elastic.protocol.messages import Decline, DeclineReason, Describe, Fetch, Goodbye, Offer, Tell
from p2p_elastic.protocol.roles import Role


class Admission:
    """Declines for all features alike. Belongs to the network thread.

    Args:
        local: the parts of this peer.
    """

    def __init__(self, local: LocalContext) -> None:
        self._local = local

    def identify(self, conversation: Conversation, claimed: str | None = None) -> str:
        """Identify the peer at the other end by its proven id, and note that it was heard of.

        Args:
            conversation: with that peer.
            claimed: the id that it says it has; None if it says none.

        Returns:
            Its peer id.

        Raises:
            RemoteProtocolError: if it claims the id of another peer.
        """
        partner = conversation.stream.partner
        self._local.members.heard(partner)
        if claimed is not None and claimed != partner:
            raise RemoteProtocolError(f"claims to be {claimed!a}, is {partner}", partner=partner)
        return partner

    async def declines(self, conversation: Conversation, asked: Offer | Fetch) -> bool:
        """Decline a request that this peer does not answer, whatever it is in detail.

        Args:
            conversation: with the peer that asks.
            asked: the request.

        Returns:
            True if it was declined, and the asker was told so.

        Raises:
            ExchangeError: if the answer cannot be sent.
        """
        decline = self._objection(asked)
        if decline is not None:
            await self.say_no(conversation, decline)
        return decline is not None

    async def declines_other_run(self, conversation: Conversation, told: Tell | Goodbye | Describe) -> bool:
        """Decline a message of another run.

        Args:
            conversation: with the peer that sent it.
            told: the message.

        Returns:
            True if it was declined, and the sender was told so.

        Raises:
            ExchangeError: if the answer cannot be sent.
        """
        if told.run == self._local.run.context.run:
            return False
        await self.say_no(conversation, Decline(id=told.id, reason=DeclineReason.OTHER_RUN))
        return True

    async def say_no(self, conversation: Conversation, decline: Decline) -> None:
        """Decline, and count that by its reason.

        Args:
            conversation: with the peer that asks.
            decline: what it is told.

        Raises:
            ExchangeError: if it cannot be sent.
        """
        self._local.journal.declined_by_us[decline.reason.value] += 1
        await conversation.send(decline)

    def _objection(self, asked: Offer | Fetch) -> Decline | None:
        local = self._local
        needed = Role.OBSERVER if isinstance(asked, Fetch) else Role.TRAINER if asked.centre is None else Role.CENTRE
        if not local.access.allows(asked.peer, needed):
            return Decline(id=asked.id, reason=DeclineReason.NOT_ADMITTED, detail=f"needs a ticket as {needed.word}")
        bargain, vector = local.run.bargain, local.vector
        codecs = bargain.codecs if isinstance(asked, Offer) else {*bargain.codecs, EXACT}
        general = objection(
            asked,
            run=local.run.context.run,
            schema_hash=vector.schema_hash,
            elements=vector.elements,
            codecs=codecs,
        )
        if general is None and isinstance(asked, Offer) and asked.part is not None and bargain.fragments == 1:
            general = Decline(id=asked.id, reason=DeclineReason.OTHER_RULE, detail="this run exchanges whole models")
        if general is not None or asked.peer == local.departure.awaited:
            return general
        if local.departure.leaving:
            return Decline(id=asked.id, reason=DeclineReason.LEAVING)
        return Decline(id=asked.id, reason=DeclineReason.DRAINED) if local.own.condition.drained else None
