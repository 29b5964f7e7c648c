"""Answering whoever compares losses with this peer."""

from __future__ import annotations

import asyncio

from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.protocol.messages import Tell


class Comparing:
    """Hears how well the training of others goes, and tells them the same of ours."""

    def __init__(self, local: LocalContext, admission: Admission) -> None:
        self._local, self._admission = local, admission

    def register(self, answers: Answers) -> None:
        """It answers tells."""
        answers.register(Tell, self.hear)

    async def hear(self, conversation: Conversation, told: Tell) -> None:
        """Note it, and answer with our own. Raises ExchangeError."""
        self._admission.identify(conversation, told.peer)
        if await self._admission.declines_other_run(conversation, told):
            return
        local = self._local
        if told.peer in local.members.known:
            local.run.topology.told(told.peer, told.loss, asyncio.get_running_loop().time())
        await conversation.send(local.own.tell(told.id))
        local.journal.gave(conversation.traffic)
