"""Handing a centre variable that was given up to the one that stands, after two of them met."""

from __future__ import annotations

import asyncio
import logging

import torch

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.centre.variable import Centre, Given
from p2p_elastic.peers.gossip.initiator import new_id, open_stream, outcome_of
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.peers.state.context import enter
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.protocol.exchange import Result, initiate
from p2p_elastic.protocol.messages import Offer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord

log = logging.getLogger(__name__)
TRIES_MAX = 5
FINAL = (Outcome.COMPLETED, Outcome.HALF)  # nothing is taken in twice


class Bequest:
    """Tries to hand over what this peer gave up. If that fails, only what was learnt there is lost.

    Args:
        centre: the centre variable as this peer knows it, with the one that it gave up.
        parts: what every strategy works with.
    """

    def __init__(self, centre: Centre, parts: StrategyParts) -> None:
        self._centre, self._parts, self._local = centre, parts, parts.local

    async def hand_over(self) -> None:
        """Try once, if there is something to hand over and a holder that takes it."""
        local, centre = self._local, self._centre
        if centre.given is None or local.own.condition.drained or local.departure.leaving:
            return
        heir, given = local.members.known.get(centre.holder or ""), centre.given
        if heir is None:
            return
        result = await self._give(given, heir.record)
        log.info("the centre given up for %s: %s %s", heir.record.peer, result.outcome.value, result.reason or "")
        tries = TRIES_MAX if result.outcome in FINAL else given.tries + 1
        if centre.given is given:  # this peer is not the centre again, nor gave up another one, meanwhile
            centre.given = given._replace(tries=tries) if tries < TRIES_MAX else None

    async def _give(self, given: Given, heir: PeerRecord) -> Result:
        local, started = self._local, asyncio.get_running_loop().time()
        offer = self._offer(given)
        vectors, traffic = Vectors(given.value, torch.empty_like(given.value), offer.codec, shared=True), (0, 0)
        try:
            stream = await open_stream(self._parts.transport, heir, self._parts.limits)
            conversation = Conversation(stream, self._parts.limits)
            try:
                result = await conversation.run(initiate(offer), vectors)
            finally:
                traffic = conversation.traffic
                await stream.close()
        except ExchangeError as error:
            result = Result(outcome_of(error), reason=str(error))
        if result.outcome is Outcome.COMPLETED and result.centre is not None:
            self._centre.saw(vectors.theirs, result.centre)
        enter(local, offer.id, heir.peer, result, initiated=True, started=started, traffic=traffic, distance=None)
        return result

    def _offer(self, given: Given) -> Offer:
        local = self._local
        return Offer(
            id=new_id(self._parts.rng),
            **local.run.asking._asdict(),
            step=local.own.progress.step,
            loss=local.own.loss(),
            weight=1.0,
            centre=given.stamp,
        )
