"""What this peer says of itself: how its training goes, how much it counts, and why."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import NamedTuple

from p2p_elastic.health.causes import Timing, load_of
from p2p_elastic.health.causes import names as some
from p2p_elastic.health.operator import Condition
from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.exchange.journal import Journal
from p2p_elastic.peers.exchange.mailbox import Mailbox
from p2p_elastic.peers.exchange.negotiation import Terms
from p2p_elastic.peers.exchange.own_weight import Observed, StepRate, Weigher, judged
from p2p_elastic.peers.membership.away import RETURN_SECONDS, was_away_long
from p2p_elastic.peers.membership.liveness import own_weight
from p2p_elastic.peers.membership.newcomer import Arrival
from p2p_elastic.peers.session.deadlines import UNKNOWN, Waits
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.state.members import Membership
from p2p_elastic.protocol.link_choice import Link
from p2p_elastic.protocol.messages import Apart, Tell
from p2p_elastic.rules.methods import Flow
from p2p_elastic.status.events import EventLog

log = logging.getLogger(__name__)
NAMES_MAX = 20  # tensors, in an event


class Progress(NamedTuple):
    """What the training thread last said.

    Attributes:
        step: optimizer steps so far.
        loss: the last loss, in nats; None before the first. It may be infinite or NaN.
        first_loss: the first finite loss, or that of the untrained model, in nats; None if there is none yet.
    """

    step: int = 0
    loss: float | None = None
    first_loss: float | None = None


class OwnState:
    """What this peer knows of itself. Belongs to the network thread, but for `progress` and `arrival`.

    Args:
        run: the run that this peer is in.
        members: the others in it.
        condition: what the machine, its operator and other programs say about this peer.
        journal: the exchanges so far.
        events: where changes of this peer's weight are written down.
    """

    def __init__(
        self, run: CurrentRun, members: Membership, condition: Condition, journal: Journal, events: EventLog
    ) -> None:
        self._run, self._members, self._journal, self._events = run, members, journal, events
        self.condition = condition
        self.progress = Progress()
        self.weigher, self.step_rate = Weigher(), StepRate()
        self.broken = False  # this peer's own parameters are not finite
        self._compared = 1.0  # what the last exchange showed of this peer
        self._weight_told = 1.0  # by the last event
        self.newcomer, self.arrival = run.context.newcomer, Arrival(newcomer=run.context.newcomer)
        self._returning = False  # resumed from a checkpoint, and has not exchanged with any peer since
        self._returned_at: float | None = None  # seconds of the event loop's clock

    # -- how much this peer counts ------------------------------------------------------------------------------------

    @property
    def weight(self) -> float:
        """How much this peer counts for a partner, 0 to 1; 0 for a newcomer, or if its model or loss is broken."""
        loss = self.progress.loss
        if self.broken or (loss is not None and not math.isfinite(loss)) or self._copies_first:
            return 0.0
        override = self.condition.override
        if override is not None:
            return override
        return self.weigher.weight if self._run.policy.weighting == "dynamic" else 1.0

    @property
    def _copies_first(self) -> bool:
        return self.arrival.proving or (self.newcomer and self._is_behind)

    @property
    def _is_behind(self) -> bool:
        members = self._members.not_dead()
        return self._run.context.origin in members or own_weight(True, self.progress.step, members) == 0.0

    def weigh(self) -> None:
        """Judge anew how much this peer counts, and write down a change."""
        seen = Observed(
            loss=self.progress.loss,
            initial_loss=self.progress.first_loss,
            steps_per_second=self.step_rate.steps_per_second,
            records=self._journal.recent(asyncio.get_running_loop().time()),
            period=self._run.policy.schedule.mean_period,
            addresses=self._run.context.addresses,
            own=self._compared,
            newcomer=self._copies_first,
            broken=self.broken,
            timing=self._timing(),
        )
        members, reported = self._members.alive(), self.condition.signals()
        if self._run.policy.weighting == "dynamic":
            self.weigher.weigh(judged(seen, members), reported)
        else:
            self.weigher.show(seen, members, reported)
        before, self._weight_told = self._weight_told, self.weight
        if self._weight_told != before:
            text = f"weight {before:.2g} -> {self._weight_told:.2g}: {self._why()}"
            self._events.add("weight", text, weight=self._weight_told)

    def _timing(self) -> Timing:
        shown = self._members.deadlines.of_all
        answer, byte = shown.get("answer", UNKNOWN).smoothed, shown.get("byte", UNKNOWN).smoothed
        transfer = None if byte is None else byte * self._run.exchange_bytes
        return Timing(load_of(self.condition.signals()), answer, transfer)

    def _why(self) -> str:
        against = [signal.text or signal.name for signal in self.weigher.signals if signal.health < 1.0]
        if self.condition.override is not None and self._weight_told == self.condition.override:
            return "its operator set that"
        return against[0] if against and round(self._weight_told, 2) < 1.0 else "nothing speaks against it"

    def compared(self, shown: float) -> None:
        """Note what an exchange showed of this peer.

        Args:
            shown: how far this peer can trust itself, 0 to 1.
        """
        self._compared = shown

    # -- as training goes ---------------------------------------------------------------------------------------------

    def report_loss(self, loss: float) -> None:
        """Take in how well training goes.

        Args:
            loss: of the last steps, in nats. The first finite one is kept as well.
        """
        step, _, first = self.progress
        first = loss if first is None and math.isfinite(loss) else first
        self.progress = Progress(step, loss, first)

    def report_untrained_loss(self, loss: float) -> None:
        """Take in the loss that training would begin with.

        Args:
            loss: of the untrained model, in nats; one that is not finite is not taken in.
        """
        if math.isfinite(loss):
            self.progress = self.progress._replace(first_loss=loss)
            self.arrival.untrained(loss)

    def stepped(self) -> int:
        """Count an optimizer step that ended.

        Returns:
            Optimizer steps so far.
        """
        step, loss, first = self.progress
        self.progress = Progress(step + 1, loss, first)
        return step + 1

    def arrives(self, now: float) -> bool:
        """Whether this peer, a newcomer, counts from now on; to be asked after each step.

        Args:
            now: seconds of the event loop's clock.

        Returns:
            True once: if it counts from now on.
        """
        if not self.arrival.proving:  # nearly always: members are not to be judged at each step
            return False
        progress = self.progress
        counts = self.arrival.stepped(progress.loss, progress.first_loss, self._members.alive(), now)
        if counts:
            self._events.add("weight", "this peer's loss is in range of the others': from now on it counts")
        return counts

    def replaced(self) -> None:
        """Note that this peer's parameters are a partner's now: they are finite."""
        self.broken = False

    def presumed_finite(self, mailbox: Mailbox, flow: Flow) -> bool:
        """Whether a snapshot may be offered before it is whole: if it is not finite, the offer is taken back.

        Args:
            mailbox: has the snapshot.
            flow: which way parameters travel. Only if they do both ways it shows by itself whether all is finite.

        Returns:
            False if it has to be looked at first, by `finite`.
        """
        return (
            flow is Flow.BOTH and mailbox.overlaps and not (self.broken or mailbox.lost.doubted or mailbox.lost.names)
        )

    async def finite(self, mailbox: Mailbox, *, whole: bool = False) -> bool:
        """Whether this peer's snapshot may be shown to others, once all of it has arrived.

        Args:
            mailbox: has the snapshot, which may still be on its way from the device. If some tensors of it are not
                finite, these are lost there, and all else may be shown.
            whole: True if a snapshot without these is worth nothing.

        Returns:
            False if that is so, or if more than half of the numbers are not finite: then this peer has weight 0.
        """
        if not mailbox.has_arrived:
            await asyncio.to_thread(mailbox.arrive)
        before, finite = mailbox.lost.names, math.isfinite(float(mailbox.mine.sum()))
        found = mailbox.lost.find(None if finite else mailbox.mine, mailbox.part)
        self.broken = not finite and (whole or not found)
        if (names := mailbox.lost.names) != before:
            again = "all tensors of this peer's model are finite again"
            text = f"not finite at this peer, so a partner's take the place: {some(names)}" if names else again
            log.warning("%s", text)
            self._events.add("signal", text, tensors=[*names[:NAMES_MAX]])
        return not self.broken

    # -- as a newcomer, and after a restart ---------------------------------------------------------------------------

    def met(self, *, copied: bool) -> None:
        """Note that this peer moved, as an equal of its partner or as a newcomer.

        Args:
            copied: True if it took over the parameters of a member that counts: a newcomer counts once its loss shows
                that.
        """
        if self.newcomer and copied:
            self.arrival.copied()
        self.newcomer = self._returning = False

    def join(self, now: float) -> None:
        """Become a newcomer of another run.

        Args:
            now: seconds of the event loop's clock.
        """
        self.newcomer, self.arrival = True, Arrival(newcomer=True)
        self.arrival.began(now)

    def resume(self, progress: Progress, *, newcomer: bool) -> None:
        """Go on after a restart.

        Args:
            progress: of the earlier life.
            newcomer: True if that life had copied no other peer yet.
        """
        self.progress, self.newcomer, self._returning = progress, newcomer, True

    def look_back(self, now: float) -> None:
        """Choose after a restart, once others are seen: exchange as before, or as a newcomer.

        Args:
            now: seconds of the event loop's clock.
        """
        if not self._returning:
            return
        if self._returned_at is None:
            self._returned_at = now
        period = self._run.policy.schedule.mean_period
        if now - self._returned_at > RETURN_SECONDS:
            self._returning = False
        elif was_away_long(self.progress.step, self._members.alive(), period):
            self._returning, self.newcomer = False, True
            self._events.add("weight", "away for long: copies a partner before it counts, as a newcomer would")

    # -- what partners hear -------------------------------------------------------------------------------------------

    def loss(self) -> float | None:
        """Give the loss that others are told.

        Returns:
            The last one, in nats; None if it is not known or not finite, which JSON cannot say.
        """
        loss = self.progress.loss
        return loss if loss is not None and math.isfinite(loss) else None

    def tell(self, exchange_id: str) -> Tell:
        """Build the message that says how well training goes here.

        Args:
            exchange_id: of the comparison.

        Returns:
            The message.
        """
        run = self._run
        return Tell(id=exchange_id, peer=run.peer, run=run.context.run, step=self.progress.step, loss=self.loss())

    def apart_from(self, partner: str) -> Apart | None:
        """Say what stands behind this peer's model since a partition, for the header of an exchange.

        Args:
            partner: the peer that is to read it.

        Returns:
            What both sides learnt apart; None in quiet times, and if the run's rule does not merge.
        """
        if not self._run.policy.rule.merges:
            return None
        return self._members.apart.header(partner, asyncio.get_running_loop().time(), self.progress.step)

    def next_part(self) -> Part | None:
        """Choose what the next exchange that is due moves. For the training thread.

        Returns:
            The part of the vector; None for all of it, also if a part is no help.
        """
        bargain = self._run.bargain
        # Who has copied the model is near the others; a thin link should not carry all of it again.
        proving = self.arrival.proving and not bargain.automatic
        copies = self.broken or self.newcomer or proving or self._members.apart.awaits_merging
        return None if copies else bargain.next_part(self.link, self.period_seconds)

    @property
    def link(self) -> Link:
        """What exchanges with all partners have shown. For any thread."""
        shown = self._members.deadlines.of_all
        return Link(shown.get("byte", UNKNOWN).smoothed, shown.get("rtt", UNKNOWN).smoothed)

    @property
    def period_seconds(self) -> float | None:
        """The time between two exchanges that are due here, in seconds; None if the speed is not known."""
        speed = self.step_rate.steps_per_second
        return None if not speed else self._run.policy.schedule.mean_period / speed

    def terms(self, part: Part | None, waits: Waits) -> Terms:
        """Choose the terms on which to offer an exchange.

        Args:
            part: of the vector; None for all of it.
            waits: the partner's deadlines.

        Returns:
            The codec and the number of streams, with the part.
        """
        return self._run.bargain.propose(part, waits, self.period_seconds)
