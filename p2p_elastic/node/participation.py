"""One peer's part in one run, around a training loop of any kind: it begins, steps, saves and leaves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from p2p_elastic.checkpoint.loop_state import LoopState, Stateful
from p2p_elastic.checkpoint.saver import Interval, Saver
from p2p_elastic.checkpoint.store import FOLDER, Content, Store
from p2p_elastic.common.disk import DiskSpace
from p2p_elastic.common.stop import Stop
from p2p_elastic.errors import ConfigError, DirectoryError, IdentityInUse
from p2p_elastic.node.admission import keep
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.connection import Connection
from p2p_elastic.node.newcomer import Newcomer
from p2p_elastic.node.resume import Gathered, Past, Saved, content, peer_state
from p2p_elastic.node.run_finder import RunFinder
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.centre.load import check_centre, turn_of
from p2p_elastic.peers.discovery.live_network import Interrupted
from p2p_elastic.peers.exchange.snapshots import SnapshotLosses
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.protocol.manifest import OWN_LOOP, RunManifest
from p2p_elastic.rate_limit import Budget
from p2p_elastic.rules.methods import Topology, find_method
from p2p_elastic.rules.trial import Estimate, Trial
from p2p_elastic.screens.live import Every, Screen
from p2p_elastic.training.meter import Meter

log = logging.getLogger(__name__)
REFRESH_SECONDS = 0.2
SAVE_SECONDS, STOPPED_SAVE_SECONDS = 60.0, 1.0  # for the last checkpoint
SEQUENCE_MARGIN = 100_000  # records announced after the checkpoint that this peer resumes from: five days of them


class Loop(Protocol):
    """What a peer needs of the loop that trains."""

    @property
    def model(self) -> nn.Module:
        """What is trained, on its device."""

    @property
    def meter(self) -> Meter:
        """Progress as others see it."""

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Those of the model."""

    @property
    def states(self) -> Mapping[str, Stateful]:
        """What else is saved with a checkpoint, by name."""

    def replaced(self) -> None:
        """Forget what was gathered about the model before: a partner's parameters replaced it."""

    def untrained_loss(self) -> float | None:
        """Measure the model as it is on this peer's own examples.

        Returns:
            In nats; None if that is not possible.
        """

    def own_loss(self, values: Tensor) -> Estimate | None:
        """Try parameters on this peer's own examples, before training; for any thread.

        Args:
            values: [D].

        Returns:
            The mean loss in nats and its standard error; None if that is not possible.
        """

    def loss_at(self, values: Mapping[str, Tensor]) -> Estimate:
        """Try other parameters on the latest batches; for the training thread.

        Args:
            values: tensors by name, as `ParameterVector.views` gives them.

        Returns:
            The mean loss in nats, and its standard error.
        """

    def unseen_loss(self) -> float:
        """Estimate the loss of this peer's parameters on examples that they were not trained on.

        Returns:
            In nats.
        """

    def examiner(self) -> Callable[[Tensor, Tensor], Trial | None] | None:
        """Build what tries parameters against others, for any thread.

        Returns:
            A function of (their parameters [D], this peer's [D]); None if that is not possible.
        """


class Place(NamedTuple):
    """Which peer this is, in which run.

    Attributes:
        manifest: of the run.
        output: folder for checkpoints and results, locked by the caller.
        past: the earlier life of this peer; None if it has none.
        options: to go on with after a restart.
        seed: of the choice of partners.
        joins: whether others began the run.
    """

    manifest: RunManifest
    output: Path
    past: Past | None
    options: JoinConfig
    seed: int
    joins: bool


class Participation:
    """Takes part in a run, in the order of its methods. Belongs to the training thread.

    Args:
        config: what the user asked for.
        screen: shows what happens.
        stop: the user's wish to stop.
        connection: open.
        finder: that found the run.

    Attributes:
        peer: once `begin` was called.
    """

    peer: Peer

    def __init__(
        self, config: JoinConfig, screen: Screen, stop: Stop, connection: Connection, finder: RunFinder
    ) -> None:
        self._config, self._screen, self._stop = config, screen, stop
        self._connection, self._finder = connection, finder
        self._displaced: IdentityInUse | None = None
        self._lives: list[concurrent.futures.Future[Any]] = []
        self._saver: Saver | None = None
        self._began_at, self._seconds_before, self._start_step_before = time.monotonic(), 0.0, 0

    def begin(self, loop: Loop, vector: ParameterVector, place: Place) -> None:
        """Become a member of the run, and be ready for the first step.

        Args:
            loop: that will train.
            vector: of the model.
            place: in the run.

        Raises:
            ConfigError: if a checkpoint does not fit, or none can be written.
        """
        board, network, thread = self._connection.board, self._connection.network, self._connection.thread
        self.peer = peer = self._peer(vector, place)
        self._loop, self._place = loop, place
        state = LoopState(loop.model, loop.optimizers, loop.states, vector, peer.parts.slot.mailbox.outer)
        if place.past is not None:
            place.past.restore(state, loop.meter, peer)
            training = place.past.saved.training
            self._seconds_before, self._start_step_before = training.seconds, training.start_step
        keep(network.access, place.output)
        self._saver = self._build_saver(state, place)
        if self._saver is not None and self._config.resume_or_found and place.past is None:
            self._saver.save_first()  # before any peer is told of this one: a restart goes on with it, however early
        examine = loop.examiner()
        if examine is not None:
            peer.judge_leaders(lambda s: SnapshotLosses(*loop.loss_at(vector.views(s.vector)), loop.unseen_loss()))
            peer.examine_with(lambda theirs, mine: asyncio.to_thread(examine, theirs, mine))
        board.meter, board.peer, board.saver = loop.meter, peer, self._saver
        board.disk = DiskSpace(place.output)
        self._began_at = time.monotonic()
        thread.call(network.stay_attached())
        self._lives = [thread.spawn(peer.run())]
        if self._finder.alone:
            self._lives.append(thread.spawn(self._finder.adopt_when_attached(peer, place.manifest, board)))
        for life in self._lives:
            life.add_done_callback(self._report_end)
        self._wait_for_peers()
        self._newcomer = Newcomer(peer, loop, self._screen, board)

    def catch_up(self) -> None:
        """Take the parameters of members that are ahead, if this peer is a newcomer.

        Raises:
            ConfigError: if the run has a centre, which has no time for one peer more.
        """
        self._newcomer.catch_up(self._connection.thread, self._stop)
        if self._place.joins and self._place.past is None:
            self._check_centre(self._place.manifest)
        self._connection.board.phase = "training"

    def _check_centre(self, manifest: RunManifest) -> None:
        """Leave the centre's time to those that were there before, if there is not enough of it."""
        if find_method(manifest.rule).topology is not Topology.CENTRE:
            return
        turn = turn_of(self._connection.network.directory.count, self.peer.parts.run.bargain.latest_bytes)
        check_centre(turn, [member.steps_per_second for member in self.peer.members()], manifest.schedule.mean_period)

    @property
    def seconds(self) -> float:
        """Seconds that it took part, in all lives of this peer."""
        return self._seconds_before + self.seconds_now

    @property
    def seconds_now(self) -> float:
        """Seconds that it took part, in this life."""
        return time.monotonic() - self._began_at

    @property
    def start_step(self) -> int:
        """The run's step when this peer began: 0 for a founder, the donors' for a newcomer that copied them."""
        joining = self.peer.joining()
        if joining is None or joining.donors_step is None:
            return self._start_step_before
        return joining.donors_step

    def between_steps(self, done: int | None = None) -> None:
        """Save a checkpoint if one is due, and show how far the peer is.

        Args:
            done: by which checkpoints are counted; None: steps.
        """
        if self._saver is not None:
            self._saver.between_steps(self._loop.meter.step if done is None else done)
        self._newcomer.on_step()

    def save_now(self) -> None:
        """Write a checkpoint, and wait for it.

        Raises:
            ConfigError: if it cannot be written, or no checkpoints are wanted.
        """
        if self._saver is None:
            raise ConfigError("checkpoint-every", self._config.checkpoint_every, "a time or steps, to save at all")
        self._saver.save_first()

    def peer_state(self) -> dict[str, Any]:
        """Write down what this peer remembers, without the model and its loop, whose parameters do not change.

        Returns:
            What `resume_peer` goes on from.
        """
        return peer_state(self._gather(None, self._place.options))

    def check_displaced(self) -> None:
        """See whether another process took this peer's place.

        Raises:
            IdentityInUse: if one has the same identity and began earlier: nothing is saved or handed over.
        """
        if self._displaced is not None:
            raise self._displaced

    def end_lives(self) -> None:
        """Let the peer end: it answers and announces no more."""
        for life in self._lives:
            life.cancel()

    def last_checkpoint(self) -> contextlib.AbstractContextManager[None]:
        """Write the last checkpoint beside what is done meanwhile.

        Returns:
            The context, at whose end it is there.
        """
        if self._saver is None:
            return contextlib.nullcontext()
        return self._saver.last(self._stop, seconds=SAVE_SECONDS, grace_seconds=STOPPED_SAVE_SECONDS)

    @property
    def saved(self) -> bool:
        """Whether a checkpoint of this life is there."""
        return self._saver is not None and self._saver.status().step is not None

    def _report_end(self, life: concurrent.futures.Future[Any]) -> None:
        """Note that something in the network thread ended too early; if another peer has this identity, stop."""
        error = None if life.cancelled() else life.exception()
        if isinstance(error, IdentityInUse):
            self._displaced = error
            self._stop.ask()
        else:
            self._connection.network.report_end(life)

    def _build_saver(self, state: LoopState, place: Place) -> Saver | None:
        interval = Interval.parse(self._config.checkpoint_every)
        if interval.off:
            return None
        store = Store(place.output / FOLDER, Saved) if place.past is None else place.past.store
        return Saver(store, interval, time.monotonic, lambda: self._gather(state, self._place.options))

    def _gather(self, state: LoopState | None, options: JoinConfig) -> Content:
        # What still waits would be lost. Who saves the model elsewhere may have done that already.
        if state is not None and self.peer.settle():
            self._loop.replaced()
        network, manifest = self._connection.network, self._connection.board.manifest
        assert manifest is not None, "a member of no run"
        return content(
            Gathered(state, self._loop.meter, self.peer, network, manifest, options, self.start_step, self.seconds)
        )

    def _peer(self, vector: ParameterVector, place: Place) -> Peer:
        manifest, config, window = place.manifest, self._config, self._connection.window
        network = self._connection.network
        return Peer(
            vector=vector,
            policy=manifest.policy(),
            transport=network.transport,
            directory=network.directory,
            context=RunContext(
                run=manifest.run,
                codec=manifest.codec,
                fragments=manifest.fragments,
                streams=config.streams,
                group=config.group or "",
                standby=config.role == "centre",
                # Not if it has a past: its own memory says whether it is. A founder that comes back is one, too.
                newcomer=place.joins and not self._finder.alone,
                origin=manifest.founder if manifest.task == OWN_LOOP else "",
                addresses=tuple(network.host.addresses),
                first_sequence=self._first_sequence(place.past),
            ),
            seed=place.seed,
            condition=window.condition,
            events=window.events,
            budget=Budget.of(config.max_bandwidth, config.max_share),
        )

    def _first_sequence(self, past: Past | None) -> int:
        """Number the first record by the time, by which processes of one identity are told apart; never backwards."""
        now, last = int(1000 * self._connection.network.clock.now()), 0 if past is None else past.saved.peer.sequence
        return now if now > last else last + SEQUENCE_MARGIN

    def _wait_for_peers(self) -> None:
        wanted, due, thread = self._config.wait_for_peers, Every(1.0), self._connection.thread
        self._connection.board.phase = "waiting"
        while wanted and not self._stop():
            there = sum(member.state == "alive" and not member.drained for member in self.peer.members())
            if there >= wanted:
                return
            if due():
                self._screen.say("waiting", f"Waiting for {wanted} other peers; {there} there.", members=there)
            # More often than while training: all of them should begin together.
            with contextlib.suppress(Interrupted):
                thread.call(self._look_around(), self._stop)
            self.peer.serve_newcomers()

    async def _look_around(self) -> None:
        try:
            await self.peer.refresh()
        except DirectoryError as error:
            log.info("directory: %s", error)
        await asyncio.sleep(REFRESH_SECONDS)
