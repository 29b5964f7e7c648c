"""Who is let into the run that this process founds or joins: what `--admission`, `--invite` or an earlier life say."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from p2p_elastic.common.addresses import host_of, is_loopback
from p2p_elastic.common.files import make_private_folder, read_private, replacing
from p2p_elastic.errors import ConfigError, NotAdmitted
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.resume import Past
from p2p_elastic.peers.admission.access_list import AccessList, AccessMemory
from p2p_elastic.peers.admission.invites import read_invite
from p2p_elastic.peers.admission.tickets import Root
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.discovery.peer_cache import state_folder
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.roles import Role

log = logging.getLogger(__name__)
FILE = "admission.json"  # in the output folder
FILE_BYTES_MAX = 2**20
TICKET = "ticket"


def prepare(network: LiveNetwork, config: JoinConfig, past: Past | None) -> None:
    """Make a network private, before it is open, if the run is.

    Args:
        network: not open yet.
        config: what the user asked for.
        past: the earlier life of this peer; None if it has none.

    Raises:
        ConfigError: if this peer cannot take part so.
    """
    access = network.access
    if past is not None and past.saved.manifest.admission == TICKET:
        _go_on(network, past, invited=config.invite is not None)
    elif past is None and config.admission == TICKET and not config.initial_peer:
        access.close()  # until the run has a name
    if config.invite is not None:
        enter(network, config.invite)
        _check_role(access.invited_as, config.role)


def _go_on(network: LiveNetwork, past: Past, *, invited: bool) -> None:
    """Be admitted as in the earlier life, unless that is left to an invite."""
    access, manifest, file = network.access, past.saved.manifest, past.output / FILE
    root, memory = Root(manifest.run, manifest.founder), _read(file)
    if memory is not None and (memory.run, memory.founder) == root:
        access.recall(memory)
    elif manifest.founder == network.identity.peer:
        log.warning("%s is missing: what was revoked is not known until a member is met", file)
        access.enter(root)
    elif not invited:
        raise ConfigError("invite", None, f"the run is private, and {file} has no ticket: ask for a new line")


def _read(path: Path) -> AccessMemory | None:
    try:
        return AccessMemory.model_validate_json(read_private(path, "admission", FILE_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ConfigError("admission", str(path), "a whole file; or remove it, and give --invite LINE") from error


def identity_in(file: Path | None, line: str | None) -> Identity:
    """Choose the identity of a peer that begins anew.

    Args:
        file: key file that its user named; None: none.
        line: the invite; None: there is none.

    Returns:
        That of the file; else the one that used this invite before on this machine, so that the same command works
        again; else a new one.

    Raises:
        ConfigError: if the file or the line cannot be used.
    """
    if file is not None:
        return Identity.load_or_create(file)
    invite = None if line is None else read_invite(line)
    if invite is None or not invite.key:
        return Identity.generate()
    try:
        folder = state_folder() / "invited"
        make_private_folder(folder)
        return Identity.load_or_create(folder / hashlib.sha256(invite.key.encode()).hexdigest()[:32])
    except (RuntimeError, OSError) as error:
        log.info("the identity is not kept, and the invite works once: %s", error)
        return Identity.generate()


def enter(network: LiveNetwork, line: str) -> None:
    """Make a network that of the private run of an invite, before it is open.

    Args:
        network: not open yet.
        line: the invite.

    Raises:
        ConfigError: if it is none, or is for another peer.
    """
    invite = read_invite(line)
    try:
        network.access.enter(invite.root, invite.chain_for(network.identity))
    except NotAdmitted as error:
        raise ConfigError("invite", "this line", f"one of its own run: {error}") from error


def visiting(
    line: str | None, file: Path | None, initial_peers: Sequence[str], announce: Sequence[str] = ()
) -> LiveNetwork:
    """Build the network of a process that looks at a run, or takes from it, and does not train.

    Args:
        line: the invite to a private run; None: it is a new peer in an open one.
        file: key file that the line was made for; None: none.
        initial_peers: multiaddrs.
        announce: multiaddrs that other peers are told.

    Returns:
        The network, not open yet.

    Raises:
        ConfigError: if an address, the file or the line cannot be used.
    """
    if line is None:
        return LiveNetwork(Identity.generate(), initial_peers, announce)
    network = LiveNetwork(identity_in(file, line), initial_peers, announce)
    enter(network, line)
    return network


def _check_role(own: Role, wanted: str) -> None:
    needed = Role.CENTRE if wanted == "centre" else Role.TRAINER
    if own < needed:
        only_exports = "; this one is for `p2p-elastic export`" * (own is Role.OBSERVER)
        raise ConfigError("invite", f"a ticket as {own.word}", f"a line made with --role {needed.word}{only_exports}")


def keep(access: AccessList, output: Path) -> None:
    """From now on keep what another life of this peer needs in its output folder; nothing in an open run.

    Args:
        access: of the run.
        output: the folder.
    """

    def save() -> None:
        memory = access.memory()
        if memory is None:
            return
        try:
            with replacing(output / FILE, 0o600) as file:
                file.write(memory.model_dump_json().encode())
        except OSError as error:  # no reason not to train
            log.warning("%s cannot be written, so a restart needs --invite: %s", output / FILE, error)

    access.changed = save
    save()


class Doorkeeper:
    """Invites and revokes for the operator of this peer. Belongs to the network thread.

    Args:
        network: open.
    """

    def __init__(self, network: LiveNetwork) -> None:
        self._network = network

    def invite(self, role: str, seconds: int, peer: str | None) -> str:
        """Let somebody in.

        Args:
            role: the word of a `Role`.
            seconds: until when the line is good; with a peer, how long the ticket lives unless it is renewed.
            peer: whom it is for; None: whoever uses it first.

        Returns:
            The line to give away.

        Raises:
            ConfigError: if this peer may not, or an argument is none.
        """
        try:
            wanted = Role.of(role)
        except ValueError as error:
            raise ConfigError("role", role, str(error)) from error
        network = self._network
        own = sorted(network.host.addresses, key=lambda address: is_loopback(host_of(address)))
        return network.access.invite(wanted, seconds, tuple(own), peer).line()

    def revoke(self, what: str) -> None:
        """Let somebody in no more.

        Args:
            what: a peer id, or the serial of a ticket.

        Raises:
            ConfigError: if this peer may not, or there is no such thing.
        """
        self._network.access.revoke(what)
