"""Train any PyTorch model together with others, in a training loop of your own.

with Swarm(model, optimizer, run="tinygpt", initial_peers=[...]) as swarm:
    for batch in loader:
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        swarm.report(loss)
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from typing_extensions import Unpack

from p2p_elastic.checkpoint.loop_state import LoopState, Stateful
from p2p_elastic.common.duration import seconds_of
from p2p_elastic.common.stop_loop import LoopStop
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.checks import judge
from p2p_elastic.node.admission import prepare
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.connection import Connection, own_seed
from p2p_elastic.node.ending import Ending
from p2p_elastic.node.join import identity_of, locked, past_of
from p2p_elastic.node.options import Options, config_of
from p2p_elastic.node.own_loop import NOTHING, Measured, OwnLoop, Stepped, is_compiled, plain_optimizers
from p2p_elastic.node.participation import Participation, Place
from p2p_elastic.node.results import check_writable, output_folder, save_model
from p2p_elastic.node.resume import Past, options_kept, resume_peer
from p2p_elastic.node.run_finder import RunFinder
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.protocol.manifest import OWN_LOOP, RunManifest
from p2p_elastic.screens.live import SayScreen, Screen, SilentScreen
from p2p_elastic.status.schema import PeerStatus
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import Loss
from p2p_elastic.training.ranks import Ranks, Told, ranks_of

UNDONE = (
    "The optimizer takes back every move: it seems to keep copies of the parameters, such as fp32 masters. Copy the "
    "parameters into them after each move: swarm.on_moved(fn)"
)
JOIN_LINE = "initial_peers=[{!r}]"


class Swarm:
    """A peer of a run around a training loop of your own: from `with` to its end it exchanges parameters.

    The model is the same object afterwards, with what was learnt together. Whoever names no initial peers founds a run,
    and prints what the others need to join; who joins begins with the parameters of the run, not with its own.

    Call `report` at the end of each iteration: there checkpoints are taken, with all that is in `state`.

    Args:
        model: on its device; not wrapped by DistributedDataParallel.
        optimizer: one or several; each step of the last one is followed by what is due. None: call `step` yourself.
        run: name of the run; None takes the only one that the initial peers know, or makes up a name.
        initial_peers: multiaddrs of peers of the run; empty founds one.
        exchange: what travels: "trainable" (parameters that require a gradient, and the running statistics of
            normalisation layers), "all", a predicate of name and tensor, or names. All peers choose the same.
        loss: of model and batch, the losses [B] of its examples: partners' parameters are tried by it on the batches
            that `report` gets, before they move this peer (dynamic weighting). None: they are not tried.
        examples: batches of this peer's own data; a newcomer tries on them what it copied.
        lower_is_better: whether a lower loss is better.
        state: what else to save and to restore with a checkpoint: schedulers, scalers, loaders and the like.
        output: folder for checkpoints and the model; None makes up a name from run and peer.
        resume: True: go on from the newest checkpoint in `output` if there is one; a folder: from that one; what
            `peer_state` gave: as that peer, with a model and optimizer that were restored before.
        screen: shows what happens; None prints it.
        process_group: of the processes that train this model together, on each of them: rank 0 is the peer, and the
            others take its parameters over. Needed if there are several.
        **options: as those of `p2p-elastic join`.

    Raises:
        ConfigError: if something that was asked for is not possible.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> swarm = Swarm(model, optimizer, run="line", host="127.0.0.1", port=0, http_port=0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        run: str | None = None,
        initial_peers: Sequence[str] = (),
        exchange: Exchange = "trainable",
        loss: Loss | None = None,
        examples: Sequence[Batch] = (),
        lower_is_better: bool = True,
        state: Mapping[str, Stateful] | None = None,
        output: Path | str | None = None,
        resume: bool | Path | str | Mapping[str, Any] = False,
        screen: Screen | None = None,
        process_group: ProcessGroup | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._screen, self._stop, self._open = screen or SayScreen(), LoopStop(), contextlib.ExitStack()
        self._peer_state = resume if isinstance(resume, Mapping) else None
        asked = resume if not isinstance(resume, Mapping) else False
        self._config = config_of(dict(options), run, initial_peers, output, asked)
        self._vector = ParameterVector(model, exchange)
        optimizers = plain_optimizers(optimizer)
        measured = None if loss is None else Measured(loss, tuple(examples))
        sign = 1.0 if lower_is_better else -1.0
        self._loop = OwnLoop(model, optimizers, dict(state or {}), self._vector, measured, sign=sign)
        self._ranks, self._last = ranks_of(process_group), NOTHING

    def __enter__(self) -> Swarm:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._stop.signals())
            self._begin(stack)
            self._hooks = stack.enter_context(contextlib.ExitStack())
            self._hooks.enter_context(self._loop.hooked(self._stepped))
            self._steps_seen = self._loop.meter.step
            self._open = stack.pop_all()
        return self

    def _begin(self, stack: contextlib.ExitStack) -> None:
        """Become a member of the run: this process, or rank 0, whose parameters the others take over."""
        ranks = self._ranks
        if ranks is None:
            self._take_part(stack)
            return
        if ranks.leads:
            try:
                self._take_part(stack)
            except BaseException:
                ranks.tell(Told(stop=True))
                raise
        if ranks.tell(Told()).stop:
            raise ConfigError("process-group", "a rank 0 that could not take part", "see what that process says")
        if not ranks.leads:
            self._follow()
        self._share()

    def _take_part(self, stack: contextlib.ExitStack) -> None:
        config = self._config
        folder = config.output if config.resume is None else Path(config.resume)
        if folder is not None:
            check_writable(folder)
        stack.enter_context(locked(folder))
        past: Past | None
        if self._peer_state is not None:
            config, past = resume_peer(config, self._peer_state)
        else:
            config, past = past_of(config, folder, self._screen)
        identity = identity_of(config, past)
        self._connection = Connection(config, identity, self._vector.device, self._screen, JOIN_LINE)
        prepare(self._connection.network, config, past)
        stack.enter_context(self._connection)
        finder = self._finder(config)
        manifest, joins = self._find(finder, past)
        output = output_folder(config.output, manifest.run, self._connection.peer)
        stack.enter_context(locked(output if folder is None else None))
        seed = own_seed(self._connection.peer) if config.seed is None else config.seed
        self._output, place = output, Place(manifest, output, past, options_kept(config, None), seed, joins=joins)
        self._part = Participation(config, self._screen, self._stop, self._connection, finder)
        self._ending = Ending(config, self._screen, self._stop, self._connection, resumed=past is not None)
        stack.callback(self._part.end_lives)
        self._part.begin(self._loop, self._vector, place)
        self._part.catch_up()
        if is_compiled(self._loop.model):
            self._connection.board.phase = "compiling"

    def _follow(self) -> None:
        """Be another rank than 0: go on from the same checkpoint, if there is one."""
        config = self._config
        folder = config.output if config.resume is None else Path(config.resume)
        _, past = past_of(config, folder, SilentScreen())
        if past is not None:
            past.restore_loop(LoopState(self._loop.model, self._loop.optimizers, self._loop.states, self._vector))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            self._hooks.close()
            if self.follows:
                if kind is None:
                    self._share()
                return
            part = self._part
            if kind is not None and not issubclass(kind, KeyboardInterrupt):
                with contextlib.suppress(Exception):  # the error that ends the loop is the one to be seen
                    self._ending.leave(part.peer, hand_over=False)
                return
            part.check_displaced()
            self._connection.board.phase = "finishing"
            self._ending.leave(part.peer)
            part.end_lives()
            self._share()  # moves that were added while it left
            with part.last_checkpoint():
                self._ending.finish(self._loop, part.peer, self._output, part.seconds_now, None)

    # -- in the loop --------------------------------------------------------------------------------------------------

    def report(self, loss: Tensor | float, batch: Batch | None = None) -> None:
        """Say how well training goes, at the end of each iteration. Checkpoints are taken here.

        Args:
            loss: of the batch: a number, or a tensor whose mean counts. One on a GPU is not waited for.
            batch: as `loss` (of the constructor) takes it, to try partners' parameters on.

        Raises:
            IdentityInUse: if another process with this peer's identity began earlier.
        """
        self._loop.report(loss, batch)
        step = self._loop.meter.step
        if not self.follows and step != self._steps_seen:
            self._steps_seen = step
            self._part.check_displaced()
            self._part.between_steps()

    def measured(self, **metrics: SupportsFloat) -> None:
        """Say what was measured, such as on a validation split: shown by its name to those who watch this peer.

        Args:
            **metrics: by name; those of names such as `accuracy` or `f1` in percent. What is not finite is left out.

        Raises:
            ConfigError: if a name is none of a metric, or there are more than 16.

        Example:
            `swarm.measured(accuracy=0.97, perplexity=23.1)`
        """
        self._loop.measured(metrics)

    def step(self) -> Stepped:
        """Say that an optimizer step ended, in a loop whose optimizer was not given. Call it after each step.

        Returns:
            What came of it.

        Raises:
            ConfigError: if an optimizer was given: its steps are seen already.
        """
        if self._loop.optimizers:
            raise ConfigError("optimizer", "one, and a call of step()", "one of the two")
        self._stepped()
        return self.last

    def on_moved(self, tell: Callable[[Stepped], object]) -> None:
        """Have something called each time that the model was pulled towards others, after an optimizer step.

        Args:
            tell: called in the thread that trains; for copies of the parameters elsewhere, such as fp32 masters.
        """
        self._loop.moved.append(tell)

    @property
    def last(self) -> Stepped:
        """What the last optimizer step brought."""
        return self._last

    @property
    def steps(self) -> int:
        """Optimizer steps of this peer, in all its lives."""
        return self._loop.meter.step

    @property
    def start_step(self) -> int:
        """The run's step when this peer joined it, for schedules: 0 for its founder."""
        return 0 if self.follows else self._part.start_step

    @property
    def should_stop(self) -> bool:
        """Whether the `duration` is over, or somebody asked this program to end (Ctrl-C, SIGTERM): leave the loop then.

        A loop that never looks is interrupted by Ctrl-C, as without a swarm.
        """
        wanted = self._stop.watched()
        if self._ranks is not None:
            return self._ranks.told.stop  # all ranks leave after the same step
        return wanted or self._is_over

    @property
    def progress(self) -> float | None:
        """The share of the `duration` that is over, 0 to 1, for schedules; None without one."""
        length = self._config.duration
        return None if length is None else min(1.0, self._part.seconds / seconds_of(length))

    @property
    def _is_over(self) -> bool:
        return self.progress == 1.0

    def checkpoint(self) -> None:
        """Save a checkpoint now, and wait for it; between two iterations.

        Raises:
            ConfigError: if it cannot be written.
        """
        self._part.save_now()

    def peer_state(self) -> dict[str, Any]:
        """Write down what this peer remembers of its run, without model, optimizer and `state`; between two iterations.

        For trainers that save those themselves: `resume=` this goes on as the same peer, once they are loaded.

        Returns:
            What JSON can hold. It has the private key of this peer: keep it as such.
        """
        return self._part.peer_state()

    # -- from any thread ----------------------------------------------------------------------------------------------

    def status(self) -> PeerStatus:
        """Look at this peer, as `GET /v1/status` shows it.

        Returns:
            Its training, exchanges, members and network.
        """
        return self._connection.board()

    def why(self) -> tuple[str, ...]:
        """Ask what is wrong with this peer, as `GET /health` shows it.

        Returns:
            What is not well, in words; empty if all is well.
        """
        return tuple(reason.text for reason in judge(self.status()).reasons)

    @property
    def url(self) -> str:
        """Where this peer can be watched."""
        return self._connection.window.url

    @property
    def address(self) -> str:
        """The multiaddr that others join with."""
        return self._connection.network.host.addresses[0]

    def export(self, path: Path | str) -> None:
        """Write the model as it is, as safetensors.

        Args:
            path: of the file.

        Raises:
            ConfigError: if it cannot be written.
        """
        target = Path(path)
        save_model(self._loop.model, target.parent, target.name)

    # -- parts --------------------------------------------------------------------------------------------------------

    @property
    def follows(self) -> bool:
        """Whether this process takes over the parameters of rank 0, which is the peer."""
        return self._ranks is not None and not self._ranks.leads

    def _stepped(self) -> None:
        """Do what is due after an optimizer step."""
        if self._ranks is not None:
            self._stepped_on(self._ranks)
            return
        self._last = self._exchange()
        if self._last.moved:
            self._loop.tell(self._last)

    def _exchange(self) -> Stepped:
        self._connection.board.phase = "training"
        result = self._loop.stepped(self._part.peer)
        if result.moved and self._loop.is_found_to_undo():
            self._connection.window.events.add("undone", UNDONE)
            self._screen.say("undone", UNDONE)
        return result

    def _stepped_on(self, ranks: Ranks) -> None:
        told = Told() if self.follows else Told(*self._exchange(), stop=self._stop.requested or self._is_over)
        heard = ranks.tell(told)
        self._last = Stepped(heard.moved, heard.replaced)
        if heard.moved:
            self._share()
        if self.follows:
            self._loop.followed(self._last)
        else:
            self._loop.tell(self._last)

    def _share(self) -> None:
        if self._ranks is not None:
            self._ranks.share(self._vector)

    def _finder(self, config: JoinConfig) -> RunFinder:
        connection = self._connection

        def own() -> RunManifest:
            run = config.run or f"own-{secrets.token_hex(3)}"
            vector = self._vector
            return config.found(
                run, connection.peer, OWN_LOOP, vector.schema_hash, None, frozen_hash=vector.frozen_hash
            )

        return RunFinder(config, self._screen, self._stop, connection.thread, connection.network, own)

    def _find(self, finder: RunFinder, past: Past | None) -> tuple[RunManifest, bool]:
        """The run's manifest, and whether others began it."""
        connection = self._connection
        joins = past is None and finder.is_there()
        connection.say_hello()
        if past is not None or joins:
            manifest = finder.join() if past is None else finder.resume(past)
            self._check(manifest)
            finder.check_model(manifest, self._vector)
        else:
            manifest = finder.own()
        connection.board.manifest = manifest
        if not finder.alone:
            connection.say_how_to_join()
        if past is None and not joins:
            finder.found(manifest)
        return manifest, joins

    def _check(self, manifest: RunManifest) -> None:
        if manifest.task != OWN_LOOP:
            allowed = f"a run of programs like this one; join that one with `p2p-elastic join --run {manifest.run}`"
            raise ConfigError("run", f"{manifest.run}, which trains the task {manifest.task}", allowed)
