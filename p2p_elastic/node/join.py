"""What `p2p-elastic join` does: finds the run, builds its task, trains, and leaves."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import time
from dataclasses import asdict
from pathlib import Path

import torch

from p2p_elastic.checkpoint.store import OutputLock, checkpoint_folder, has_checkpoints
from p2p_elastic.common.duration import seconds_of
from p2p_elastic.common.machine import VECTORS, check_fits, cores, device_vectors, left_of_limits
from p2p_elastic.common.stop import Stop
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.admission import identity_in, prepare
from p2p_elastic.node.centre_holder import hold_centre, met
from p2p_elastic.node.config import DEFAULT_TASK, JoinConfig
from p2p_elastic.node.connection import Connection, own_seed
from p2p_elastic.node.ending import Ending
from p2p_elastic.node.participation import Participation, Place
from p2p_elastic.node.plan import describe_plan
from p2p_elastic.node.results import Summary, check_writable, output_folder
from p2p_elastic.node.resume import Past, options_kept, resume, resume_or_found
from p2p_elastic.node.run_finder import RunFinder
from p2p_elastic.parameters.devices import choose_device
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.discovery.live_network import Interrupted
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.manifest import OWN_LOOP, RunManifest, check_batch_size
from p2p_elastic.screens.live import Screen
from p2p_elastic.service.notify import Notifier
from p2p_elastic.service.watchdog import watch
from p2p_elastic.tasks import Data, Task, find_task, initial_model, load_data, named_task
from p2p_elastic.tasks.loading import is_place
from p2p_elastic.tasks.sampling import check_shard, length
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.trainer import Trainer

HINT = "\nWith --task NAME this peer would train alone meanwhile."
JOIN_LINE = "p2p-elastic join --initial-peer {}"
GET_IT = (
    "install the package that has it; or get the founder's file of it, and add --task ./FILE.py:NAME, "
    "or --task package.module:NAME, with the name that the task has in there"
)


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
    notifier = Notifier(os.environ, os.getpid())
    if config.device != "auto":
        choose_device(config.device)  # a mistyped name leaves no folder behind
    if config.task is not None:
        find_task(config.task)
    folder = config.output if config.resume is None else checkpoint_folder(config.resume).parent
    if folder is not None:
        check_writable(folder)
    with locked(folder):  # first: a checkpoint written after this process read would be lost
        config, past = past_of(config, folder, screen)
        if past is not None and past.complete(config):
            text = f"complete: trained to the end at step {past.saved.training.step}, results in {past.output}"
            notifier.send("READY=1")  # for systemd a service that ended before is a failed one
            screen.say("complete", f"Run {past.saved.manifest.run} is {text}. Give --steps or --epochs for more.")
            return None
        return _join(config, past, screen, stop, notifier)


def past_of(config: JoinConfig, folder: Path | None, screen: Screen) -> tuple[JoinConfig, Past | None]:
    """Find the life of this peer that is to go on.

    Args:
        config: what the user asked for.
        folder: for its results, if that is known already.
        screen: told if there is one that is set aside.

    Returns:
        The options to go on with, and the earlier life; None if it begins anew.

    Raises:
        ConfigError: if there is no whole checkpoint, or an option contradicts it.
    """
    if config.resume is not None:
        return resume(config)
    if config.resume_or_found:
        return resume_or_found(config)
    if folder is not None and has_checkpoints(folder):
        text = f"{folder} has checkpoints of a run: this one begins anew and sets them aside"
        screen.say("checkpoint", f"{text}. --resume {folder} or --resume-or-found would go on with them.")
    return config, None


def locked(output: Path | None) -> contextlib.AbstractContextManager[object]:
    """Lock a folder for this process: one that was named at once, one that is made up as soon as it has a name.

    Args:
        output: the folder; None: not yet.

    Returns:
        A context; the lock is held in it.
    """
    return contextlib.nullcontext() if output is None else contextlib.closing(OutputLock(output))


def identity_of(config: JoinConfig, past: Past | None) -> Identity:
    """Choose the identity of a peer: that of its earlier life, that of the key file or of the invite, or a new one.

    Args:
        config: may name a key file.
        past: the earlier life; None if there is none.

    Returns:
        The identity.
    """
    if past is not None:
        return past.identity
    return identity_in(config.identity, config.invite)


def join_line(task: str | None) -> str:
    """Show what the others type to join.

    Args:
        task: as this peer's user gave it; others need a place, too, if it is one: the run carries a name only.

    Returns:
        A line with {} for the address.
    """
    if task is None or not is_place(task):
        return JOIN_LINE
    return f"{JOIN_LINE} --task {shlex.quote(task).replace('{', '{{').replace('}', '}}')}"


def _join(config: JoinConfig, past: Past | None, screen: Screen, stop: Stop, notifier: Notifier) -> Summary | None:
    device = choose_device(config.device)
    set_threads(config.threads)
    connection = Connection(config, identity_of(config, past), device, screen, join_line(config.task))
    prepare(connection.network, config, past)
    with connection:
        watching = connection.thread.spawn(watch(notifier, connection.board))
        try:
            return TaskPeer(config, screen, stop, connection, past).run()
        except (Interrupted, KeyboardInterrupt):
            screen.say("stopped", "Stopped before training began.")
            return None
        finally:
            watching.cancel()


def set_threads(threads: int | None) -> None:
    """Choose how many threads PyTorch computes with.

    Args:
        threads: as the user asked; None: PyTorch's default, but no more than a quota of CPU time allows, which PyTorch
            does not know. OMP_NUM_THREADS in the environment counts as asked.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ and cores() < torch.get_num_threads():
        torch.set_num_threads(cores())


class TaskPeer:
    """A peer that trains the task of a run, found by its name.

    Args:
        config: what the user asked for.
        screen: shows what happens.
        stop: the user's wish to stop.
        connection: open.
        past: the earlier life of this peer; None if it has none.
    """

    def __init__(
        self, config: JoinConfig, screen: Screen, stop: Stop, connection: Connection, past: Past | None = None
    ) -> None:
        self._config, self._screen, self._stop = config, screen, stop
        self._connection, self._past = connection, past
        thread, network = connection.thread, connection.network
        self._finder = RunFinder(config, screen, stop, thread, network, self._own_manifest, HINT)
        self._joins = False  # a run that others began

    def run(self) -> Summary:
        """Find the run, train, and leave it.

        Returns:
            The summary, which is in the output folder too.
        """
        finder, connection = self._finder, self._connection
        # No peer is told to join before this one knows that it can take part itself.
        self._joins = self._past is None and finder.is_there()
        if self._past is not None or self._joins:
            connection.say_hello()
            manifest = finder.join() if self._past is None else finder.resume(self._past)
            task = installed_task(manifest, self._config.task)
            finder.check_model(manifest, self._vector(task, manifest.outer), "task")
            data = self._load(task, manifest)
            if not finder.alone:
                connection.say_how_to_join()
        else:
            manifest = self._own_manifest()
            task = named_task(manifest.task, self._config.task)
            data = self._load(task, manifest)
            connection.say_hello()
            connection.say_how_to_join()
            finder.found(manifest)
        connection.board.manifest = manifest
        output = output_folder(self._config.output, manifest.run, connection.peer)
        with locked(output if self._config.output is None else None):  # against a process that resumes this peer
            return self._take_part(manifest, task, data, output)

    def _own_manifest(self) -> RunManifest:
        task = find_task(self._config.task or DEFAULT_TASK)
        run = self._config.run or f"{task.name}-{secrets.token_hex(3)}"
        vector = self._vector(task, self._config.outer)
        found = self._config.found
        return found(
            run,
            self._connection.peer,
            task.name,
            vector.schema_hash,
            task.recipe,
            frozen_hash=vector.frozen_hash,
        )

    def _vector(self, task: Task, outer: str | None) -> ParameterVector:
        """The model as a vector, of one that fits with that outer optimizer."""
        vector = task.vector(initial_model(task, 0))
        trained = device_vectors(self._config.optimizer, outer=outer not in {None, "none"})
        on_cpu = self._connection.device.type == "cpu"
        check_fits(vector.nbytes, VECTORS + trained * on_cpu, left_of_limits())
        return vector

    def _load(self, task: Task, manifest: RunManifest) -> Data:
        self._screen.say("loading", f"Loading the data of task {task.name} ...")
        with self._stop.interruptible():
            data = load_data(task, self._config.data_dir)
        if self._config.part is not None:
            check_shard(data, self._config.part)  # may be empty: better found before it is announced
        if self._past is None and self._config.role != "centre":
            batch_size = self._config.batch_size or manifest.defaults.batch_size
            check_batch_size(batch_size, length(data.train, batch_size))
        return data

    def _take_part(self, manifest: RunManifest, task: Task, data: Data, output: Path) -> Summary:
        settings, device = self._settings(manifest, task), self._connection.device
        if manifest.founder != self._connection.peer:
            trains = None if self._config.role == "centre" else settings
            self._screen.say("taken_over", describe_plan(manifest, trains), **asdict(settings))
        torch.manual_seed(settings.seed)  # dropout
        model = initial_model(task, manifest.init_seed)
        vector = task.vector(model)  # here: on the way to another device tensors that share memory are parted
        trainer = Trainer(model.to(device), task, data, settings, device, time.monotonic)
        options = options_kept(self._config, settings)
        place = Place(manifest, output, self._past, options, settings.seed, joins=self._joins)
        part = Participation(self._config, self._screen, self._stop, self._connection, self._finder)
        ending = Ending(self._config, self._screen, self._stop, self._connection, resumed=self._past is not None)
        try:
            part.begin(trainer, vector, place)
            if self._config.role == "centre":
                self._connection.board.phase = "holding"
                hold_centre(part.peer, trainer, self._stop, lambda: part.between_steps(met(part.peer)))
            else:
                part.catch_up()
                if self._past is None:
                    trainer.begin_at(part.start_step)
                trainer.train(part.peer, self._stop, part.between_steps)
            part.check_displaced()
            self._connection.board.phase = "finishing"
            ending.leave(part.peer)
        finally:
            part.end_lives()
        try:
            with part.last_checkpoint():
                return ending.finish(trainer, part.peer, output, part.seconds_now, trainer)
        except ConfigError as error:
            saved = self._past is not None or part.saved
            advice = (
                f"once it can, go on with --resume {output}" if saved else "nor could a checkpoint: nothing is saved"
            )
            raise ConfigError(error.key, error.got, f"{error.allowed}; {advice}") from error

    def _settings(self, manifest: RunManifest, task: Task) -> Settings:
        config, defaults = self._config, manifest.defaults
        return Settings(
            steps=config.steps or (task.recipe.steps if config.epochs is None else None),
            epochs=config.epochs or task.recipe.epochs,
            batch_size=config.batch_size or defaults.batch_size,
            learning_rate=config.learning_rate(defaults.learning_rate),
            momentum=defaults.momentum if config.momentum is None else config.momentum,
            seed=own_seed(self._connection.peer) if config.seed is None else config.seed,
            shard=config.part,
            optimizer=config.optimizer,
            seconds=None if config.duration is None else seconds_of(config.duration),
        )


def installed_task(manifest: RunManifest, given: str | None = None) -> Task:
    """Find the task of a run.

    Args:
        manifest: of the run.
        given: name or place of a task, as the user gave it.

    Returns:
        The task.

    Raises:
        ConfigError: if it is not installed here.
    """
    if manifest.task == OWN_LOOP:
        advice = "its members run a program of their own: start that one, with these initial peers"
        raise ConfigError("task", None, f"run {manifest.run!r} has none: {advice}")
    try:
        return named_task(manifest.task, given)
    except ConfigError as error:
        raise ConfigError("task", manifest.task, f"the run trains what is not installed here; {GET_IT}") from error
