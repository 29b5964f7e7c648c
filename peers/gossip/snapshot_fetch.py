"""Asking a member for a snapshot that it holds."""

from __future__ import annotations

import asyncio
import logging
import random

from torch import Tensor

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.gossip.initiator import SUSPICIOUS, new_id
from p2p_elastic.peers.session.call import Call, outcome_of
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext, enter
from p2p_elastic.peers.transport.interfaces import Transport
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.protocol.exchange import Fetched, Result, fetch
from p2p_elastic.protocol.messages import Fetch
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.status.schema import Way

log = logging.getLogger(__name__)


class SnapshotFetcher:
    """Fetches whole snapshots, one at a time, and enters each try in the journal.

    Args:
        local: the parts of this peer.
        transport: opens streams.
        limits: of each conversation.
        rng: for the ids of fetches.
    """

    def __init__(self, local: LocalContext, transport: Transport, limits: Limits, rng: random.Random) -> None:
        self._local, self._transport, self._limits, self._rng = local, transport, limits, rng

    async def ask(self, partner: PeerRecord, origin: str, have: int | None, *, into: Tensor) -> Fetched:
        """Ask a member for the newest snapshot that it holds of some peer.

        Args:
            partner: the member to ask.
            origin: the peer whose snapshot it is.
            have: the step of the snapshot that is here; None if there is none.
            into: where the snapshot goes, if one is given [D].

        Returns:
            What came of it; an error of the exchange becomes its reason.
        """
        local, started = self._local, asyncio.get_running_loop().time()
        asked = Fetch(id=new_id(self._rng), **local.run.asking._asdict(), origin=origin, have=have)
        call = Call(self._transport, partner, self._limits, local.members.waits(partner))
        vectors, way = Vectors.into(into, asked.codec, local.vector.seams), Way()
        try:
            async with call as conversation:
                direct = conversation.carriers.meet(
                    local.direct.ask(partner, 1, vectors.wire_bytes // 2, relayed=conversation.stream.relayed)
                )
                asked = asked.model_copy(update={"direct": direct})
                answer = await conversation.run(fetch(asked), vectors)
                way = conversation.carriers.way
            result = Result(_outcome(answer), reason=_why(answer))
        except ExchangeError as error:
            outcome = outcome_of(error) if call.traffic != (0, 0) else Outcome.UNREACHABLE
            answer, result = Fetched(reason=str(error)), Result(outcome, reason=str(error))
        if result.outcome in SUSPICIOUS:
            log.info("snapshot of %s from %s: %s: %s", origin, partner.peer, result.outcome.value, result.reason)
            local.members.failed(partner.peer, result.outcome)
        else:
            local.members.heard(partner.peer)
        enter(local, asked.id, partner.peer, result, initiated=True, started=started, traffic=call.traffic, way=way)
        return answer


def _outcome(answer: Fetched) -> Outcome:
    if answer.refused:
        return Outcome.REFUSED
    return Outcome.COMPLETED if answer.given else Outcome.DECLINED


def _why(answer: Fetched) -> str | None:
    if answer.unchanged:
        return "unchanged"
    return "referred to others" if answer.holders else answer.reason
