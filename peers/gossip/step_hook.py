"""What a peer does between two optimizer steps: it adds moves, and gives snapshots."""

from __future__ import annotations

import asyncio

from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.exchange.journal import Skip
from p2p_elastic.peers.exchange.mailbox import Settled, State
from p2p_elastic.peers.gossip.errands import Errands
from p2p_elastic.peers.state.context import LocalContext


class StepHook:
    """Adds moves: the only place where a training peer changes parameters. Belongs to the training thread.

    Args:
        local: the parts of this peer.
        errands: the exchanges that are due.
        published: set when a snapshot is ready that a partner waits for.
    """

    def __init__(self, local: LocalContext, errands: Errands, published: asyncio.Event) -> None:
        self._local, self._errands, self._published = local, errands, published
        self.due = asyncio.Event()  # a snapshot waits for the network to begin an exchange with it
        self.loop: asyncio.AbstractEventLoop | None = None  # that of the network, once it runs
        self._unmet = False  # whether nothing has come yet of the last exchange that was due
        self.moves = 0  # that were added to the model, models that took its place, and outer steps alone

    def after_step(self) -> bool:
        """Count a step, see what is due after it, and add a waiting move.

        Returns:
            As `settle`.
        """
        local, now = self._local, self._now()
        step = local.own.stepped()
        local.slot.mailbox.outer.begin()
        self._arrive(now)
        if self.loop is not None:
            local.members.step_time.ended(now)
        due = () if local.departure.leaving else self._errands.due(step)
        self._errands.resume(now)
        if not due and not self._errands.owed:  # after nearly every step
            return self._between_steps(due=False)
        held = self._held(now)
        self._errands.owe(due, held)
        if due:
            self._outer_step_alone(held)
        return self._between_steps(due=self._errands.owed and held is None)

    def _outer_step_alone(self, held: Skip | None) -> None:
        """Make an outer step without a move, if there is no partner, or the last exchange came to nothing (SNOO)."""
        mailbox = self._local.slot.mailbox
        if mailbox.outer.on and (self._unmet or held == "no partner") and mailbox.state is State.FREE:
            mailbox.outer.step(None)
            self.moves += 1
        self._unmet = held != "no partner"

    def _held(self, now: float) -> Skip | None:
        """Why nothing is begun after this step: then it costs no snapshot. To meet what is here costs nothing."""
        local = self._local
        if local.own.condition.drained:
            return "drained"
        if local.run.topology.why_alone is not None:
            return "no partner"
        if local.run.topology.here:
            return None
        if not local.members.known:
            return "no partner"
        return "paced" if local.pacing.closed(now) else None

    def _arrive(self, now: float) -> None:
        """See whether this peer, a newcomer, counts from now on."""
        local = self._local
        if local.own.arrives(now) and self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(local.own.weigh)

    def settle(self) -> bool:
        """Add a waiting move, without a step.

        Returns:
            Whether a partner's model, or a parameter of it, took the place of this peer's.
        """
        return self._between_steps(due=False)

    def _between_steps(self, *, due: bool) -> bool:
        """Whether a partner's model, or a parameter of it, took the place of this peer's."""
        local = self._local
        # Before `run` nobody would take the snapshot; a partner that waits gets the next one, and is answered.
        due = due and self.loop is not None and not local.slot.waiting.go_first
        if not due and not local.slot.mailbox.has_work:
            return False
        settled = local.slot.mailbox.between_steps(
            local.own.progress.step, due=due, settle=True, published=self._snapshot_taken, part=self._next_part
        )
        if settled is not None:
            if settled.added:
                self._unmet = False
                self.moves += 1
                local.journal.settled(settled.exchange_id, settled.staleness)
            else:
                local.journal.skipped[local.run.topology.refused_as] += 1
            if settled.replaced:
                local.own.replaced()
            self._wake(local.slot.freed)
        return settled is not None and (settled.replaced or settled.copied or self._healed_parameters(settled))

    def _healed_parameters(self, settled: Settled) -> bool:
        return any(start < self._local.vector.trainable for start, _ in settled.healed)

    def _next_part(self) -> Part | None:
        return None if self._local.departure.leaving else self._local.own.next_part()

    def during_evaluation(self) -> None:
        """Give a snapshot that is waited for, without changing the parameters."""
        local = self._local
        local.slot.mailbox.between_steps(
            local.own.progress.step, due=False, settle=False, published=self._snapshot_taken
        )

    def _snapshot_taken(self, due: bool) -> None:
        if due:
            self._errands.begin()
        self._wake(self.due if due else self._published)

    def _wake(self, event: asyncio.Event) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(event.set)

    def _now(self) -> float:
        return self.loop.time() if self.loop is not None else 0.0
