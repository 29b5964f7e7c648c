"""A live peer, put together: network thread, run, task, training, HTTP, screen, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from p2p_elastic import __version__
from p2p_elastic.board import StatusBoard
from p2p_elastic.centre_duty import hold_centre
from p2p_elastic.checkpoint import FOLDER, OutputLock, Store, checkpoint_folder
from p2p_elastic.config import PORT, JoinConfig
from p2p_elastic.devices import choose_device
from p2p_elastic.display import Every, Screen, percent, size
from p2p_elastic.errors import ConfigError, DirectoryError
from p2p_elastic.finding import RunFinder, installed_task, peer_cache
from p2p_elastic.joining import Newcomer
from p2p_elastic.manifest import RunManifest
from p2p_elastic.pace import Budget
from p2p_elastic.peers.identity import Identity
from p2p_elastic.peers.leader import Measured
from p2p_elastic.peers.libp2p import is_here, is_loopback_address, peer_of
from p2p_elastic.peers.membership import Membership
from p2p_elastic.peers.network import Interrupted, LiveNetwork, NetworkThread
from p2p_elastic.peers.peer import Peer
from p2p_elastic.port_claim import PortClaim
from p2p_elastic.results import (
    CENTRE_FILE,
    MODEL_FILE,
    Summary,
    check_writable,
    output_folder,
    save_model,
    save_summary,
    save_values,
    set_aside,
)
from p2p_elastic.resume import Past, Saved, content, options_kept, resume
from p2p_elastic.saver import Interval, Saver
from p2p_elastic.sensors import Sensors
from p2p_elastic.status import ExchangeTotals, FarewellStatus
from p2p_elastic.stop import Stop
from p2p_elastic.tasks import Data, Task, find_task, initial_model, shard_indices
from p2p_elastic.training import Settings, Trainer
from p2p_elastic.vector import ParameterVector
from p2p_elastic.window import Window, with_preferred_port

log = logging.getLogger(__name__)
STOPPED_TEST_SECONDS = 1.5  # after Ctrl-C everything has to be over within 5
LOOK_SECONDS = 0.2
HERE = "    # from this machine only"
LEAVE_SECONDS, STOPPED_LEAVE_SECONDS, LEAVE_LOOK_SECONDS = 10.0, 1.0, 0.02
SAVE_SECONDS, STOPPED_SAVE_SECONDS = 60.0, 1.0  # for the last checkpoint, after the test
SEQUENCE_MARGIN = 100_000  # records announced after the checkpoint that we resume from: five days of them


def join(config: JoinConfig, screen: Screen, stop: Stop) -> Summary | None:
    """Take part in a run until its length is reached or `stop`. None where it was stopped before it began to train.

    Raises:
        ConfigError: something asked for cannot be.
        NetworkError: libp2p does not run here.
    """
    if config.resume is None:
        return _join(config, None, screen, stop)
    with _locked(checkpoint_folder(config.resume).parent):  # first: a checkpoint written after we read would be lost
        config, past = resume(config)
        return _join(config, past, screen, stop)


def _join(config: JoinConfig, past: Past | None, screen: Screen, stop: Stop) -> Summary | None:
    device = choose_device(config.device)
    if config.task is not None:
        find_task(config.task)
    if config.output is not None:
        check_writable(config.output)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    identity = _identity(config, past)
    network = LiveNetwork(identity, config.initial_peer, config.announce, peer_cache())  # looks at the addresses first
    _check_others(config, identity.peer)
    locked = _locked(config.output if past is None else None)
    with locked, contextlib.closing(PortClaim()) as claim, NetworkThread() as thread:

        def listen(port: int) -> None:
            claim.take(config.host, port)
            thread.call(network.open(config.host, port))

        preferred = 0 if any(is_here(address, PORT) for address in config.initial_peer) else PORT
        with_preferred_port(config.port, preferred, listen)
        sensors = Sensors(device)
        try:
            window = Window(config, sensors)
            board = StatusBoard(network, device, window.condition)
            return _Participation(config, screen, stop, thread, network, board, window, past).run(device)
        except (Interrupted, KeyboardInterrupt):
            screen.say("stopped", "Stopped before training began.")
            return None
        finally:
            thread.call(network.close())
            sensors.close()


def _locked(output: Path | None) -> contextlib.AbstractContextManager[object]:
    """A folder is for one process: one that was named at once, one that is made up as soon as there is a name."""
    return contextlib.nullcontext() if output is None else contextlib.closing(OutputLock(output))


def _identity(config: JoinConfig, past: Past | None) -> Identity:
    if past is not None:
        return past.identity
    return Identity.load_or_create(config.identity) if config.identity else Identity.generate()


def _check_others(config: JoinConfig, peer: str) -> None:
    """Raises ConfigError where the only peer to join has our own identity: it is us, or somebody took our key."""
    if config.initial_peer and all(peer_of(address) == peer for address in config.initial_peer):
        advice = "an address of another peer; where it is one, give each peer an identity of its own (--identity)"
        raise ConfigError("initial-peer", config.initial_peer[0], advice)


class _Participation:
    """One peer's life in one run, in the order of its methods."""

    def __init__(
        self,
        config: JoinConfig,
        screen: Screen,
        stop: Stop,
        thread: NetworkThread,
        network: LiveNetwork,
        board: StatusBoard,
        window: Window,
        past: Past | None = None,
    ) -> None:
        self._config, self._screen, self._stop = config, screen, stop
        self._thread, self._network, self._board, self._window = thread, network, board, window
        self._finder = RunFinder(config, screen, stop, thread, network)
        self._farewell: FarewellStatus | None = None
        self._past = past

    def run(self, device: torch.device) -> Summary:
        shown = self._window.open(self._thread, self._board, self._screen)
        try:  # nobody is told to join before we know that we can take part ourselves
            if self._past is not None or self._config.initial_peer:
                self._say_hello(self._window.url)
                manifest = self._finder.join() if self._past is None else self._finder.resume(self._past)
                task = installed_task(manifest)
                data = self._load(task)
                if not self._finder.alone:
                    self._say_how_to_join()
            else:
                manifest = self._finder.own_manifest()
                task = find_task(manifest.task)
                data = self._load(task)
                self._say_hello(self._window.url)
                self._say_how_to_join()
                self._network.directory.found(manifest)
                self._screen.say("founded", f"Founded {manifest.describe()}", manifest=manifest.model_dump())
            self._board.manifest = manifest
            output = output_folder(self._config.output, manifest.run, self._network.identity.peer)
            with _locked(output if self._config.output is None else None):  # who resumes this peer must not meet us
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
        others = "\n".join(f"    p2p-elastic join --initial-peer {a}{HERE * is_loopback_address(a)}" for a in addresses)
        self._screen.say("joinable", f"others join with:\n{others}", addresses=addresses)

    def _load(self, task: Task) -> Data:
        self._screen.say("loading", f"Loading the data of task {task.name} ...")
        with self._stop.interruptible():
            data = task.load(self._config.data_dir)
        if self._config.part is not None:
            shard_indices(len(data.train), self._config.part)  # may be empty: better now than when we were announced
        return data

    # -- training -----------------------------------------------------------------------------------------------------

    def _take_part(self, manifest: RunManifest, task: Task, data: Data, device: torch.device, output: Path) -> Summary:
        settings = self._settings(manifest, task)
        torch.manual_seed(settings.seed)  # dropout
        model = initial_model(task, manifest.init_seed).to(device)
        trainer = Trainer(model, task, data, settings, device, time.monotonic)
        vector = ParameterVector(model)
        peer = self._peer(manifest, vector, settings.seed)
        if self._past is not None:
            self._past.restore(trainer, peer)
        saver = self._saver(trainer, peer, options_kept(self._config, settings), output)
        peer.judge_leaders(lambda s: Measured(*trainer.loss_at(vector.views(s.vector)), trainer.unseen_loss()))
        examine = trainer.examiner()
        peer.examine_with(lambda theirs, mine: asyncio.to_thread(examine, theirs, mine))
        self._board.trainer, self._board.peer, self._board.saver = trainer, peer, saver
        started = time.monotonic()
        self._thread.call(self._network.stay_attached())
        lives = [self._thread.spawn(peer.run())]
        if self._finder.alone:
            lives.append(self._thread.spawn(self._finder.adopt_when_attached(peer, manifest, self._board)))
        for life in lives:
            life.add_done_callback(self._network.report_end)
        try:
            self._wait_for_peers(peer)
            newcomer = Newcomer(peer, trainer, self._screen, self._board)
            if self._config.role == "centre":
                self._board.phase = "holding"
                hold_centre(peer, model, trainer, self._stop, lambda: self._after_step(saver, _met(peer), newcomer))
            else:
                newcomer.catch_up(self._thread, self._stop)
                self._board.phase = "training"
                trainer.train(peer, self._stop, lambda: self._after_step(saver, trainer.meter.step, newcomer))
            self._board.phase = "finishing"
            self._leave(peer)
        finally:
            for life in lives:
                life.cancel()
        try:
            with self._last_checkpoint(saver):
                return self._finish(task, model, trainer, peer, output, time.monotonic() - started)
        except ConfigError as error:
            saved = self._past is not None or (saver is not None and saver.status().step is not None)
            advice = (
                f"once it can, go on with --resume {output}" if saved else "nor could a checkpoint: nothing is saved"
            )
            raise ConfigError(error.key, error.got, f"{error.allowed}; {advice}") from error

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

    def _finish(
        self, task: Task, model: nn.Module, trainer: Trainer, peer: Peer, output: Path, seconds: float
    ) -> Summary:
        stopped, centre = self._stop.requested, peer.centre_value()
        unsaved = self._save_models(model, centre, output)  # before anything that takes time
        impatient = self._impatient(model, time.monotonic() + STOPPED_TEST_SECONDS)
        result = trainer.test(self._stop, STOPPED_TEST_SECONDS)
        of_centre = None if centre is None else trainer.test_values(centre, impatient)
        summary = Summary(
            peer=peer.peer,
            run=self._manifest.run,
            task=task.name,
            manifest=self._manifest,
            stopped=stopped,
            steps=trainer.meter.step,
            seconds=seconds,
            test_accuracy=result.accuracy if result else None,
            test_loss=result.loss if result else None,
            validation_accuracy=trainer.meter.validation.accuracy if trainer.meter.validation else None,
            training_loss=trainer.meter.loss,
            centre=peer.centre(),
            centre_test_accuracy=of_centre.accuracy if of_centre else None,
            leaders=peer.leaders(),
            joining=peer.joining(),
            exchanges=peer.exchanges(),
            farewell=self._farewell,
            model=str(output / MODEL_FILE),
        )
        unsaved = unsaved or _attempt(lambda: save_summary(summary, output))
        self._board.phase = "done"
        self._screen.progress(self._board, now=True)
        self._say_goodbye(summary, saved=unsaved is None)
        if unsaved is not None:
            raise unsaved
        return summary

    def _impatient(self, model: nn.Module, end: float) -> Callable[[], bool]:
        """After Ctrl-C there is no time for the centre where BatchNorm wants all data first, and none after `end`."""
        slow = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
        return lambda: self._stop() and (slow or time.monotonic() > end)

    def _save_models(self, model: nn.Module, centre: torch.Tensor | None, output: Path) -> ConfigError | None:
        """What was in the way of it: no reason not to tell how good the model became."""

        def save() -> None:
            if self._past is None:
                set_aside(output)
            save_model(model, output)
            if centre is not None:
                save_values(model, centre, output, CENTRE_FILE)

        return _attempt(save)

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
            membership=Membership(
                run=manifest.run,
                codec=manifest.codec,
                fragments=manifest.fragments,
                streams=self._config.streams,
                group=self._config.group or "",
                standby=self._config.role == "centre",
                newcomer=bool(self._config.initial_peer)
                and self._past is None  # its own memory says whether it is
                and not self._finder.alone,  # a founder that comes back is one, too
                addresses=tuple(self._network.host.addresses),
                first_sequence=self._first_sequence(),
            ),
            seed=seed,
            condition=self._window.condition,
            events=self._window.events,
            budget=Budget.of(self._config.max_bandwidth, self._config.max_share),
        )

    def _first_sequence(self) -> int:
        now = int(1000 * self._network.clock.now())
        if self._past is None:
            return now
        return max(now, self._past.saved.peer.sequence + SEQUENCE_MARGIN)  # the clock may have been set back

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
        await asyncio.sleep(LOOK_SECONDS)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _leave(self, peer: Peer) -> None:
        """Leave the run, with snapshots and moves as the network wants them; soon, once the user asked to stop."""
        seconds = STOPPED_LEAVE_SECONDS if self._stop() else LEAVE_SECONDS
        leaving = self._thread.spawn(peer.leave(seconds))
        while not leaving.done():
            if self._stop() and seconds != STOPPED_LEAVE_SECONDS:
                seconds = STOPPED_LEAVE_SECONDS
                leaving.cancel()
                leaving = self._thread.spawn(peer.leave(seconds))
            peer.settle()
            peer.wait(LEAVE_LOOK_SECONDS)
        peer.settle()
        self._network.report_end(leaving)
        if not leaving.cancelled() and leaving.exception() is None:
            self._farewell = leaving.result()
            self._screen.say("left", self._farewell.describe(), **self._farewell.model_dump())

    def _say_goodbye(self, summary: Summary, *, saved: bool) -> None:
        self._screen.close()
        totals = summary.exchanges
        steps = "" if self._config.role == "centre" else f"{summary.steps} steps, "
        self._screen.say(
            "end",
            f"{'Stopped' if summary.stopped else 'Finished'} after {steps}{summary.seconds:.1f} s. "
            f"Test accuracy {percent(summary.test_accuracy)}{_centre(summary)}. Exchanges: {_counts(totals)}; "
            f"sent {size(totals.bytes_sent)}, received {size(totals.bytes_received)}."
            + (f"\nModel: {summary.model}" if saved else ""),
            **summary.model_dump(mode="json"),
        )


def _attempt(save: Callable[[], object]) -> ConfigError | None:
    """Do that, and give what was in the way of it."""
    try:
        save()
    except ConfigError as error:
        return error
    return None


def _met(peer: Peer) -> int:
    """How often the centre met somebody: to a peer that only holds it, what steps are to the others."""
    centre = peer.centre()
    return 0 if centre is None else centre.exchanges


def _centre(summary: Summary) -> str:
    return "" if summary.centre is None else f", of the centre variable {percent(summary.centre_test_accuracy)}"


def _counts(totals: ExchangeTotals) -> str:
    return ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(totals.by_outcome.items())) or "none"
