"""EASGD: every peer exchanges with the centre variable, which one of them holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.health.trust import Verdict
from p2p_elastic.peers.centre.endpoint import CentreEndpoint, judged_at
from p2p_elastic.peers.centre.momentum import CentreMomentum
from p2p_elastic.peers.centre.surrender import Bequest, Resignation
from p2p_elastic.peers.centre.variable import Centre, only_centre
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.gossip.apply_move import Brought, move
from p2p_elastic.peers.gossip.initiator import new_id
from p2p_elastic.peers.gossip.snapshot_fetch import SnapshotFetcher
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.state.endpoint import Endpoint
from p2p_elastic.peers.state.peer_memory import CentreMemory, PeerMemory
from p2p_elastic.peers.state.topology import Announce, Errand, OfferPlace, Reference, Strategy, TopologyStatus
from p2p_elastic.protocol.chunks import EXACT
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.messages import DeclineReason, Given, Goodbye, Stamp
from p2p_elastic.protocol.records import CentreClaim, PeerRecord
from p2p_elastic.protocol.roles import Role
from p2p_elastic.rules.base import Facts


class CentreStrategy(Strategy):
    """Asks the holder of the centre variable, meets it here if that is this peer, and takes part in the succession.

    Its first value is the model as it is: if nobody trains yet all have the same; else it stands until the centre was
    seen.

    Args:
        parts: what every strategy works with.
    """

    def __init__(self, parts: StrategyParts) -> None:
        local = parts.local
        self._parts, self._local = parts, local
        self.centre = Centre(
            local.vector.snapshot(local.vector.empty()),
            local.run.policy.rule,
            seated=not local.run.context.newcomer,
            announce_seconds=local.run.context.announce_seconds,
            momentum=CentreMomentum(local.run.policy.outer, local.vector.trainable),
        )
        self._bequest = Bequest(self.centre, parts)
        self._fetcher = SnapshotFetcher(local, parts.transport, parts.limits, parts.rng)
        self.resignation = Resignation(self.centre, local)

    # -- exchanges ----------------------------------------------------------------------------------------------------

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """Say whether an exchange is due.

        Args:
            step: optimizer steps so far.
            coin: of the schedule.

        Yields:
            "exchange" if the schedule says so.
        """
        if self._local.run.policy.schedule.due(step, coin):
            yield "exchange"

    async def run_due(self, errand: Errand) -> None:
        """Meet the centre, here or at its holder.

        Args:
            errand: always an exchange.
        """
        await self._parts.initiator.run_once()

    def next_partner(self, tried: set[str]) -> PeerRecord | None:
        """Choose the holder of the centre variable.

        Args:
            tried: ids of those that are not to be asked.

        Returns:
            Its record; None if it was tried, is not available, or is not known.
        """
        holder = self.taker(tried)
        return None if holder is None or not holder.available else holder

    @property
    def here(self) -> bool:
        """Whether this peer is the centre."""
        return self.centre.seated

    async def meet_here(self) -> str | None:
        """Exchange with the centre without a stream.

        Returns:
            Why no move is waiting; None if one is.
        """
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
        if vectors.lost:
            centre.travelling(EXACT, local.vector.seams).leave_out()
        received = local.slot.mailbox.bring(centre.vectors.mine[centre.place])
        trial = await local.judge.try_ours(local.slot.mailbox.both, theirs)
        if not centre.seated or local.run.topology is not self:  # any more; or this peer joined another run
            return False
        of_us = None if trial is None else trial.the_other_way_round
        centre.move(local.peer, theirs, mine, judged_at(local, centre, local.peer, mine, of_us))
        move(local, Brought(new_id(self._parts.rng), local.peer, mine, theirs, received, trial))
        return True

    def exchanged(self, result: Result) -> None:
        """Keep the centre as it came in an exchange that this peer began.

        Args:
            result: with the stamp of the centre, if it came.
        """
        if result.centre is not None:
            self.centre.saw(self._local.slot.mailbox.received, result.centre, self._local.slot.mailbox.part)

    def endpoint(self) -> Endpoint:
        """Give the centre's end of an exchange, even if the centre is elsewhere: the asker has to hear that.

        Returns:
            The endpoint, which declines if the centre is elsewhere.
        """
        return CentreEndpoint(self._local, self.centre, self._parts.limits)

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """Show the centre variable to peers that only want to see it, or are to take this peer's place.

        Args:
            origin: the peer whose snapshot is wanted.

        Returns:
            None if that is not this peer, or if it is not the centre.
        """
        return self.centre.shown(self._local.peer) if origin == self._local.peer else None

    @property
    def compares(self) -> bool:
        """Yes: every peer keeps the centre as it came."""
        return True

    @property
    def waits_for_steps(self) -> bool:
        """No: the centre waits for other exchanges, not for steps."""
        return False

    # -- newcomers ----------------------------------------------------------------------------------------------------

    def donors(self, candidates: Sequence[PeerRecord]) -> list[PeerRecord]:
        """Choose the holder alone: a newcomer begins with the centre variable.

        Args:
            candidates: members that are ahead.

        Returns:
            Its record, if it is among them and available.
        """
        return [r for r in candidates if r.peer == self.centre.holder and r.available]

    def objection_to(self, given: Given) -> DeclineReason | None:
        """Say why what a donor gives will not do.

        Args:
            given: the header of a part.

        Returns:
            `NOT_CENTRE`; None if it is the centre variable.
        """
        return only_centre(given)

    def caught_up(self, found: CaughtUp) -> None:
        """Keep what this peer begins with as the centre.

        Args:
            found: the parameters, with a stamp if they are the centre variable.
        """
        if found.stamp is not None:
            self.centre.saw(found.values, found.stamp)

    def reference(self) -> Reference | None:
        """Give the centre variable for newcomers.

        Returns:
            The value and its stamp; None if it is not here.
        """
        shown = self.centre.shown(self._local.peer)
        return None if shown is None else Reference(shown, self.centre.stamp)

    # -- leaving ------------------------------------------------------------------------------------------------------

    @property
    def hands_parameters(self) -> bool:
        """Yes: the centre can use them."""
        return True

    @property
    def asks_again(self) -> Collection[DeclineReason]:
        """The answers of a centre that leaves as well: soon there is another one."""
        return (DeclineReason.LEAVING, DeclineReason.NOT_CENTRE)

    def taker(self, tried: set[str]) -> PeerRecord | None:
        """Choose the holder, drained or not.

        Args:
            tried: ids of those that are not to be asked.

        Returns:
            Its record; None if it was tried or is not known.
        """
        holder = self._local.members.not_dead().get(self.centre.holder or "")
        return None if holder is None or holder.record.peer in tried else holder.record

    async def hand_place(self, offer: OfferPlace, tries: int) -> Mapping[str, Any]:
        """Let the member with the freshest copy take the value and the place.

        Args:
            offer: offers the place to one member.
            tries: members that may fail to answer.

        Returns:
            What the status of this peer's farewell says: `centre_to`, or the `reason`.
        """
        return await self.resignation.hand_place(offer, tries)

    def goodbye(self) -> Mapping[str, Any]:
        """Say what this peer's goodbye tells of the centre.

        Returns:
            The heir and the stamp of the centre variable; nothing if it was not handed over.
        """
        heir = self.resignation.handed_to
        return {} if heir is None else {"heir": heir, "centre": self.centre.stamp}

    async def inherit(self, goodbye: Goodbye) -> bool:
        """Fetch the centre variable from the centre that leaves, and take its place.

        Args:
            goodbye: of the centre.

        Returns:
            Whether this peer is the centre now.
        """
        local, centre, stamp = self._local, self.centre, goodbye.centre
        member = local.members.known.get(goodbye.peer)
        if stamp is None or member is None or centre.holder != goodbye.peer or centre.seated:
            return False
        # Into the vectors of the place that is to be taken: an exchange of this peer may be under way in the others.
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
        """Remember which peer took the place of a centre that leaves, until the heir's own next record.

        Args:
            goodbye: of the member that leaves.
        """
        if goodbye.centre is not None and goodbye.heir is not None and self.centre.holder == goodbye.peer:
            claim = CentreClaim(stamp=goodbye.centre.next_term(), seated=True)
            self._local.members.revise(goodbye.heir, {"centre": claim})

    # -- the succession -----------------------------------------------------------------------------------------------

    async def look(self, announce: Announce) -> None:
        """See which peer holds the centre variable, and take the place if it is this peer's turn.

        Args:
            announce: makes this peer's record known, if that changed.

        Raises:
            DirectoryError: if it could not be announced.
        """
        local, centre = self._local, self.centre
        holder, now = centre.holder, asyncio.get_running_loop().time()
        drained = local.own.condition.drained or not local.access.allows(local.peer, Role.CENTRE)
        if centre.look(local.peer, local.members.known, now, leaving=local.departure.leaving, drained=drained):
            await announce()
        if centre.holder != holder:
            who = "nobody" if centre.holder is None else centre.holder
            local.events.add("centre", f"the centre is {who}", holder=centre.holder)

    def claim(self) -> Mapping[str, Any]:
        """Say how fresh the copy here is, and whether this peer is the centre.

        Returns:
            The field `centre` of this peer's record.
        """
        return {"centre": self.centre.claim()}

    @property
    def pending(self) -> bool:
        """Whether a centre variable that this peer gave up is to be handed to the one that stands."""
        return self.centre.given is not None

    async def attend(self) -> None:
        """Try once to hand over the centre variable that this peer gave up."""
        await self._bequest.hand_over()

    async def stand_by(self) -> None:
        """Fetch the centre variable as it is now, if it is elsewhere."""
        local, centre = self._local, self.centre
        holder = local.members.known.get(centre.holder or "")
        if centre.seated or holder is None or holder.record.centre is None:
            return
        if local.own.condition.drained or holder.record.drained or local.pacing.closed():
            return
        await self._fetch(holder.record, holder.record.centre.stamp, local.vector.empty())

    # -- kept and shown -----------------------------------------------------------------------------------------------

    def memory(self) -> Mapping[str, Any]:
        """Gather what is kept of the centre over a restart, but its value.

        Returns:
            The field `centre` of `PeerMemory`.
        """
        centre = self.centre
        known = CentreMemory(stamp=centre.stamp, seated=centre.seated, since=centre.since, behind=centre.behind)
        return {"centre": known}

    def recall(self, memory: PeerMemory, value: Tensor | None) -> None:
        """Go on with the centre as it was known before a restart.

        Args:
            memory: what `memory` gave then.
            value: the centre variable [D]; None if it was not kept: then nothing changes.
        """
        known, centre = memory.centre, self.centre
        if known is None or value is None:
            return
        centre.value = value.clone()
        centre.stamp, centre.seated = known.stamp, known.seated
        centre.since = known.stamp.clock if known.since is None else known.since
        centre.behind = known.behind

    def value(self) -> Tensor:
        """Copy the centre variable as it is known here.

        Returns:
            The copy [D].
        """
        return self.centre.value.clone()

    def status(self, now: float) -> TopologyStatus:
        """Say which peer holds the centre variable, and how fresh the copy here is.

        Args:
            now: not looked at.

        Returns:
            The status, of the centre only.
        """
        return TopologyStatus(centre=self.centre.status())

    def verdicts(self) -> Mapping[str, Verdict]:
        """Say how the centre judges the peers that meet it.

        Returns:
            Peer -> the last verdict; empty if the centre is elsewhere.
        """
        return self.centre.judge.verdicts if self.centre.seated else {}
