"""What is in a checkpoint of a peer, and how the same peer goes on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from p2p_elastic import __version__
from p2p_elastic.checkpoint.loop_state import MODEL, LoopState, TrainingMemory, plain_losses
from p2p_elastic.checkpoint.store import FOLDER, Content, Found, Store, checkpoint_folder, has_checkpoints
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import EITHER_OR, LENGTHS, JoinConfig
from p2p_elastic.node.results import SUMMARY_FILE, Summary, output_folder
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.manifest import BINDING, RunManifest
from p2p_elastic.protocol.messages import Address, PeerId
from p2p_elastic.protocol.records import SignedManifest
from p2p_elastic.training.meter import Meter
from p2p_elastic.training.settings import Settings
from p2p_elastic.values import Frozen

IDENTITY, CENTRE = "identity", "centre"
MEMBERS_MAX = 100  # the newest: one that is still there is enough
FREE = (
    *(
        "steps",
        "epochs",
        "duration",
        "initial_peer",
        "data_dir",
        "device",
        "threads",
        "wait_for_peers",
        "host",
        "port",
        "announce",
    ),
    *("http_host", "http_port", "http_allow_host", "http_token_file", "log_format", "checkpoint_every"),
    *("max_bandwidth", "max_share", "relay", "invite"),
)
"""Options that may be given anew when resuming; all others are the checkpoint's."""
NOT_KEPT = ("invite", "resume", "resume_or_found", "output", "identity", "log_format", "wait_for_peers")
OF_THE_CALL = ("resume", "resume_or_found", "output", "identity")
PATHS = ("data_dir", "http_token_file")


class Saved(Frozen):
    """`facts` of `checkpoint.json`.

    Attributes:
        manifest: of the run.
        signature: None while no other peer was told of the run.
        options: to go on with.
        training: step, meters and place in the data.
        peer: what it remembers of the run and the other peers.
    """

    version: Annotated[str, Field(max_length=64)] = Field(description="of p2p-elastic, for people")
    manifest: RunManifest
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")] | None = Field(description="of the manifest's founder")
    options: JoinConfig
    training: TrainingMemory
    peer: PeerMemory
    members: Annotated[
        dict[PeerId, Annotated[tuple[Address, ...], Field(max_length=8)]], Field(max_length=MEMBERS_MAX)
    ] = Field(description="where the others were")

    @property
    def signed(self) -> SignedManifest | None:
        """The manifest as it was announced; None while no other peer was told of the run."""
        return None if self.signature is None else SignedManifest(manifest=self.manifest, signature=self.signature)


class Past(NamedTuple):
    """An earlier life of this peer.

    Attributes:
        output: folder with its results.
        store: with its checkpoints.
        found: the newest checkpoint that is whole.
        identity: its key.
    """

    output: Path
    store: Store[Saved]
    found: Found[Saved]
    identity: Identity

    @property
    def saved(self) -> Saved:
        """The facts of the checkpoint."""
        return self.found.facts

    def restore_loop(self, state: LoopState) -> None:
        """Put model, optimizers and all else into place on a rank that is no peer itself.

        Args:
            state: of the loop on that rank.

        Raises:
            ConfigError: if the model or the loop is another one here.
        """
        if not self.peer_alone:
            state.restore(self.saved.training, self.found.tensors)

    @property
    def peer_alone(self) -> bool:
        """Whether the checkpoint has neither model nor optimizer: those were saved elsewhere."""
        return MODEL not in self.found.tensors

    def complete(self, config: JoinConfig) -> bool:
        """Say whether this peer trained for the length that is asked for, and left its results.

        Args:
            config: options of the new life.

        Returns:
            True if there is nothing left to do.
        """
        try:
            left = Summary.model_validate_json((self.output / SUMMARY_FILE).read_bytes())
        except (OSError, ValueError):
            return False
        ours = (left.run, left.peer) == (self.saved.manifest.run, self.identity.peer)
        before = self.saved.options
        same_length = all(getattr(config, key) == getattr(before, key) for key in LENGTHS)
        return ours and same_length and not left.stopped and left.steps >= self.found.step

    def restore(self, state: LoopState, meter: Meter, peer: Peer) -> None:
        """Put the checkpoint into place, before training begins; once, as the tensors are let go.

        Args:
            state: gets parameters, optimizers, random states and all else that was saved.
            meter: gets step and losses.
            peer: gets its memory and the centre variable.

        Raises:
            ConfigError: if the model or the loop is another one here.
        """
        tensors, memory = self.found.tensors, self.saved.training
        meter.resume(memory.step, [math.nan if loss is None else loss for loss in memory.losses])
        if not self.peer_alone:
            state.restore(memory, tensors)
        centre = tensors.get(CENTRE, {}).get(CENTRE)
        peer.restore(self.saved.peer, loss=meter.loss, centre=centre)
        tensors.clear()  # the caller holds them to the end: as much memory as model and optimizer take


def resume(config: JoinConfig) -> tuple[JoinConfig, Past]:
    """Find what `--resume` goes on from.

    Args:
        config: options of the new life, with `resume`.

    Returns:
        The options of the life before with those that are given anew, and what it left.

    Raises:
        ConfigError: if there is no whole checkpoint, or an option contradicts it.
    """
    assert config.resume is not None
    folder = checkpoint_folder(config.resume)
    store = Store(folder, Saved)
    found = store.newest()
    if found is None:
        raise ConfigError("resume", str(config.resume), "all checkpoints there are damaged; the log says how")
    identity = Identity.from_bytes(found.private.get(IDENTITY, b""), found.folder / IDENTITY)
    if config.identity is not None and Identity.load_or_create(config.identity).peer != identity.peer:
        raise ConfigError("identity", str(config.identity), f"the checkpoint is of peer {identity.peer}; leave it out")
    past = Past(folder.parent, store, found, identity)
    output = past.output
    if config.output is not None and config.output.resolve() != output.resolve():
        raise ConfigError("output", str(config.output), f"a resumed peer goes on in {output}")
    return merged(config, found.facts, output), past


def resume_peer(config: JoinConfig, state: Mapping[str, Any]) -> tuple[JoinConfig, Past]:
    """Go on as a peer whose model and optimizer were saved elsewhere.

    Args:
        config: options of the new life.
        state: as `peer_state` gave it.

    Returns:
        As `resume`.

    Raises:
        ConfigError: if it is no such state, or an option contradicts it.
    """
    try:
        saved = Saved.model_validate(state["facts"])
        identity = Identity.from_bytes(bytes.fromhex(state[IDENTITY]), Path("peer_state()"))
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError("resume", "a state", f"what swarm.peer_state() gave, of this version: {error}") from error
    output = output_folder(config.output, saved.manifest.run, identity.peer)
    past = Past(output, Store(output / FOLDER, Saved), Found(output, saved.training.step, saved, {}, {}), identity)
    return merged(config, saved, output).model_copy(update={"wait_for_peers": 0}), past  # as in `resume_or_found`


def peer_state(content: Content) -> dict[str, Any]:
    """Write down what a peer remembers, for `resume_peer`.

    Args:
        content: of a checkpoint without model and optimizer.

    Returns:
        What JSON can hold. It has the private key of the peer.
    """
    facts = content.facts.model_dump(mode="json")
    return {"facts": facts, IDENTITY: content.private[IDENTITY].hex()}


def resume_or_found(config: JoinConfig) -> tuple[JoinConfig, Past | None]:
    """Find what `--resume-or-found` goes on from.

    Args:
        config: options of the new life, with `output`.

    Returns:
        As `resume`; the options as they are, and None, if the folder has no checkpoint.

    Raises:
        ConfigError: if all checkpoints there are damaged, or an option contradicts them.
    """
    assert config.output is not None
    if not has_checkpoints(config.output):
        return config, None
    config, past = resume(config.model_copy(update={"resume": config.output}))
    return config.model_copy(update={"wait_for_peers": 0}), past  # those peers were there when it began


def merged(config: JoinConfig, saved: Saved, output: Path) -> JoinConfig:
    """Merge the options of a checkpoint with those that are given anew.

    Args:
        config: options of the new life.
        saved: the checkpoint.
        output: folder of the peer.

    Returns:
        The options to go on with.

    Raises:
        ConfigError: if an option is given anew that must stay as it was.
    """
    given = {key: getattr(config, key) for key in config.model_fields_set - set(OF_THE_CALL)}
    bound = {key: getattr(saved.manifest, key) for key in (*BINDING, "run")}
    bound["fragment"] = bound.pop("fragments")
    kept: dict[str, Any] = saved.options.model_dump()
    for key in sorted(given.keys() - set(FREE)):
        before = bound[key] if key in bound else kept[key]
        if given[key] != before:
            said = "it has none" if before is None else f"it has {before}"
            raise ConfigError(key.replace("_", "-"), given[key], f"the checkpoint goes on as it was: {said}")
    for one, other in EITHER_OR:
        if one in given:
            kept[other] = None
    try:
        return JoinConfig(**{**kept, **given, "output": output, "resume": config.resume})
    except ValidationError as error:
        raise ConfigError("resume", str(config.resume), f"its options are unknown here: {error}") from error


def options_kept(config: JoinConfig, settings: Settings | None) -> JoinConfig:
    """Choose the options for another life: what follows from the run is written out, files are found from anywhere.

    Args:
        config: options of this life.
        settings: of its training; None: that of a program of its own.

    Returns:
        The options for the checkpoint.
    """
    changes: dict[str, Any] = {key: JoinConfig.model_fields[key].default for key in NOT_KEPT}
    changes |= {key: None if (path := getattr(config, key)) is None else path.absolute() for key in PATHS}
    if settings is not None:
        changes |= {
            "steps": settings.steps,
            "epochs": None if settings.steps or config.duration else settings.epochs,
            "batch_size": settings.batch_size,
            "lr": settings.learning_rate,
            "momentum": settings.momentum,
        }
    return config.model_copy(update=changes)


class Gathered(NamedTuple):
    """From what a checkpoint is made.

    Attributes:
        state: of the loop that trains; None: model and optimizer are saved elsewhere.
        meter: its progress.
        peer: with its memory and the centre variable.
        network: has the identity of the peer; knows the members, and the signature of the manifest.
        manifest: of the run.
        options: to go on with.
        start_step: the run's step when this peer began.
        seconds: that it took part, in all its lives.
    """

    state: LoopState | None
    meter: Meter
    peer: Peer
    network: LiveNetwork
    manifest: RunManifest
    options: JoinConfig
    start_step: int
    seconds: float


def content(of: Gathered) -> Content:
    """Copy everything that a checkpoint holds. For the training thread, between two steps, after `Peer.settle`.

    Args:
        of: what is copied.

    Returns:
        The copies, which training does not change.
    """
    memory = of.peer.memory()  # its stamp of the centre before the value: that may be newer, not older
    states, found = ({}, {}) if of.state is None else of.state.copy()
    centre, signed = of.peer.centre_value(), of.network.directory.manifest
    tensors = dict(found)
    if centre is not None:
        tensors[CENTRE] = {CENTRE: centre}
    training = TrainingMemory(
        step=of.meter.step,
        start_step=of.start_step,
        seconds=of.seconds,
        losses=plain_losses(of.meter.losses),
        states=states,
    )
    saved = Saved(
        version=__version__,
        manifest=of.manifest,
        signature=signed.signature if signed is not None and signed.manifest == of.manifest else None,
        options=of.options,
        training=training,
        peer=memory,
        members=dict(list(of.network.directory.known.items())[:MEMBERS_MAX]),
    )
    private, learnt = {IDENTITY: of.network.identity.to_bytes()}, () if of.state is None else of.state.learnt
    return Content(training.step, saved, tensors, private, learnt)
