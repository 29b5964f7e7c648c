"""Handing over the centre: one given up to the one that stands, after two met, and the place when its holder leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import torch

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.centre.succession import candidates, succession
from p2p_elastic.peers.centre.variable import Centre, Given
from p2p_elastic.peers.gossip.initiator import new_id
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.call import Call, outcome_of
from p2p_elastic.peers.state.context import LocalContext, enter
from p2p_elastic.peers.state.topology import OfferPlace
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
        theirs = torch.empty_like(given.value)
        vectors = Vectors(given.value, theirs, offer.codec, shared=True, seams=local.vector.seams)
        call = Call(self._parts.transport, heir, self._parts.limits)
        try:
            async with call as conversation:
                result = await conversation.run(initiate(offer), vectors)
        except ExchangeError as error:
            result = Result(outcome_of(error), reason=str(error))
        if result.outcome is Outcome.COMPLETED and result.centre is not None:
            self._centre.saw(vectors.theirs, result.centre)
        enter(local, offer.id, heir.peer, result, initiated=True, started=started, traffic=call.traffic)
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


class Resignation:
    """Gives the place of the centre to another member when this peer leaves.

    Args:
        centre: the centre variable, which this peer holds.
        local: the parts of this peer.
    """

    def __init__(self, centre: Centre, local: LocalContext) -> None:
        self._centre, self._local = centre, local
        self.handed_to: str | None = None  # the peer that took the place

    async def hand_place(self, offer: OfferPlace, tries: int) -> Mapping[str, Any]:
        """Let the member with the freshest copy take the value and the place.

        Args:
            offer: offers the place to one member.
            tries: members that may fail to answer.

        Returns:
            What the status of this peer's farewell says: `centre_to`, or the `reason`.
        """
        await self._centre.reserve()  # the exchanges under way there end first, and none begins any more
        asked, failed = set[str](), 0
        try:
            while failed < tries and (heir := self.heir(asked)) is not None:
                asked.add(heir.peer)
                gave = await self._give_place(heir, offer, failed)
                if gave:
                    return {"centre_to": heir.peer, "reason": None}
                failed += gave is None  # a peer that leaves as well says so at once
        finally:
            self._centre.free()
        return {"reason": "nobody took the centre variable over"}

    def heir(self, asked: set[str]) -> PeerRecord | None:
        """Choose the member that is to be the centre next.

        Args:
            asked: ids of those that were asked.

        Returns:
            The one with the freshest copy, of the others; None if there is nobody.
        """
        alive, now = self._local.members.alive(), asyncio.get_running_loop().time()
        others = candidates(alive, now, self._local.run.context.announce_seconds)
        line = succession(c for c in others if not c.seated and c.peer not in asked)
        return alive[line[0].peer].record if line else None

    async def _give_place(self, heir: PeerRecord, offer: OfferPlace, failed: int) -> bool | None:
        """Whether that member took the place; None if it did not answer."""
        local, centre = self._local, self._centre
        shown = centre.shown(local.peer)
        had_it = shown is None or heir.peer in shown.holders
        heard = await offer(heir, failed, {"heir": heir.peer, "centre": centre.stamp})
        # If its answer was lost: a member that fetched the value took the place.
        fetched = heard is None and not had_it and shown is not None and heir.peer in shown.holders
        if not fetched and (heard is None or not heard.took):
            return None if heard is None else False
        centre.give_up(heir.peer)
        self.handed_to = heir.peer
        local.events.add("centre", f"the centre is {heir.peer}: this peer leaves", holder=heir.peer)
        return True
