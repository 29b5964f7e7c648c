"""A live peer, put together: network thread, run, task, training, HTTP, screen, and the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from p2p_elastic import __version__
from p2p_elastic.checkpoint.saver import Interval, Saver
from p2p_elastic.checkpoint.store import FOLDER, OutputLock, Store, checkpoint_folder, has_checkpoints
from p2p_elastic.common.addresses import host_of, is_loopback, parse_address
from p2p_elastic.common.port_claim import PortClaim
from p2p_elastic.common.stop import Stop
from p2p_elastic.errors import ConfigError, DirectoryError, IdentityInUse
from p2p_elastic.health.sensors import Sensors
from p2p_elastic.node.centre_holder import hold_centre, met
from p2p_elastic.node.config import PORT, JoinConfig
from p2p_elastic.node.ending import Ending
from p2p_elastic.node.http import Window, with_preferred_port
from p2p_elastic.node.newcomer import Newcomer
from p2p_elastic.node.plan import describe_plan
from p2p_elastic.node.results import Summary, check_writable, output_folder
from p2p_elastic.node.resume import Past, Saved, content, options_kept, resume, resume_or_found
from p2p_elastic.node.run_finder import RunFinder, installed_task, peer_cache
from p2p_elastic.node.status_board import StatusBoard
from p2p_elastic.parameters.devices import choose_device
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.discovery.live_network import Interrupted, LiveNetwork, NetworkThread
from p2p_elastic.peers.exchange.snapshots import SnapshotLosses
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.ports import is_here
from p2p_elastic.protocol.manifest import RunManifest, check_batch_size
from p2p_elastic.rate_limit import Budget
from p2p_elastic.screens.live import Every, Screen
from p2p_elastic.tasks import Data, Task, find_task, initial_model, shard_indices
from p2p_elastic.training.trainer import Settings, Trainer

log = logging.getLogger(__name__)
REFRESH_SECONDS = 0.2
HERE = "    # from this machine only"
SAVE_SECONDS, STOPPED_SAVE_SECONDS = 60.0, 1.0  # for the last checkpoint, after the test
SEQUENCE_MARGIN = 100_000  # records announced after the checkpoint that this peer resumes from: five days of them


def join(config: JoinConfig, screen: Screen, stop: Stop) -> Summary | None:
    """Take part in a run until its length is reached or `stop`.

    Args:
        config: what the user asked for.
        screen: shows what happens; the caller closes it.
        stop: the user's wish to stop.

    Returns:
        The summary; None if it was stopped before training began, or was complete before.

    Raises:
        ConfigError: if something that was asked for is not possible.
        IdentityInUse: if another process has the same identity and began earlier.
        NetworkError: if libp2p does not run here.
    """
    if config.device != "auto":
        choose_device(config.device)  # a mistyped name leaves no folder behind
    if config.task is not None:
        find_task(config.task)
    folder = config.output if config.resume is None else checkpoint_folder(config.resume).parent
    if folder is not None:
        check_writable(folder)
    with _locked(folder):  # first: a checkpoint written after this process read would be lost
        past = None
        if config.resume is not None:
            config, past = resume(config)
        elif config.resume_or_found:
            config, past = resume_or_found(config)
            if past is not None and past.complete(config):
                text = f"complete: trained to the end at step {past.saved.training.step}, results in {past.output}"
                screen.say("complete", f"Run {past.saved.manifest.run} is {text}. Give --steps or --epochs for more.")
                return None
        elif folder is not None and has_checkpoints(folder):
            text = f"{folder} has checkpoints of a run: this one begins anew and sets them aside"
            screen.say("checkpoint", f"{text}. --resume {folder} or --resume-or-found would go on with them.")
        return _join(config, past, screen, stop)


def _join(config: JoinConfig, past: Past | None, screen: Screen, stop: Stop) -> Summary | None:
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    identity = _identity(config, past)
    network = LiveNetwork(identity, config.initial_peer, config.announce, peer_cache())  # looks at the addresses first
    _check_others(config, identity.peer)
    with contextlib.closing(PortClaim()) as claim, NetworkThread() as thread:

        def listen(port: int) -> None:
            claim.take(config.host, port)
            thread.call(network.open(config.host, port))

        preferred = 0 if any(is_here(address, PORT) for address in config.initial_peer) else PORT
        with_preferred_port(config.port, preferred, listen)
        sensors = Sensors(device)
        try:
            window = Window(config, sensors)
            board = StatusBoard(network, device, window.condition)
            opened = Opened(thread, network, board, window)
            return Participation(config, screen, stop, opened, past).run(device)
        except (Interrupted, KeyboardInterrupt):
            screen.say("stopped", "Stopped before training began.")
            return None
        finally:
            thread.call(network.close())
            sensors.close()


def _locked(output: Path | None) -> contextlib.AbstractContextManager[object]:
    """Lock a folder for this process: one that was named at once, one that is made up as soon as it has a name."""
    return contextlib.nullcontext() if output is None else contextlib.closing(OutputLock(output))


def _identity(config: JoinConfig, past: Past | None) -> Identity:
    if past is not None:
        return past.identity
    return Identity.load_or_create(config.identity) if config.identity else Identity.generate()


def _check_others(config: JoinConfig, peer: str) -> None:
    """Raise ConfigError if the only peer to join has this peer's identity: itself, or one with a copy of its key."""
    if config.initial_peer and all(parse_address(address).peer == peer for address in config.initial_peer):
        advice = "an address of another peer; if it is one, give each peer an identity of its own (--identity)"
        raise ConfigError("initial-peer", config.initial_peer[0], advice)


class Opened(NamedTuple):
    """What is open before the run is known.

    Attributes:
        thread: runs the network.
        network: listens for peers.
        board: the status.
        window: shows the status over HTTP.
    """

    thread: NetworkThread
    network: LiveNetwork
    board: StatusBoard
    window: Window


class Participation:
    """One peer's life in one run, in the order of its methods.

    Args:
        config: what the user asked for.
        screen: shows what happens.
        stop: the user's wish to stop.
        opened: the network, and what is shown over HTTP.
        past: the earlier life of this peer; None if it has none.
    """

    def __init__(
        self, config: JoinConfig, screen: Screen, stop: Stop, opened: Opened, past: Past | None = None
    ) -> None:
        self._config, self._screen, self._stop = config, screen, stop
        self._thread, self._network, self._board, self._window = opened
        self._finder = RunFinder(config, screen, stop, opened.thread, opened.network)
        self._past = past
        self._displaced: IdentityInUse | None = None
        self._joins = False  # a run that others began
        self._ending = Ending(config, screen, stop, opened.board, resumed=past is not None)

    def run(self, device: torch.device) -> Summary:
        """Find the run, train, and leave it.

        Args:
            device: to train on.

        Returns:
            The summary, which is in the output folder too.
        """
        shown = self._window.open(self._thread, self._board, self._screen)
        try:  # no peer is told to join before this one knows that it can take part itself
            self._joins = self._past is None and self._finder.is_there()
            if self._past is not None or self._joins:
                self._say_hello(self._window.url)
                manifest = self._finder.join() if self._past is None else self._finder.resume(self._past)
                task = installed_task(manifest)
                data = self._load(task, manifest)
                if not self._finder.alone:
                    self._say_how_to_join()
            else:
                manifest = self._finder.own_manifest()
                task = find_task(manifest.task)
                data = self._load(task, manifest)
                self._say_hello(self._window.url)
                self._say_how_to_join()
                self._network.directory.found(manifest)
                self._screen.say("founded", f"Founded {manifest.describe()}", manifest=manifest.model_dump())
            self._board.manifest = manifest
            output = output_folder(self._config.output, manifest.run, self._network.identity.peer)
            with _locked(output if self._config.output is None else None):  # against a process that resumes this peer
                return self._take_part(manifest, task, data, device, output)
        finally:
            self._window.close(self._thread)
            for one in shown:
                one.cancel()

    def _say_hello(self, url: str) -> None:
        self._screen.say(
            "listening",
            f"p2p-elastic {__version__}, peer {self._network.identity.peer}\n"
            f"watch it: {url}/   status: {url}/v1/status   all endpoints: {url}/docs",
            peer=self._network.identity.peer,
            addresses=self._network.host.addresses,
            http=url,
        )

    def _say_how_to_join(self) -> None:
        addresses = self._network.host.addresses
        others = "\n".join(
            f"    p2p-elastic join --initial-peer {a}{HERE * is_loopback(host_of(a))}" for a in addresses
        )
        self._screen.say("joinable", f"others join with:\n{others}", addresses=addresses)

    def _load(self, task: Task, manifest: RunManifest) -> Data:
        self._screen.say("loading", f"Loading the data of task {task.name} ...")
        with self._stop.interruptible():
            data = task.load(self._config.data_dir)
        if self._config.part is not None:
            shard_indices(
                len(data.train), self._config.part
            )  # may be empty: better found before this peer is announced
        if self._past is None and self._config.role != "centre":
            check_batch_size(self._config.batch_size or manifest.batch_size, len(data.train))
        return data

    # -- training -----------------------------------------------------------------------------------------------------

    def _take_part(self, manifest: RunManifest, task: Task, data: Data, device: torch.device, output: Path) -> Summary:
        settings = self._settings(manifest, task)
        if manifest.founder != self._network.identity.peer:
            trains = None if self._config.role == "centre" else settings
            self._screen.say("taken_over", describe_plan(manifest, trains), **asdict(settings))
        torch.manual_seed(settings.seed)  # dropout
        model = initial_model(task, manifest.init_seed)
        vector = ParameterVector(model)  # here: on the way to another device tensors that share memory are parted
        trainer = Trainer(model.to(device), task, data, settings, device, time.monotonic)
        peer = self._peer(manifest, vector, settings.seed)
        if self._past is not None:
            self._past.restore(trainer, peer)
        saver = self._saver(trainer, peer, options_kept(self._config, settings), output)
        if saver is not None and self._config.resume_or_found and self._past is None:
            saver.save_first()  # before any peer is told of this one: a restart goes on with it, however early
        peer.judge_leaders(lambda s: SnapshotLosses(*trainer.loss_at(vector.views(s.vector)), trainer.unseen_loss()))
        examine = trainer.examiner()
        peer.examine_with(lambda theirs, mine: asyncio.to_thread(examine, theirs, mine))
        self._board.trainer, self._board.peer, self._board.saver = trainer, peer, saver
        started = time.monotonic()
        self._thread.call(self._network.stay_attached())
        lives = [self._thread.spawn(peer.run())]
        if self._finder.alone:
            lives.append(self._thread.spawn(self._finder.adopt_when_attached(peer, manifest, self._board)))
        for life in lives:
            life.add_done_callback(self._report_end)
        try:
            self._wait_for_peers(peer)
            newcomer = Newcomer(peer, trainer, self._screen, self._board)
            if self._config.role == "centre":
                self._board.phase = "holding"
                hold_centre(peer, model, trainer, self._stop, lambda: self._after_step(saver, met(peer), newcomer))
            else:
                newcomer.catch_up(self._thread, self._stop)
                self._board.phase = "training"
                trainer.train(peer, self._stop, lambda: self._after_step(saver, trainer.meter.step, newcomer))
            if self._displaced is not None:
                raise self._displaced  # nothing is saved or handed over: the other one goes on with what it has
            self._board.phase = "finishing"
            self._ending.leave(peer, self._thread, self._network)
        finally:
            for life in lives:
                life.cancel()
        try:
            with self._last_checkpoint(saver):
                return self._ending.finish(model, trainer, peer, output, time.monotonic() - started)
        except ConfigError as error:
            saved = self._past is not None or (saver is not None and saver.status().step is not None)
            advice = (
                f"once it can, go on with --resume {output}" if saved else "nor could a checkpoint: nothing is saved"
            )
            raise ConfigError(error.key, error.got, f"{error.allowed}; {advice}") from error

    def _report_end(self, life: concurrent.futures.Future[Any]) -> None:
        """Note that something in the network thread ended too early; if another peer has this identity, stop."""
        error = None if life.cancelled() else life.exception()
        if isinstance(error, IdentityInUse):
            self._displaced = error
            self._stop.ask()
        else:
            self._network.report_end(life)

    def _last_checkpoint(self, saver: Saver | None) -> contextlib.AbstractContextManager[None]:
        if saver is None:
            return contextlib.nullcontext()
        return saver.last(self._stop, seconds=SAVE_SECONDS, grace_seconds=STOPPED_SAVE_SECONDS)

    def _saver(self, trainer: Trainer, peer: Peer, options: JoinConfig, output: Path) -> Saver | None:
        interval = Interval.parse(self._config.checkpoint_every)
        if interval.off:
            return None
        store = Store(output / FOLDER, Saved) if self._past is None else self._past.store
        directory, identity = self._network.directory, self._network.identity
        return Saver(
            store,
            interval,
            time.monotonic,
            lambda: content(trainer, peer, self._manifest, options, directory, identity),
        )

    def _after_step(self, saver: Saver | None, done: int, newcomer: Newcomer) -> None:
        if saver is not None:
            saver.between_steps(done)
        newcomer.on_step()

    @property
    def _manifest(self) -> RunManifest:
        assert self._board.manifest is not None
        return self._board.manifest

    def _settings(self, manifest: RunManifest, task: Task) -> Settings:
        config = self._config
        own_order = int.from_bytes(hashlib.sha256(self._network.identity.peer.encode()).digest()[:4], "big")
        return Settings(
            steps=config.steps,
            epochs=config.epochs or task.recipe.epochs,
            batch_size=config.batch_size or manifest.batch_size,
            learning_rate=config.learning_rate(manifest.learning_rate),
            momentum=manifest.momentum if config.momentum is None else config.momentum,
            seed=own_order if config.seed is None else config.seed,
            shard=config.part,
            optimizer=config.optimizer,
        )

    def _peer(self, manifest: RunManifest, vector: ParameterVector, seed: int) -> Peer:
        return Peer(
            vector=vector,
            policy=manifest.policy(),
            transport=self._network.transport,
            directory=self._network.directory,
            context=RunContext(
                run=manifest.run,
                codec=manifest.codec,
                fragments=manifest.fragments,
                streams=self._config.streams,
                group=self._config.group or "",
                standby=self._config.role == "centre",
                # Not if it has a past: its own memory says whether it is. A founder that comes back is one, too.
                newcomer=self._joins and not self._finder.alone,
                addresses=tuple(self._network.host.addresses),
                first_sequence=self._first_sequence(),
            ),
            seed=seed,
            condition=self._window.condition,
            events=self._window.events,
            budget=Budget.of(self._config.max_bandwidth, self._config.max_share),
        )

    def _first_sequence(self) -> int:
        """Number the first record by the time, by which processes of one identity are told apart; never backwards."""
        now, last = int(1000 * self._network.clock.now()), 0 if self._past is None else self._past.saved.peer.sequence
        return now if now > last else last + SEQUENCE_MARGIN

    def _wait_for_peers(self, peer: Peer) -> None:
        wanted, due = self._config.wait_for_peers, Every(1.0)
        self._board.phase = "waiting"
        while wanted and not self._stop():
            there = sum(member.state == "alive" and not member.drained for member in peer.members())
            if there >= wanted:
                return
            if due():
                self._screen.say("waiting", f"Waiting for {wanted} other peers; {there} there.", members=there)
            # More often than while training: all of them should begin together.
            with contextlib.suppress(Interrupted):
                self._thread.call(self._look_around(peer), self._stop)
            peer.serve_newcomers()

    async def _look_around(self, peer: Peer) -> None:
        try:
            await peer.refresh()
        except DirectoryError as error:
            log.info("directory: %s", error)
        await asyncio.sleep(REFRESH_SECONDS)
