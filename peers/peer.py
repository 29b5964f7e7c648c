"""One peer of a run, live or in virtual time: asks for exchanges, answers them, hands moves to the training thread."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from dataclasses import replace

from torch import Tensor

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.health.operator import Condition
from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.peers.answered import answered_by, responder_of
from p2p_elastic.peers.exchange.journal import Skip
from p2p_elastic.peers.exchange.slot import Slot
from p2p_elastic.peers.gossip.errands import Errands
from p2p_elastic.peers.gossip.strategy_parts import Measure
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.lifecycle.catch_up import CatchingUp, Try
from p2p_elastic.peers.lifecycle.leave import Farewell
from p2p_elastic.peers.lifecycle.persistence import recall, remembered
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.membership.periodic import attempt, every
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext, assembled
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.state.partner_judge import Examine
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.peers.state.views import members_of, partners_of
from p2p_elastic.peers.topologies import parts_of, take_up
from p2p_elastic.peers.transport.interfaces import Directory, Transport
from p2p_elastic.rate_limit import Budget
from p2p_elastic.rules.policy import Policy
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import (
    CentreStatus,
    ExchangeRecord,
    ExchangeTotals,
    FarewellStatus,
    JoiningStatus,
    LeaderStatus,
    MemberStatus,
    PaceStatus,
    PartitionStatus,
    PartnerStatus,
    SignalStatus,
)

SOON_SHARE = 0.2  # of the interval between announcements, until the second one


class Peer:
    """Lives on one event loop; `after_step` and `during_evaluation` belong to the training thread.

    Args:
        vector: the model.
        policy: how the run's peers train together.
        transport: opens and serves streams: libp2p, or simulated.
        directory: has the records of all members: the DHT, or simulated.
        context: the run, and how often to announce and refresh.
        seed: of the schedule's coin and of the choice of partners.
        limits: deadlines and bounds.
        condition: what the machine, its operator and other programs say about this peer.
        events: the log of what happens.
        budget: what exchanges may cost this peer.
    """

    def __init__(
        self,
        *,
        vector: ParameterVector,
        policy: Policy,
        transport: Transport,
        directory: Directory,
        context: RunContext,
        seed: int = 0,
        limits: Limits | None = None,
        condition: Condition | None = None,
        events: EventLog | None = None,
        budget: Budget | None = None,
    ) -> None:
        limits, events = limits or Limits(), events or EventLog(lambda: 0.0)
        condition = condition or Condition(self._now, events=events)
        run = CurrentRun(transport.peer, vector, context, policy)
        self._local = assembled(run, condition, events, limits=limits, budget=budget)
        condition.tells(self._weigh_at_once)
        self._loop: asyncio.AbstractEventLoop | None = None
        # Another life of the same identity has other exchange ids: partners still know those of the last one.
        rng = random.Random(f"{seed} {self.peer} {context.first_sequence} partners")
        self._strategy_parts = parts_of(self._local, transport, limits, rng)
        self._presence = Presence(self._local, directory)
        self.answered = answered_by(self._strategy_parts, self._presence, self.refresh)  # each says what is under way
        self.responder = responder_of(self.answered, self._strategy_parts)
        self._farewell = Farewell(self._strategy_parts, directory, self._presence)
        self._catching_up = CatchingUp(self._local, transport, limits, rng, self.refresh)
        self._errands = Errands(run, self._local.journal, random.Random(f"{seed} {self.peer} coin"))
        self._to_initiate, self._to_attend = asyncio.Event(), asyncio.Event()

    # -- training thread ----------------------------------------------------------------------------------------------

    def report_loss(self, loss: float) -> None:
        """Say how well training goes (nats); partners and the directory hear of it."""
        self._local.own.report_loss(loss)

    def report_untrained_loss(self, loss: float) -> None:
        """Say, before a newcomer catches up, the loss (nats) that it would begin with: losses are measured by that."""
        if math.isfinite(loss):
            self._local.own.report_untrained_loss(loss)

    def begin_with(self, caught: CaughtUp) -> None:
        """Take over what catching up brought, before the first step."""
        local = self._local
        local.vector.load_(caught.values)
        local.own.met(copied=True)

    def serve_newcomers(self) -> None:
        """Let newcomers copy while this peer waits to begin: exchanges have to wait."""
        self._local.slot.mailbox.copy_for_newcomers(self._local.own.progress.step)

    def after_step(self) -> bool:
        """Say that an optimizer step ended. Adds a waiting move: the only place where a peer changes parameters.

        Returns:
            Whether a partner's model took the place of this peer's, since that was not finite any more or this peer is
            a newcomer: then what the optimizer has gathered is worth nothing.
        """
        local = self._local
        step = local.own.stepped()
        self._arrive()
        if self._loop is not None:
            local.members.step_time.ended(self._loop.time())
        held: Skip | None = "drained" if local.own.condition.drained else "paced" if self._paced() else None
        if not local.departure.leaving:
            self._errands.stepped(step, held)
        return self._between_steps(due=self._errands.owed and held is None)

    def _paced(self) -> bool:
        """Whether what is due has to wait for the budget. To meet what is here costs nothing."""
        return not self._local.run.topology.here and self._local.pacing.closed(self._now())

    def _arrive(self) -> None:
        """See whether this peer, a newcomer, counts from now on."""
        local = self._local
        if local.own.arrives(self._now()) and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(local.own.weigh)

    def settle(self) -> bool:
        """Add a move that still waits, after the last step or before a checkpoint. True as with `after_step`."""
        return self._between_steps(due=False)

    def wait(self, seconds: float) -> None:
        """Instead of a step: sleep for `seconds` at most, until a snapshot is wanted or `settle` has a move to add."""
        self._local.slot.mailbox.wait(seconds)

    def memory(self) -> PeerMemory:
        """What another life of this peer needs to go on, with `centre_value`."""
        return remembered(self._local, self._presence.sequence, self._errands.coin)

    def restore(self, memory: PeerMemory, *, loss: float | None = None, centre: Tensor | None = None) -> None:
        """Before `run`: go on as that life of this peer. `loss` (nats) is its last, `centre` [D] what it knew."""
        recall(memory, self._local, coin=self._errands.coin, loss=loss, value=centre)

    def _between_steps(self, *, due: bool) -> bool:
        """Whether a partner's model took the place of this peer's."""
        local = self._local
        due = due and self._loop is not None  # before `run` nobody would take the snapshot
        settled = local.slot.mailbox.between_steps(
            local.own.progress.step, due=due, settle=True, published=self._snapshot_taken, part=self._next_part
        )
        if settled is not None:
            if settled.added:
                local.journal.settled(settled.exchange_id, settled.staleness)
            else:
                local.journal.skipped[local.run.topology.refused_as] += 1
            if settled.replaced:
                local.own.replaced()
            self._wake(local.slot.freed)
        return settled is not None and (settled.replaced or settled.copied)

    def _next_part(self) -> Part | None:
        return None if self._local.departure.leaving else self._local.own.next_part()

    def during_evaluation(self) -> None:
        """Serve a partner that waits for a snapshot, without changing the parameters."""
        local = self._local
        local.slot.mailbox.between_steps(
            local.own.progress.step, due=False, settle=False, published=self._snapshot_taken
        )

    def _snapshot_taken(self, due: bool) -> None:
        if due:
            self._errands.begin()
        self._wake(self._to_initiate if due else self._strategy_parts.own.published)

    def _wake(self, event: asyncio.Event) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)

    # -- status, from any thread --------------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """This peer's id."""
        return self._local.peer

    @property
    def events(self) -> EventLog:
        """What happened here, for people and programs."""
        return self._local.events

    @property
    def parts(self) -> LocalContext:
        """What its exchanges share; each part says itself which thread it belongs to."""
        return self._local

    @property
    def exchange_state(self) -> Slot:
        """How far the exchange under way is, and with whom."""
        return self._local.slot.state

    @property
    def exchange_due(self) -> bool:
        """Whether a snapshot waits for the network to begin an exchange with it."""
        return self._to_initiate.is_set()

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self._local.own.progress.step

    @property
    def weight(self) -> float:
        """How much this peer counts for a partner, 0 (it copies, and is not copied) to 1."""
        return self._local.own.weight

    @property
    def condition(self) -> Condition:
        """What the machine, its operator and other programs say about this peer."""
        return self._local.own.condition

    def signals(self) -> tuple[SignalStatus, ...]:
        """List the signals of this peer's health, the worst first."""
        return self._local.own.weigher.signals

    def partners(self) -> tuple[PartnerStatus, ...]:
        """List the members with which there were exchanges, the latest first."""
        return partners_of(self._local, self._now())

    def examine_with(self, examine: Examine | None) -> None:
        """Let `examine` try a partner's parameters before each move from now on (dynamic weighting); None: no trial."""
        self._local.judge.examine_with(examine)

    def judge_leaders(self, measure: Measure) -> None:
        """From now on, try a leader's parameters with `measure` before following them (LSGD)."""
        self._strategy_parts.measure = measure

    def centre(self) -> CentreStatus | None:
        """Who holds the centre variable, and how fresh the copy here is; None in runs without one."""
        return self._local.run.topology.status(self._now()).centre

    def centre_value(self) -> Tensor | None:
        """A copy [D] of the centre variable as it is known here."""
        return self._local.run.topology.value()

    def leaders(self) -> LeaderStatus | None:
        """Whom this peer follows (LSGD); None in other runs."""
        return self._local.run.topology.status(self._now()).leader

    def joining(self) -> JoiningStatus | None:
        """How this peer caught up with the run, and since when it counts; None at the founder."""
        return self._local.own.arrival.status

    def partition(self) -> PartitionStatus | None:
        """Members that vanished together; None if there are none."""
        return self._local.members.apart.status(self._now(), self.step)

    def pace(self) -> PaceStatus | None:
        """The budget of exchanges; None if there is none."""
        return self._local.pacing.status(self._now())

    def exchanges(self) -> ExchangeTotals:
        """Count the exchanges, what they took, and those that did not take place."""
        return self._local.journal.totals(self._now())

    def last_exchanges(self) -> tuple[ExchangeRecord, ...]:
        """List the last exchanges, the newest first."""
        return self._local.journal.last(self._now())

    def streams_refused(self) -> dict[str, int]:
        """Count the refused streams, by reason."""
        return dict(self._local.journal.streams_refused)

    def members(self) -> tuple[MemberStatus, ...]:
        """List the other members of the run, by peer id."""
        return members_of(self._local, self._now())

    def _now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0

    # -- network thread -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve, announce, refresh and initiate until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._local.own.arrival.began(self._now())
        await self._strategy_parts.transport.serve(self.responder.answer)
        context = self._local.run.context
        await attempt(self.announce)  # first: the directory lists the members of the run that was announced
        tasks = [
            asyncio.ensure_future(every(context.announce_seconds, self.announce)),
            asyncio.ensure_future(self._announce_soon()),
            asyncio.ensure_future(every(context.refresh_seconds, self.refresh)),
            asyncio.ensure_future(self._attend()),
            asyncio.ensure_future(self._initiate_forever()),
        ]
        if context.standby:
            tasks.append(asyncio.ensure_future(every(context.announce_seconds, self._stand_by)))
        try:
            await asyncio.gather(*tasks)
        finally:
            left = set(tasks)
            while left:  # before Python 3.12 `wait_for` may swallow a cancellation that comes just as its wait ends
                for task in left:
                    task.cancel()
                _, left = await asyncio.wait(left, timeout=0.1)

    async def leave(self, seconds: float) -> FarewellStatus:
        """Let the exchange under way end, hand the last parameters to a partner, and say goodbye, within `seconds`.

        While it runs the training thread has to call `settle`: snapshots are wanted, and moves are to be added. If
        it is cancelled and called again, it goes on with what was not begun.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        status = await self._farewell.say(seconds)
        with contextlib.suppress(asyncio.TimeoutError):
            await wait_for(self.responder.until_told(), max(0.0, end - loop.time()))
        return status

    def adopt(self, run: str, policy: Policy, *, codec: str, fragments: int) -> None:
        """Become a newcomer of another run with the same model, after training alone."""
        local = self._local
        context = replace(local.run.context, run=run, codec=codec, fragments=fragments, newcomer=True)
        local.run.adopt(context, policy)
        local.members.forget()
        local.own.join(self._now())
        local.judge.forget()
        take_up(self._strategy_parts)
        local.pacing.adopt(policy, local.run.bargain.vector_bytes)

    async def catch_up(self, untrained: float, try_out: Try | None = None) -> CaughtUp | None:
        """Fetch what a newcomer begins with, for `begin_with`. While this runs it must not train.

        Args:
            untrained: the loss that it would begin with otherwise, in nats.
            try_out: tries parameters on this peer's examples; None: they are taken untried.

        Returns:
            None if there is no need or no way: see `joining`.
        """
        return await self._catching_up.bring(untrained, try_out)

    async def announce(self) -> None:
        """Make this peer's record known, unless it is leaving. Raises DirectoryError."""
        await self._presence.announce()

    async def _announce_soon(self) -> None:
        """The first record says that this peer has not begun: a later joiner would think that nobody is ahead."""
        await asyncio.sleep(SOON_SHARE * self._local.run.context.announce_seconds)
        await attempt(self.announce)

    async def refresh(self) -> None:
        """Read which others are in the run, and how this peer does. Raises DirectoryError."""
        await self._presence.refresh()
        if self._local.run.topology.pending:
            self._to_attend.set()

    async def _attend(self) -> None:
        """Do what the topology has to do, with a pause of one announcement between two tries, until cancelled."""
        while True:
            await self._to_attend.wait()
            self._to_attend.clear()
            while self._local.run.topology.pending:
                await self._local.run.topology.attend()
                await asyncio.sleep(self._local.run.context.announce_seconds)

    async def _stand_by(self) -> None:
        await self._local.run.topology.stand_by()

    def _weigh_at_once(self) -> None:
        """The caller that changed this peer's condition is told what comes of it."""
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread: the next refresh weighs
            if asyncio.get_running_loop() is self._loop:
                self._local.own.weigh()

    async def _initiate_forever(self) -> None:
        while True:
            await self._to_initiate.wait()
            self._to_initiate.clear()
            await self._local.run.topology.run_due(self._errands.current)
