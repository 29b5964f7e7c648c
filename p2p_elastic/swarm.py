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
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from p2p_elastic.checkpoint.loop_state import Stateful
from p2p_elastic.common.stop_loop import LoopStop
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.checks import judge
from p2p_elastic.node.config import JoinConfig, load_config
from p2p_elastic.node.connection import Connection, own_seed
from p2p_elastic.node.ending import Ending
from p2p_elastic.node.join import identity_of, locked, past_of
from p2p_elastic.node.own_loop import OwnLoop, Stepped, plain_optimizers
from p2p_elastic.node.participation import Participation, Place
from p2p_elastic.node.results import check_writable, output_folder, save_model
from p2p_elastic.node.resume import Past, options_kept
from p2p_elastic.node.run_finder import RunFinder
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.protocol.manifest import OWN_LOOP, RunManifest
from p2p_elastic.screens.live import SayScreen, Screen
from p2p_elastic.status.schema import PeerStatus

UNDONE = (
    "The optimizer takes back every move: it seems to keep copies of the parameters, such as fp32 masters. Copy the "
    "parameters into them after each move: swarm.on_moved(fn)"
)
JOIN_LINE = "initial_peers=[{!r}]"


class Options(TypedDict, total=False):
    """The options that `Swarm` has in common with `p2p-elastic join`, where each one is described.

    Those that all peers of a run have in common (rule to fragment) are the founder's; leave them out to join.
    """

    rule: str
    moving_rate: float
    period: int
    probability: float | str
    global_moving_rate: float
    global_period: int
    weighting: Literal["dynamic", "fixed"]
    codec: str
    fragment: int
    streams: int
    group: str
    seed: int
    max_bandwidth: str
    max_share: float
    wait_for_peers: int
    host: str
    port: int
    announce: Sequence[str]
    http_host: str
    http_port: int
    http_allow_host: Sequence[str]
    http_token_file: Path | str
    identity: Path | str
    checkpoint_every: str


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
        lower_is_better: whether a lower loss is better.
        state: what else to save and to restore with a checkpoint: schedulers, scalers, loaders and the like.
        output: folder for checkpoints and the model; None makes up a name from run and peer.
        resume: True: go on from the newest checkpoint in `output` if there is one; a folder: from that one.
        screen: shows what happens; None prints it.
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
        lower_is_better: bool = True,
        state: Mapping[str, Stateful] | None = None,
        output: Path | str | None = None,
        resume: bool | Path | str = False,
        screen: Screen | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._screen, self._stop, self._open = screen or SayScreen(), LoopStop(), contextlib.ExitStack()
        self._config = _config(dict(options), run, initial_peers, output, resume)
        self._vector = ParameterVector(model, exchange)
        optimizers = plain_optimizers(optimizer)
        self._loop = OwnLoop(model, optimizers, dict(state or {}), self._vector, 1.0 if lower_is_better else -1.0)
        self._told_undone = False

    def __enter__(self) -> Swarm:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._stop.signals())
            config = self._config
            folder = config.output if config.resume is None else Path(config.resume)
            if folder is not None:
                check_writable(folder)
            stack.enter_context(locked(folder))
            config, past = past_of(config, folder, self._screen)
            identity = identity_of(config, past)
            self._connection = Connection(config, identity, self._vector.device, self._screen, JOIN_LINE)
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
            stack.callback(self._vector.unflatten)
            self._part.catch_up()
            self._hooks = stack.enter_context(contextlib.ExitStack())
            self._hooks.enter_context(self._loop.hooked(self._part.peer, self._stepped))
            self._last, self._steps_seen = Stepped(moved=False, replaced=False), self._loop.meter.step
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            self._hooks.close()
            part = self._part
            if kind is not None and not issubclass(kind, KeyboardInterrupt):
                self._ending.leave(part.peer, hand_over=False)
                return
            part.check_displaced()
            self._connection.board.phase = "finishing"
            self._ending.leave(part.peer)
            part.end_lives()
            with part.last_checkpoint():
                self._ending.finish(self._loop, part.peer, self._output, part.seconds_now, None)

    # -- in the loop --------------------------------------------------------------------------------------------------

    def report(self, loss: Tensor | float) -> None:
        """Say how well training goes, at the end of each iteration. Checkpoints are taken here.

        Args:
            loss: of the batch: a number, or a tensor whose mean counts. One on a GPU is not waited for.

        Raises:
            IdentityInUse: if another process with this peer's identity began earlier.
        """
        self._loop.report(loss)
        self._between_steps()

    def step(self) -> Stepped:
        """Say that an optimizer step ended, in a loop whose optimizer was not given. Call it after each step.

        Returns:
            What came of it.

        Raises:
            ConfigError: if an optimizer was given: its steps are seen already.
        """
        if self._loop.optimizers:
            raise ConfigError("optimizer", "one, and a call of step()", "one of the two")
        self._stepped(self._loop.stepped(self._part.peer))
        return self._last

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
    def start_step(self) -> int:
        """The run's step when this peer joined it, for schedules: 0 for its founder."""
        return self._part.start_step

    @property
    def should_stop(self) -> bool:
        """Whether somebody asked this program to end (Ctrl-C, SIGTERM): leave the loop then.

        A loop that never looks is interrupted by Ctrl-C, as without a swarm.
        """
        return self._stop.watched()

    def checkpoint(self) -> None:
        """Save a checkpoint now, and wait for it; between two iterations.

        Raises:
            ConfigError: if it cannot be written.
        """
        self._part.save_now()

    def save_peer(self, folder: Path | str) -> None:
        """Save what this peer remembers of its run, without model, optimizer and `state`; between two iterations.

        For trainers that save those themselves: `resume=folder` goes on as the same peer, once they are loaded.

        Args:
            folder: it need not exist.

        Raises:
            ConfigError: if it cannot be written.
        """
        self._part.save_peer(Path(folder))

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

    def _stepped(self, result: Stepped) -> None:
        self._last = result
        if result.moved and self._loop.undoes and not self._told_undone and not self._loop.moved:
            self._told_undone = True
            self._connection.window.events.add("undone", UNDONE)
            self._screen.say("undone", UNDONE)

    def _between_steps(self) -> None:
        self._part.check_displaced()
        step = self._loop.meter.step
        if step != self._steps_seen:
            self._steps_seen = step
            self._part.between_steps()

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
        if manifest.schema_hash != self._vector.schema_hash:
            here, there = self._vector.schema_hash, manifest.schema_hash
            raise ConfigError("model", f"schema {here}", f"the model of run {manifest.run!r}, whose schema is {there}")
        if manifest.frozen_hash != self._vector.frozen_hash:
            frozen = f"frozen parameters {self._vector.frozen_hash or 'none'}"
            allowed = f"those of run {manifest.run!r}, {manifest.frozen_hash or 'none'}: load the same base everywhere"
            raise ConfigError("model", frozen, allowed)


def _config(
    options: dict[str, Any], run: str | None, initial_peers: Sequence[str], output: Path | str | None, resume: Any
) -> JoinConfig:
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    given |= {"initial_peer": initial_peers if isinstance(initial_peers, str) else tuple(initial_peers)}
    if run is not None:
        given["run"] = run
    if output is not None:
        given["output"] = Path(output)
    if resume is True:
        given["resume_or_found"] = True
    elif resume is not False:
        given["resume"] = Path(resume)
    return load_config(None, given)
