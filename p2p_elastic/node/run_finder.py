"""Which run a peer takes part in: that of its initial peers, or one of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from p2p_elastic.common.stop import Stop
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ConfigError, NetworkError, P2PElasticError
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.observer import Observer
from p2p_elastic.node.resume import Past
from p2p_elastic.node.status_board import StatusBoard
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.admission.tickets import Root
from p2p_elastic.peers.discovery.live_network import LiveNetwork, NetworkThread
from p2p_elastic.peers.membership.periodic import attempt
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.protocol.manifest import OWN_LOOP, RunManifest, check_against
from p2p_elastic.rules.methods import find_method
from p2p_elastic.screens.live import Screen

log = logging.getLogger(__name__)
LOOK_BACK_SECONDS = 20.0  # a founder looks for the run that it was in: unreachable hosts take their time
TURN_SECONDS = 5.0  # of several that trained alone and meet, one founds its run, and the others wait for that
ATTACH_SECONDS = 1.0  # between two tries
KNOWN_RUN_SECONDS = 25.0  # a joiner waits longer: another peer may wait for FIND_RUN_SECONDS and TURN_SECONDS first


class RunFinder:
    """Finds the run; if no peer answers now, takes part in it later.

    Args:
        config: what the user asked for.
        screen: told what is found.
        stop: the user's wish to stop.
        thread: runs the network.
        network: open.
        own: writes the manifest of a run of its own; raises ConfigError if none can be founded with these options.
        hint: what else could be done if no initial peer answers.

    Attributes:
        own: as given.
        alone: whether no peer answered: `adopt_when_attached` is to run.
    """

    def __init__(
        self,
        config: JoinConfig,
        screen: Screen,
        stop: Stop,
        thread: NetworkThread,
        network: LiveNetwork,
        own: Callable[[], RunManifest],
        hint: str = "",
    ) -> None:
        self._config, self._screen, self._stop, self.own = config, screen, stop, own
        self._hint = hint
        self._thread, self._network = thread, network
        self._remembered: int | None = None  # how many peers seen before there are to be tried, once the cache was read
        self._before: str | None = None  # the run that this peer was in, if it is to be joined again
        self.alone = False  # nobody answered: `adopt_when_attached` is to run

    def is_there(self) -> bool:
        """Say whether there is a run to join: the initial peers', or the one before with --resume-or-found.

        Returns:
            False if a run is to be founded.

        Raises:
            ConfigError: without that option, if the run that this peer was in is alive: no other is founded beside it.
        """
        if self._config.initial_peer:
            return True
        network, directory = self._network, self._network.directory
        before = self._thread.call(network.run_before(self._config.run), self._stop)
        if not before or not self._thread.call(network.recall(before), self._stop):
            return False
        self._screen.say("remembered", f"This peer was in run {before}: trying the peers seen there.", run=before)
        back = self._thread.call(_within(LOOK_BACK_SECONDS, directory.try_remembered()), self._stop)
        lives = back and self._thread.call(network.find_run(before), self._stop) is not None
        if self._config.resume_or_found:
            self._before = before
            return lives or not back
        if lives:
            raise ConfigError(
                "identity",
                str(self._config.identity),
                f"this peer was in run {before!r}, which is alive: go on there with --resume DIR, or with --output DIR "
                "--resume-or-found; to found another run beside it, take another identity",
            )
        directory.forget_remembered()
        text = f"Nobody of run {before} answers. --resume DIR would go on with it; a new run is founded."
        self._screen.say("alone", text, run=before)
        return False

    def join(self) -> RunManifest:
        """Join the run of the initial peers; if none answers and a task was asked for, begin alone.

        Returns:
            The manifest of that run, or of one of its own.

        Raises:
            ConfigError: if the run cannot be joined with these options.
        """
        manifest = self._found_run()
        if manifest is not None:
            self._screen.say("joined", f"Joined {manifest.describe()}", manifest=manifest.model_dump())
            return manifest
        manifest = self.own()
        self._screen.say("alone", f"Training alone until an initial peer answers: {manifest.describe()}")
        return manifest

    def resume(self, past: Past) -> RunManifest:
        """Go back to the run of the life before; if no member is left, the run goes on with this peer.

        Args:
            past: the earlier life.

        Returns:
            The manifest of that run.
        """
        saved, directory = past.saved, self._network.directory
        if saved.signature is None:  # no peer was told of it: it may still become the run of the initial peers
            self.alone = True
        self._screen.say(
            "resumed",
            f"Resumed at step {saved.training.step} from {past.found.folder}\n{saved.manifest.describe()}",
            step=saved.training.step,
            folder=str(past.found.folder),
            manifest=saved.manifest.model_dump(),
        )
        self._thread.call(self._network.recall(saved.manifest.run), self._stop)
        back = self._thread.call(directory.come_back(saved.signed, saved.members), self._stop)
        if not back and (self._config.initial_peer or saved.members):
            self._screen.say("alone", "Nobody of the run answers: training alone until somebody does.")
        return saved.manifest

    def check_model(self, manifest: RunManifest, vector: ParameterVector, key: str = "model") -> None:
        """Check that a model is the run's; if not, ask a member of the run what it has.

        Args:
            manifest: of the run.
            vector: of this peer's model.
            key: of the option that says what is trained.

        Raises:
            ConfigError: if it is another model, or has other frozen parameters; it says the first difference if a
                member tells it.
        """
        observer = Observer(self._network, manifest, Limits())
        difference = self._thread.call(observer.difference(vector.schema), self._stop)
        if difference is not None:
            raise ConfigError(key, "another model", f"that of run {manifest.run!r}: {difference}")
        if manifest.frozen_hash != vector.frozen_hash:
            frozen = f"frozen parameters {vector.frozen_hash or 'none'}"
            allowed = f"those of run {manifest.run!r}, {manifest.frozen_hash or 'none'}: load the same base everywhere"
            raise ConfigError(key, frozen, allowed)

    def found(self, manifest: RunManifest) -> None:
        """Found a run: others may join it from now on.

        Args:
            manifest: of the run.
        """
        if manifest.admission != "open":
            self._network.access.enter(Root(manifest.run, manifest.founder))
        self._network.directory.found(manifest)
        self._screen.say("founded", f"Founded {manifest.describe()}", manifest=manifest.model_dump())

    def _found_run(self) -> RunManifest | None:
        """Find the run of the initial peers, checked; None if none answers and it is known what to train meanwhile."""
        pause = 1.0
        while not self._attach():
            problems = problems_of(self._network)
            if (self._config.task is not None or self._before is not None) and self._config.invite is None:
                self._screen.say("unreachable", f"No initial peer answers:\n{problems}".rstrip(":\n"))
                self.alone = True
                return None
            self._screen.say(
                "unreachable",
                f"No initial peer answers; trying again in {pause:.0f} s (Ctrl-C to give up):\n{problems}{self._hint}",
            )
            self._thread.call(asyncio.sleep(pause), self._stop)
            pause = min(2 * pause, 30.0)
        manifest = self._thread.call(known_run(self._network, self._config.run or self._before), self._stop)
        check_against(manifest, self._config.binding())
        self._config.check_against(find_method(manifest.rule))
        self._network.directory.join(manifest)
        return manifest

    def _attach(self) -> bool:
        """Try the initial peers, and if none is there, those seen before. Says whether one was there."""
        directory = self._network.directory
        if self._thread.call(directory.attach(), self._stop):
            return True
        if self._remembered is None:
            self._remembered = self._thread.call(self._network.recall(self._config.run or self._before), self._stop)
            if self._remembered:
                peers = "1 peer" if self._remembered == 1 else f"{self._remembered} peers"
                self._screen.say("remembered", f"No initial peer answers; trying {peers} seen before.")
        return self._thread.call(directory.try_remembered(), self._stop)

    async def adopt_when_attached(self, peer: Peer, manifest: RunManifest, board: StatusBoard) -> None:
        """After training alone, join the initial peers' run once one of them answers, or found this peer's run there.

        What is in the way of it is logged; training goes on alone then.

        Args:
            peer: trains alone.
            manifest: of its own run.
            board: the status.
        """
        await self._network.directory.until_attached()
        try:
            theirs = await self._network.find_run(self._config.run)
            if theirs is None and not self._network.directory.is_first:
                theirs = await self._network.find_run(self._config.run, TURN_SECONDS)
            if theirs is None:
                self._network.directory.found(manifest)
                await attempt(peer.announce)  # others that trained alone wait for it now
                self._screen.say("founded", f"The initial peers know no such run: founded {manifest.describe()}")
                return
            check_against(theirs, self._config.binding())
            self._config.check_against(find_method(theirs.rule))
            if (theirs.schema_hash, theirs.frozen_hash) != (manifest.schema_hash, manifest.frozen_hash):
                raise ConfigError(
                    "task", manifest.task, f"run {theirs.run!r} trains {theirs.task!r} with another model"
                )
        except P2PElasticError as error:
            self._network.failure = f"attached, but cannot take part: {error}"
            log.warning("attached, but cannot take part; training goes on alone: %s", error)
            return
        self._network.directory.join(theirs)
        origin = theirs.founder if theirs.task == OWN_LOOP else ""
        peer.adopt(theirs.run, theirs.policy(), codec=theirs.codec, fragments=theirs.fragments, origin=origin)
        board.manifest = theirs
        self._screen.say("joined", f"Attached at last, joined {theirs.describe()}", manifest=theirs.model_dump())


async def _within(seconds: float, attempt: Coroutine[Any, Any, bool]) -> bool:
    """Wait for the result; false if it takes longer."""
    try:
        return await wait_for(attempt, seconds)
    except asyncio.TimeoutError:
        return False


async def attached(network: LiveNetwork, seconds: float) -> None:
    """Wait until an initial peer answers.

    Args:
        network: open.
        seconds: to wait at most.

    Raises:
        NetworkError: if none does; the message says what is wrong with each.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await network.directory.attach():
        if loop.time() + ATTACH_SECONDS > end:
            raise NetworkError(f"no initial peer answers:\n{problems_of(network)}")
        await asyncio.sleep(ATTACH_SECONDS)


async def known_run(network: LiveNetwork, wanted: str | None) -> RunManifest:
    """Ask the initial peers that answer for a run.

    Args:
        network: attached.
        wanted: name of the run; None if there is only one.

    Returns:
        Its manifest.

    Raises:
        ConfigError: if they do not know it.
    """
    if await network.is_private():
        raise ConfigError(
            "invite",
            None,
            "this run is private: ask its founder, or a member that may, for a line (p2p-elastic invite)",
        )
    manifest = await network.find_run(wanted, KNOWN_RUN_SECONDS)
    if manifest is None:
        name = f"run {wanted!r}" if wanted else "any run"
        raise ConfigError("run", wanted, f"the initial peer answers, but does not know {name}")
    return manifest


def problems_of(network: LiveNetwork) -> str:
    """Say what is wrong with each initial peer.

    Args:
        network: not attached.

    Returns:
        Lines for people.
    """
    return "\n".join(f"    {b.address}\n        {b.problem}" for b in network.directory.bootstrap())
