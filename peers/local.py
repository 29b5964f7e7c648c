"""This peer's side of any exchange: what it says of itself, its two vectors, its rule, and what it knows of others."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from p2p_elastic.health.causes import Timing, load_of
from p2p_elastic.health.operator import Condition
from p2p_elastic.health.trust import Judge, Trial, Verdict
from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.peers.absences import Absences
from p2p_elastic.peers.arrival import Arrival
from p2p_elastic.peers.barrier import guards, landing, with_barrier
from p2p_elastic.peers.centre import Centre
from p2p_elastic.peers.conversation import Limits
from p2p_elastic.peers.deadlines import UNKNOWN, Deadlines, StepTime, Waits, patience
from p2p_elastic.peers.departed import Departed
from p2p_elastic.peers.handover import Handover, State
from p2p_elastic.peers.journal import Entry, Journal
from p2p_elastic.peers.leader import Following
from p2p_elastic.peers.membership import Asking, Membership
from p2p_elastic.peers.pacing import Pacing
from p2p_elastic.peers.partners import Liveness, Member, heard, liveness, own_weight, suspected
from p2p_elastic.peers.records import PeerRecord
from p2p_elastic.peers.rule_states import RulesAtWork
from p2p_elastic.peers.snapshots import Snapshot
from p2p_elastic.peers.terms import Bargain, Terms
from p2p_elastic.peers.transfer import Vectors
from p2p_elastic.peers.watch import Watch
from p2p_elastic.peers.weigher import Observed, StepRate, Weigher, judged
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.limits import FRAGMENTS_MAX
from p2p_elastic.protocol.messages import Apart, Tell
from p2p_elastic.rate_limit import Budget
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.methods import Topology
from p2p_elastic.rules.policy import Policy
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import Outcome

log = logging.getLogger(__name__)

Examine = Callable[[Tensor, Tensor], Awaitable[Trial | None]]
"""(their parameters [D], ours [D]) -> how both do on our latest examples; None where there are none."""


class TrainingProgress(NamedTuple):
    """What the training thread last said."""

    step: int = 0
    loss: float | None = None
    first_loss: float | None = None


class Local:
    """State that asking and answering share. Belongs to the network thread, but for `progress`."""

    def __init__(
        self,
        peer: str,
        vector: ParameterVector,
        policy: Policy,
        membership: Membership,
        condition: Condition,
        events: EventLog,
        limits: Limits | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self.deadlines, self.step_time, self.watch = Deadlines(self._limits.bounds), StepTime(), Watch(events)
        self.peer, self.vector, self.membership = peer, vector, membership
        self.condition, self.events = condition, events
        self.examine: Examine | None = None
        self.weigher, self.step_rate = Weigher(), StepRate()
        self.broken = False  # our own parameters are not finite
        self.own = 1.0  # what our last exchange showed of ourselves
        self._weight_told = 1.0  # by the last event
        self.handover = Handover(vector)
        self.pacing = Pacing(budget or Budget(), self.step_time, policy, vector.nbytes)
        self.journal = Journal(spent=self.pacing.spent)
        self.members: Mapping[str, Member] = {}
        self.departed = Departed()
        # When the directory last answered: up to then silence is a partner's, later it may be ours.
        self.looked_at = 0.0
        self.progress = TrainingProgress()
        self.newcomer, self.arrival = membership.newcomer, Arrival(newcomer=membership.newcomer)
        self.returning = False  # resumed from a checkpoint, and has not met anybody since
        self.returned_at: float | None = None  # seconds of the event loop's clock
        self.offering_to: str | None = None
        self.yielding = False  # the partner that we offer to offered to us, and goes first
        self.leaving = False
        self.handing_over = False  # the exchange under way, or the next one, is our last
        self.awaited: str | None = None  # while leaving: who is to take something from us
        self.handed_step: int | None = None  # the step of our last snapshot that somebody else moved by
        self.freed = asyncio.Event()
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """From now on do as this policy says, and our membership."""
        self.policy = policy
        self.bargain = Bargain(
            self.membership, self.vector.elements, first_turn=random.Random(self.peer).randrange(FRAGMENTS_MAX)
        )
        self.pacing.adopt(policy, self.bargain.vector_bytes)
        self.judge = Judge()
        self.apart = Absences(self.membership.announce_seconds)
        self.rules = RulesAtWork(policy, self.handover.mine)
        centred = policy.topology is Topology.CENTRE  # everybody keeps the centre as it came
        self.handover.compares = centred or (policy.topology is Topology.PAIRS and policy.weighting == "dynamic")
        membership, topology = self.membership, policy.topology
        self.centre: Centre | None = None
        self.following: Following | None = None
        if topology is Topology.CENTRE:
            self.centre = Centre(
                self.vector.snapshot(self.vector.empty()),  # where nobody trains yet; else until the centre was seen
                policy.rule,
                seated=not membership.newcomer,
                announce_seconds=membership.announce_seconds,
            )
        if topology is Topology.LEADER:
            self.following = Following(self.peer, membership.group, membership.announce_seconds)

    @property
    def share(self) -> float:
        """What we give away of our sum weight when we ask (GoSGD): all of it where we leave."""
        return self.rules.share(last=self.handing_over)

    @property
    def weight(self) -> float:
        """How much we count for a partner, 0 to 1; 0 for a newcomer and where our parameters or loss are broken."""
        loss = self.progress.loss
        if self.broken or (loss is not None and not math.isfinite(loss)) or self._copies_first:
            return 0.0
        override = self.condition.override
        if override is not None:
            return override
        return self.weigher.weight if self.policy.weighting == "dynamic" else 1.0

    @property
    def _copies_first(self) -> bool:
        return self.arrival.proving or (self.newcomer and own_weight(True, self.progress.step, self.not_dead()) == 0.0)

    def met(self, *, copied: bool) -> None:
        """A newcomer copied a member that counts, and counts once its loss shows that; or it moved as its equal."""
        if self.newcomer and copied:
            self.arrival.copied()
        self.newcomer = self.returning = False

    def weigh(self) -> None:
        """Judge anew how much we count."""
        seen = Observed(
            loss=self.progress.loss,
            initial_loss=self.progress.first_loss,
            steps_per_second=self.step_rate.steps_per_second,
            records=self.journal.recent(asyncio.get_running_loop().time()),
            period=self.policy.schedule.mean_period,
            addresses=self.membership.addresses,
            own=self.own,
            newcomer=self._copies_first,
            broken=self.broken,
            timing=self._timing(),
        )
        self.weigher.weigh(judged(seen, self.alive()), self.condition.signals())
        before, self._weight_told = self._weight_told, self.weight
        if self._weight_told != before:
            text = f"weight {before:.2g} -> {self._weight_told:.2g}: {self._why()}"
            self.events.add("weight", text, weight=self._weight_told)

    def _timing(self) -> Timing:
        shown = self.deadlines.of_all
        answer, byte = shown.get("answer", UNKNOWN).smoothed, shown.get("byte", UNKNOWN).smoothed
        transfer = None if byte is None else byte * self.pacing.exchange_bytes
        return Timing(load_of(self.condition.signals()), answer, transfer)

    def _why(self) -> str:
        against = [signal.text or signal.name for signal in self.weigher.signals if signal.health < 1.0]
        if self.condition.override is not None and self._weight_told == self.condition.override:
            return "its operator set that"
        return against[0] if against and round(self._weight_told, 2) < 1.0 else "nothing speaks against it"

    # -- who is there -------------------------------------------------------------------------------------------------

    def alive(self) -> dict[str, Member]:
        """The members that are neither suspect nor dead."""
        return {p: m for p, m in self.members.items() if self._liveness(m) == "alive"}

    def not_dead(self) -> dict[str, Member]:
        """The members that are alive or suspect."""
        return {p: m for p, m in self.members.items() if self._liveness(m) != "dead"}

    def _liveness(self, member: Member) -> Liveness:
        return liveness(member, self.looked_at, self.membership.announce_seconds)

    def heard(self, peer: str) -> None:
        """It answered us, or asked us something."""
        self.members = heard(self.members, peer, asyncio.get_running_loop().time())
        self.watch.look_at(peer, self.members, self.looked_at, self.membership.announce_seconds)

    def failed(self, peer: str, outcome: Outcome) -> None:
        """An exchange with it failed so."""
        self.members = suspected(self.members, peer)
        self.watch.look_at(peer, self.members, self.looked_at, self.membership.announce_seconds, outcome.value)

    def waits(self, record: PeerRecord) -> Waits:
        """The deadlines of a conversation with that peer."""
        speed = None if self.centre is not None else record.steps_per_second  # the centre waits for others, not steps
        return self.deadlines.of(record.peer, patience(speed, self._limits.snapshot_seconds))

    def waits_of(self, peer: str) -> Waits:
        """The same for one that asks, member or stranger."""
        known = self.members.get(peer)
        if known is None:
            return self.deadlines.of_stranger(peer, self._limits.snapshot_seconds)
        return self.waits(known.record)

    @property
    def asking(self) -> Asking:
        """What we say of ourselves where we ask."""
        codec, vector = self.bargain.codec_of_copies, self.vector
        return Asking(self.peer, self.membership.run, vector.schema_hash, vector.elements, codec)

    def next_part(self) -> Part | None:
        """What the next exchange that is due moves; all of the vector where a part is no help. For the training
        thread."""
        copies = self.broken or self.newcomer or self.arrival.proving or self.apart.awaits_merging
        return None if copies or self.leaving else self.bargain.next_part()

    def terms(self, waits: Waits) -> Terms:
        """On what terms to offer what was taken for an exchange to a partner with those deadlines."""
        speed = self.step_rate.steps_per_second
        period = None if not speed else self.policy.schedule.mean_period / speed
        return self.bargain.propose(self.handover.part, waits, period)

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """The newest snapshot of that peer that is held here."""
        if self.centre is not None and origin == self.peer:
            return self.centre.shown(self.peer)
        if self.following is None:
            return None
        if origin == self.peer:
            self.following.asked_for = True
        return self.following.snapshots.newest(origin)

    def tell(self, exchange_id: str) -> Tell:
        """How well our training goes."""
        progress = self.progress
        return Tell(id=exchange_id, peer=self.peer, run=self.membership.run, step=progress.step, loss=self.loss())

    def loss(self) -> float | None:
        """The last loss, where it is a number that JSON has."""
        loss = self.progress.loss
        return loss if loss is not None and math.isfinite(loss) else None

    async def finite(self) -> bool:
        """Whether our own snapshot may be shown to others, once all of it is here."""
        if not self.handover.has_arrived:
            await asyncio.to_thread(self.handover.arrive)
        self.broken = not bool(torch.isfinite(self.handover.mine.sum()))
        return not self.broken

    def apart_from(self, partner: str) -> Apart | None:
        """What our header says to that partner of what stands behind us since a partition; None in quiet times."""
        now = asyncio.get_running_loop().time()
        return self.apart.header(partner, now, self.progress.step) if self.policy.rule.merges else None

    async def try_ours(self, theirs: Facts, mine: Facts | None = None) -> Trial | None:
        """The same for the exchange under way, unless our own parameters are broken."""
        both = self.handover.both
        return None if both is None or self.broken else await self.try_out(both, theirs, mine)

    async def try_out(self, vectors: Vectors, theirs: Facts, mine: Facts | None = None) -> Trial | None:
        """How the partner's parameters and ours do on our examples, where this run weighs by that.

        Given our own facts, after a partition, also whether a barrier is where the exchange would lead us.
        """
        if self.examine is None or not self._judges(theirs):
            return None
        try:
            trial = await self.examine(vectors.theirs, vectors.mine)
            if trial is None or mine is None or not guards(self.policy.rule, mine, theirs):
                return trial
            where = landing(self.policy.rule, self.rules.states.own, vectors, mine, theirs)
            return await with_barrier(self.examine, where, vectors, trial, self.progress.first_loss)
        except RuntimeError as error:  # such as no memory left on the device
            log.warning("a partner's parameters could not be tried: %s", error)
            return None

    def _judges(self, theirs: Facts) -> bool:
        """Whether anything is to be said of a partner: who counts for nothing may have sent zeros, and moves nobody."""
        return self.policy.weighting == "dynamic" and theirs.weight > 0.0

    def verdict(
        self,
        judge: Judge,
        partner: str,
        theirs: Facts,
        distance: float,
        trial: Trial | None,
        part: Part | None = None,
    ) -> Verdict | None:
        """What an exchange shows; None where it shows nothing, or all count the same in this run."""
        if not self._judges(theirs) or not math.isfinite(distance):
            return None
        if self.progress.first_loss is not None:  # who trained alone before is far below it at its first trial
            judge.begins_at(self.progress.first_loss)
        known = judge.verdicts.get(partner)
        verdict = judge.judge(partner, distance, trial, part)
        before = 1.0 if known is None else known.trust
        if (verdict.trust == 0.0) != (before == 0.0):
            why = "; ".join(verdict.reasons) or "it does as well as others again"
            self.events.add("trust", f"trust in {partner} {before:.2g} -> {verdict.trust:.2g}: {why}", partner=partner)
        return verdict

    def trusted_at(self, centre: Centre, partner: str, theirs: Facts, trial: Trial | None) -> Callable[[float], float]:
        """Given the distance, how far the centre, which is here, trusts a partner."""

        def trusted(distance: float) -> float:
            verdict = self.verdict(centre.judge, partner, theirs, distance, trial, centre.part)
            return 1.0 if verdict is None else verdict.trust

        return trusted

    def enter(
        self,
        exchange_id: str,
        partner: str,
        result: Result,
        *,
        initiated: bool,
        started: float,
        traffic: tuple[int, int],
        distance: float | None,
    ) -> None:
        """Write an exchange that just ended into the journal. `started` in seconds of the event loop's clock."""
        now = asyncio.get_running_loop().time()
        if result.outcome is Outcome.COMPLETED:
            self.apart.met(partner, now, self.progress.step)
        entry = Entry(
            id=exchange_id,
            partner=partner,
            initiated=initiated,
            outcome=result.outcome,
            reason=result.reason,
            step=self.progress.step,
            seconds=now - started,
            bytes_sent=traffic[0],
            bytes_received=traffic[1],
            distance=distance,
            ended_at=now,
        )
        self.journal.enter(entry, result.theirs.weight if result.theirs is not None else None)
        text, facts = entry.event()
        self.events.add("exchange", text, **facts)

    def free(self) -> None:
        """Give up the exchange under way."""
        self.handover.release()
        self.freed.set()

    async def until_free(self) -> None:
        """Wait until no exchange is under way and no move waits to be added."""
        await self._until(State.FREE)

    async def until_quiet(self) -> None:
        """Wait until no exchange is under way; a move may still wait to be added."""
        await self._until(State.FREE, State.DELIVERED)

    async def _until(self, *states: State) -> None:
        while self.handover.state not in states:
            self.freed.clear()
            await self.freed.wait()
