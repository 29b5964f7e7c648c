"""EASGD: every peer exchanges with the centre variable, which one of them holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.health.trust import Verdict
from p2p_elastic.peers.centre.endpoint import CentreEndpoint, trusted_at
from p2p_elastic.peers.centre.surrender import Bequest
from p2p_elastic.peers.centre.variable import Centre, candidates, only_centre, succession
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.gossip.apply_move import move
from p2p_elastic.peers.gossip.initiator import new_id
from p2p_elastic.peers.gossip.snapshot_fetch import SnapshotFetcher
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.state.peer_memory import CentreMemory, PeerMemory
from p2p_elastic.peers.state.topology import (
    Announce,
    Endpoint,
    Errand,
    OfferPlace,
    Reference,
    Strategy,
    TopologyStatus,
)
from p2p_elastic.protocol.chunks import EXACT
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.messages import DeclineReason, Given, Goodbye, Stamp
from p2p_elastic.protocol.records import CentreClaim, PeerRecord
from p2p_elastic.rules.base import Facts


class CentreStrategy(Strategy):
    """Asks the holder of the centre variable, meets it here where that is this peer, and takes part in the succession.

    Its first value is the model as it is: where nobody trains yet that is everybody's; else until the centre was seen.
    """

    def __init__(self, parts: StrategyParts) -> None:
        local = parts.local
        self._parts, self._local = parts, local
        self.centre = Centre(
            local.vector.snapshot(local.vector.empty()),
            local.run.policy.rule,
            seated=not local.run.context.newcomer,
            announce_seconds=local.run.context.announce_seconds,
        )
        self._bequest = Bequest(self.centre, parts)
        self._fetcher = SnapshotFetcher(local, parts.transport, parts.limits, parts.rng)
        self._handed_to: str | None = None  # who took the place from us when we left

    # -- exchanges ----------------------------------------------------------------------------------------------------

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """An exchange where the schedule says so."""
        if self._local.run.policy.schedule.due(step, coin):
            yield "exchange"

    async def run_due(self, errand: Errand) -> None:
        """Meet the centre, here or at its holder."""
        await self._parts.initiator.run_once()

    def next_partner(self, tried: set[str]) -> PeerRecord | None:
        """The holder, unless it is drained."""
        holder = self.taker(tried)
        return None if holder is None or holder.drained else holder

    @property
    def here(self) -> bool:
        """Whether this peer is the centre."""
        return self.centre.seated

    async def meet_here(self) -> str | None:
        """Exchange with the centre without a stream. Why no move is waiting; None where one is."""
        try:
            await wait_for(self.centre.reserve(self._local.slot.mailbox.part), self._parts.limits.snapshot_seconds)
        except asyncio.TimeoutError:
            self._local.journal.skipped["centre busy"] += 1
            return "the centre was busy"
        try:
            return None if await self._move_both() else "the centre was busy"
        finally:
            self.centre.free()

    async def _move_both(self) -> bool:
        local, centre = self._local, self.centre
        mine = Facts(local.slot.mailbox.snapshot_step, local.own.loss(), local.own.weight, asked=True)
        theirs = mine._replace(weight=1.0, asked=False, centre=True)
        vectors = local.slot.mailbox.vectors(EXACT)
        centre.vectors.theirs[centre.place] = vectors.mine
        received = local.slot.mailbox.bring(centre.vectors.mine[centre.place])
        trial = await local.judge.try_ours(local.slot.mailbox.both, theirs)
        if not centre.seated or local.run.topology is not self:  # any more; or we joined another run
            return False
        of_us = None if trial is None else trial.the_other_way_round
        centre.move(local.peer, theirs, mine, trusted_at(local, centre, local.peer, mine, of_us))
        move(local, new_id(self._parts.rng), mine, theirs, partner=local.peer, received=received, trial=trial)
        return True

    def exchanged(self, result: Result) -> None:
        """Keep the centre as it came."""
        if result.centre is not None:
            self.centre.saw(self._local.slot.mailbox.received, result.centre, self._local.slot.mailbox.part)

    def endpoint(self) -> Endpoint:
        """The centre variable, also where it is elsewhere: that is what the asker has to hear."""
        return CentreEndpoint(self._local, self.centre, self._parts.limits)

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """The centre variable for those that only want to see it, or are to take our place."""
        return self.centre.shown(self._local.peer) if origin == self._local.peer else None

    @property
    def compares(self) -> bool:
        """Everybody keeps the centre as it came."""
        return True

    @property
    def waits_for_steps(self) -> bool:
        """The centre waits for others, not for steps."""
        return False

    # -- newcomers ----------------------------------------------------------------------------------------------------

    def donors(self, candidates: Sequence[PeerRecord]) -> list[PeerRecord]:
        """The holder alone."""
        return [r for r in candidates if r.peer == self.centre.holder and not r.drained]

    def objection_to(self, given: Given) -> DeclineReason | None:
        """Only the centre variable will do."""
        return only_centre(given)

    def caught_up(self, found: CaughtUp) -> None:
        """That is the centre as it was seen last."""
        if found.stamp is not None:
            self.centre.saw(found.values, found.stamp)

    def reference(self) -> Reference | None:
        """The centre variable, where it is here."""
        shown = self.centre.shown(self._local.peer)
        return None if shown is None else Reference(shown, self.centre.stamp)

    # -- leaving ------------------------------------------------------------------------------------------------------

    @property
    def hands_parameters(self) -> bool:
        """The centre can use them."""
        return True

    @property
    def asks_again(self) -> Collection[DeclineReason]:
        """It leaves as well: soon there is another one."""
        return (DeclineReason.LEAVING, DeclineReason.NOT_CENTRE)

    def taker(self, tried: set[str]) -> PeerRecord | None:
        """The holder, drained or not."""
        holder = self._local.members.not_dead().get(self.centre.holder or "")
        return None if holder is None or holder.record.peer in tried else holder.record

    async def hand_place(self, offer: OfferPlace, tries: int) -> Mapping[str, Any]:
        """Let the member with the freshest copy take the value and the place."""
        await self.centre.reserve()  # the exchanges under way there end first, and none begins any more
        asked, failed = set[str](), 0
        try:
            while failed < tries and (heir := self.heir(asked)) is not None:
                asked.add(heir.peer)
                gave = await self._give_place(heir, offer, failed)
                if gave:
                    return {"centre_to": heir.peer, "reason": None}
                failed += gave is None  # who leaves as well says so at once
        finally:
            self.centre.free()
        return {"reason": "nobody took the centre variable over"}

    def heir(self, asked: set[str]) -> PeerRecord | None:
        """Who has the freshest copy, of those that were not asked."""
        alive, now = self._local.members.alive(), asyncio.get_running_loop().time()
        others = candidates(alive, now, self._local.run.context.announce_seconds)
        line = succession(c for c in others if not c.seated and c.peer not in asked)
        return alive[line[0].peer].record if line else None

    async def _give_place(self, heir: PeerRecord, offer: OfferPlace, failed: int) -> bool | None:
        """Whether that member took the place; None where it did not answer."""
        local, centre = self._local, self.centre
        shown = centre.shown(local.peer)
        had_it = shown is None or heir.peer in shown.holders
        heard = await offer(heir, failed, {"heir": heir.peer, "centre": centre.stamp})
        # Where its answer was lost, who fetched the value took the place.
        fetched = heard is None and not had_it and shown is not None and heir.peer in shown.holders
        if not fetched and (heard is None or not heard.took):
            return None if heard is None else False
        centre.give_up(heir.peer)
        self._handed_to = heir.peer
        local.events.add("centre", f"the centre is {heir.peer}: we leave", holder=heir.peer)
        return True

    def goodbye(self) -> Mapping[str, Any]:
        """Who has the centre now, and as of when."""
        return {} if self._handed_to is None else {"heir": self._handed_to, "centre": self.centre.stamp}

    async def inherit(self, goodbye: Goodbye) -> bool:
        """Fetch the centre variable from the centre that leaves, and take its place."""
        local, centre, stamp = self._local, self.centre, goodbye.centre
        member = local.members.known.get(goodbye.peer)
        if stamp is None or member is None or centre.holder != goodbye.peer or centre.seated:
            return False
        # Into the vectors of the place that is to be ours: an exchange of our own may be under way in the others.
        if not await self._fetch(member.record, stamp, centre.vectors.theirs):
            return False
        if centre.seated or local.departure.leaving:
            return False
        centre.inherit(local.peer, local.members.known, asyncio.get_running_loop().time())
        local.events.add("centre", f"the centre is {local.peer}", holder=local.peer)
        return True

    async def _fetch(self, holder: PeerRecord, stamp: Stamp, into: Tensor) -> bool:
        """Whether the centre variable of that holder, which it has at that stamp or later, is known here."""
        known = self.centre.stamp.clock if self.centre.stamp.term == stamp.term else None
        answer = await self._fetcher.ask(holder, holder.peer, known, into=into)
        if answer.given is not None:
            self.centre.saw(into, Stamp(term=stamp.term, clock=answer.given.step))
        return answer.given is not None or answer.unchanged

    def left(self, goodbye: Goodbye) -> None:
        """A centre that leaves says who took its place: that counts until the heir's own next record."""
        if goodbye.centre is not None and goodbye.heir is not None and self.centre.holder == goodbye.peer:
            claim = CentreClaim(stamp=goodbye.centre.next_term(), seated=True)
            self._local.members.revise(goodbye.heir, {"centre": claim})

    # -- the succession -----------------------------------------------------------------------------------------------

    async def look(self, announce: Announce) -> None:
        """See who holds the centre variable, and take the place where it is ours. Raises DirectoryError."""
        local, centre = self._local, self.centre
        holder, drained, now = centre.holder, local.own.condition.drained, asyncio.get_running_loop().time()
        if centre.look(local.peer, local.members.known, now, leaving=local.departure.leaving, drained=drained):
            await announce()
        if centre.holder != holder:
            who = "nobody" if centre.holder is None else centre.holder
            local.events.add("centre", f"the centre is {who}", holder=centre.holder)

    def claim(self) -> Mapping[str, Any]:
        """How fresh our copy is, and whether we are the centre."""
        return {"centre": self.centre.claim()}

    @property
    def pending(self) -> bool:
        """Whether a centre variable that we gave up is to be handed to the one that stands."""
        return self.centre.given is not None

    async def attend(self) -> None:
        """Try to hand it over."""
        await self._bequest.hand_over()

    async def stand_by(self) -> None:
        """See the centre variable as it is now."""
        local, centre = self._local, self.centre
        holder = local.members.known.get(centre.holder or "")
        if centre.seated or holder is None or holder.record.centre is None:
            return
        if local.own.condition.drained or holder.record.drained or local.pacing.closed():
            return
        await self._fetch(holder.record, holder.record.centre.stamp, local.vector.empty())

    # -- kept and shown -----------------------------------------------------------------------------------------------

    def memory(self) -> Mapping[str, Any]:
        """All of the centre but its value."""
        centre = self.centre
        known = CentreMemory(stamp=centre.stamp, seated=centre.seated, since=centre.since, behind=centre.behind)
        return {"centre": known}

    def recall(self, memory: PeerMemory, value: Tensor | None) -> None:
        """The centre as it was known then."""
        known, centre = memory.centre, self.centre
        if known is None or value is None:
            return
        centre.value = value.clone()
        centre.stamp, centre.seated = known.stamp, known.seated
        centre.since = known.stamp.clock if known.since is None else known.since
        centre.behind = known.behind

    def value(self) -> Tensor:
        """The centre variable as it is known here."""
        return self.centre.value.clone()

    def status(self, now: float) -> TopologyStatus:
        """Who holds the centre variable, and how fresh the copy here is."""
        return TopologyStatus(centre=self.centre.status())

    def verdicts(self) -> Mapping[str, Verdict]:
        """What the centre, where it is here, thinks of those that meet it."""
        return self.centre.judge.verdicts if self.centre.seated else {}
