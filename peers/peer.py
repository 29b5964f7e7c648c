"""One peer of a run, live or in virtual time: asks for exchanges, answers them, hands moves to the training thread."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace

from torch import Tensor

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.health.operator import Condition
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.answered import answered_by, responder_of
from p2p_elastic.peers.exchange.mailbox import State
from p2p_elastic.peers.exchange.slot import Slot
from p2p_elastic.peers.gossip.errands import Errands
from p2p_elastic.peers.gossip.step_hook import StepHook
from p2p_elastic.peers.gossip.strategy_parts import Measure
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.lifecycle.catch_up import CatchingUp, Try
from p2p_elastic.peers.lifecycle.leave import Farewell
from p2p_elastic.peers.lifecycle.network_tasks import NetworkTasks
from p2p_elastic.peers.lifecycle.other_models import OtherModels
from p2p_elastic.peers.lifecycle.persistence import recall, remembered
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext, assembled
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.state.partner_judge import Examine
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.peers.state.views import members_of, partners_of
from p2p_elastic.peers.topologies import adopt, parts_of
from p2p_elastic.peers.transport.interfaces import Directory, Transport
from p2p_elastic.rate_limit import Budget
from p2p_elastic.rules.policy import Policy
from p2p_elastic.status import schema
from p2p_elastic.status.events import EventLog


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
        direct, access = transport.direct, transport.access
        self._local = assembled(run, condition, events, limits=limits, budget=budget, direct=direct, access=access)
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
        self._hook = StepHook(self._local, self._errands, self._strategy_parts.own.published)
        self._tasks = NetworkTasks(
            self._local, self._presence, self._errands, self._hook.due, OtherModels(self._strategy_parts)
        )
        condition.tells(self._tasks.weigh_at_once)

    # -- training thread ----------------------------------------------------------------------------------------------

    def report_loss(self, loss: float) -> None:
        """Say how well training goes; partners and the directory hear of it.

        Args:
            loss: the last one, in nats.
        """
        self._local.own.report_loss(loss)

    def report_untrained_loss(self, loss: float) -> None:
        """Say, before a newcomer catches up, the loss that it would begin with: losses are measured by that.

        Args:
            loss: in nats; one that is not finite is not taken in.
        """
        self._local.own.report_untrained_loss(loss)

    def begin_with(self, caught: CaughtUp) -> None:
        """Take over what catching up brought, before the first step.

        Args:
            caught: what `catch_up` gave.
        """
        self._local.vector.load_(caught.values)
        self._local.slot.mailbox.outer.restart(None)
        self._local.own.met(copied=True)

    def serve_newcomers(self) -> None:
        """Let newcomers copy while this peer waits to begin: exchanges have to wait."""
        self._local.slot.mailbox.copy_for_newcomers(self._local.own.progress.step)

    def after_step(self) -> bool:
        """Say that an optimizer step ended. Adds a waiting move: the only place where a peer changes parameters.

        Returns:
            Whether a partner's model took the place of this peer's, since that was not finite any more or this peer is
            a newcomer: then what the optimizer has gathered is worth nothing.
        """
        return self._hook.after_step()

    def settle(self) -> bool:
        """Add a move that still waits, after the last step or before a checkpoint.

        Returns:
            True as with `after_step`.
        """
        return self._hook.settle()

    def wait(self, seconds: float) -> None:
        """Sleep instead of a step, until a snapshot is wanted or `settle` has a move to add.

        Args:
            seconds: to sleep at most.
        """
        self._local.slot.mailbox.wait(seconds)

    def memory(self) -> PeerMemory:
        """Gather what another life of this peer needs to go on, with `centre_value`.

        Returns:
            What `restore` goes on from.
        """
        return remembered(self._local, self._presence.sequence, self._errands.coin)

    def restore(self, memory: PeerMemory, *, loss: float | None = None, centre: Tensor | None = None) -> None:
        """Go on as an earlier life of this peer, before `run`.

        Args:
            memory: what `memory` gave then.
            loss: the last one, in nats; None if it is not known.
            centre: what `centre_value` gave then [D]; None if there was none.
        """
        recall(memory, self._local, coin=self._errands.coin, loss=loss, value=centre)

    def during_evaluation(self) -> None:
        """Serve a partner that waits for a snapshot, without changing the parameters."""
        self._hook.during_evaluation()

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
        return self._hook.due.is_set()

    @property
    def moves(self) -> int:
        """Moves that were added to the model so far, models that took its place, and outer steps alone."""
        return self._hook.moves

    @property
    def move_waits(self) -> bool:
        """Whether a move will be added after the next step, unless it is refused then."""
        return self._local.slot.mailbox.state is State.DELIVERED

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

    def signals(self) -> tuple[schema.SignalStatus, ...]:
        """List the signals of this peer's health.

        Returns:
            The worst first.
        """
        return self._local.own.weigher.signals

    def partners(self) -> tuple[schema.PartnerStatus, ...]:
        """List the members with which there were exchanges.

        Returns:
            The latest first.
        """
        return partners_of(self._local, self._now())

    def examine_with(self, examine: Examine | None) -> None:
        """Try a partner's parameters before each move from now on (dynamic weighting).

        Args:
            examine: tries them; None: no trial.
        """
        self._local.judge.examine_with(examine)

    def judge_leaders(self, measure: Measure) -> None:
        """Try a leader's parameters before following them from now on (LSGD).

        Args:
            measure: how a snapshot does on this peer's examples.
        """
        self._strategy_parts.measure = measure

    def centre(self) -> schema.CentreStatus | None:
        """Say which peer holds the centre variable, and how fresh the copy here is.

        Returns:
            None in runs without one.
        """
        return self._local.run.topology.status(self._now()).centre

    def centre_value(self) -> Tensor | None:
        """Copy the centre variable as it is known here.

        Returns:
            The copy [D]; None in runs without one.
        """
        return self._local.run.topology.value()

    def leaders(self) -> schema.LeaderStatus | None:
        """Say which leaders this peer follows (LSGD).

        Returns:
            None in other runs.
        """
        return self._local.run.topology.status(self._now()).leader

    def joining(self) -> schema.JoiningStatus | None:
        """Say how this peer caught up with the run, and since when it counts.

        Returns:
            None at the founder.
        """
        return self._local.own.arrival.status

    def partition(self) -> schema.PartitionStatus | None:
        """Say which members vanished together.

        Returns:
            None if there are none.
        """
        return self._local.members.apart.status(self._now(), self.step)

    def pace(self) -> schema.PaceStatus | None:
        """Say how the budget of exchanges stands.

        Returns:
            None if there is no budget.
        """
        return self._local.pacing.status(self._now())

    def exchanges(self) -> schema.ExchangeTotals:
        """Count the exchanges, what they took, and those that did not take place.

        Returns:
            The totals since the peer was built.
        """
        return self._local.journal.totals(self._now())

    def last_exchanges(self) -> tuple[schema.ExchangeRecord, ...]:
        """List the last exchanges.

        Returns:
            The newest first.
        """
        return self._local.journal.last(self._now())

    def streams_refused(self) -> dict[str, int]:
        """Count the refused streams.

        Returns:
            Reason -> number.
        """
        return dict(self._local.journal.streams_refused)

    def members(self) -> tuple[schema.MemberStatus, ...]:
        """List the other members of the run.

        Returns:
            Ordered by peer id.
        """
        return members_of(self._local, self._now())

    def _now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0

    # -- network thread -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve, announce, refresh and initiate until cancelled."""
        self._loop = self._hook.loop = asyncio.get_running_loop()
        self._local.own.arrival.began(self._now())
        await self._strategy_parts.transport.serve(self.responder.answer)
        await self._tasks.run()

    async def leave(self, seconds: float, *, hand_over: bool = True) -> schema.FarewellStatus:
        """Let the exchange under way end, hand the last parameters to a partner, and say goodbye.

        While it runs the training thread has to call `settle`: snapshots are wanted, and moves are to be added. If
        it is cancelled and called again, it goes on with what was not begun.

        Args:
            seconds: that it may take.
            hand_over: whether a partner is to take over the last parameters.

        Returns:
            How that went.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        status = await self._farewell.say(seconds, hand_over=hand_over)
        with contextlib.suppress(asyncio.TimeoutError):
            await wait_for(self.responder.until_told(), max(0.0, end - loop.time()))
        return status

    def adopt(self, run: str, policy: Policy, *, codec: str, fragments: int, origin: str = "") -> None:
        """Become a newcomer of another run with the same model, after training alone.

        Args:
            run: the name of that run.
            policy: how its peers train together.
            codec, fragments: by which its vectors travel, and in how many parts.
            origin: the peer whose first parameters are the run's; empty: they follow from a seed.
        """
        old = self._local.run.context
        context = replace(old, run=run, codec=codec, fragments=fragments, newcomer=True, origin=origin)
        adopt(self._strategy_parts, context, policy, self._now())

    async def catch_up(self, untrained: float | None, try_out: Try | None = None) -> CaughtUp | None:
        """Fetch what a newcomer begins with, for `begin_with`. While this runs it must not train.

        Args:
            untrained: the loss that it would begin with otherwise, in nats; None if it is not known.
            try_out: tries parameters on this peer's examples; None: they are taken untried.

        Returns:
            None if there is no need or no way: see `joining`.
        """
        return await self._catching_up.bring(untrained, try_out)

    async def announce(self) -> None:
        """Make this peer's record known, unless it is leaving. Raises DirectoryError."""
        await self._presence.announce()

    async def refresh(self) -> None:
        """Read which others are in the run, and how this peer does. Raises DirectoryError."""
        await self._tasks.refresh()
