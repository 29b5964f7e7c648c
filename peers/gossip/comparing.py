"""Answering peers that compare losses with this one."""

from __future__ import annotations

import asyncio

from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.protocol.messages import Tell


class Comparing:
    """Hears how well the training of others goes, and tells them the same of this peer.

    Args:
        local: the parts of this peer.
        admission: says which askers are heard.
    """

    def __init__(self, local: LocalContext, admission: Admission) -> None:
        self._local, self._admission = local, admission

    def register(self, answers: Answers) -> None:
        """Register the answer to tells.

        Args:
            answers: the table of the responder.
        """
        answers.register(Tell, self.hear)

    async def hear(self, conversation: Conversation, told: Tell) -> None:
        """Take in the loss of a peer, and answer with that of this peer.

        Args:
            conversation: with that peer.
            told: what it says; from a peer that is no member it is answered only.

        Raises:
            ExchangeError: if it is another peer than it says, or if the answer cannot be sent.
        """
        self._admission.identify(conversation, told.peer)
        if await self._admission.declines_other_run(conversation, told):
            return
        local = self._local
        if told.peer in local.members.known:
            local.run.topology.told(told.peer, told.loss, asyncio.get_running_loop().time())
        await conversation.send(local.own.tell(told.id))
        local.journal.gave(conversation.traffic)
