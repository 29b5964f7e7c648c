"""The line by which a person lets another one in: where the run is, whose it is, and a ticket."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from p2p_elastic.errors import ConfigError
from p2p_elastic.peers.admission.tickets import CHAIN_BYTES_MAX, Root, Ticket, read_chain
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.messages import Address, PeerId, RunName
from p2p_elastic.values import Frozen

PREFIX = "p2p-elastic-invite-1:"
LINE_MAX = 8192
KEY = "invite"
ALLOWED = "the whole line that `p2p-elastic invite` or `p2p-elastic admit` printed, or a file that has it"


class Invite(Frozen):
    """What such a line says. With `key` it is for whoever has it first: keep it secret until it is used."""

    run: RunName = Field(description="name of the run")
    founder: PeerId = Field(description="its founder: another run of that name is not joined")
    addresses: Annotated[tuple[Address, ...], Field(min_length=1, max_length=8)] = Field(
        description="multiaddrs of members"
    )
    chain: Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$", max_length=2 * CHAIN_BYTES_MAX)] = Field(
        description="tickets, in hex"
    )
    key: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = Field(
        default="", repr=False, description="private key of the last ticket's holder; empty: that is the peer itself"
    )

    @property
    def root(self) -> Root:
        """What the run begins with."""
        return Root(self.run, self.founder)

    def line(self) -> str:
        """Write it as one line.

        Returns:
            The line, without spaces.
        """
        packed = self.model_dump_json(exclude_defaults=True).encode()
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    def chain_for(self, identity: Identity) -> bytes:
        """Make the chain of a peer that was invited.

        Args:
            identity: of that peer.

        Returns:
            The chain, which names the peer at its end.

        Raises:
            ConfigError: if the line is for another peer.
            NotAdmitted: if its tickets are not of its run.
        """
        held = read_chain(self.root, bytes.fromhex(self.chain))
        if not self.key:
            if held.peer != identity.peer:
                advice = "the line made for this peer, or the --identity that it was made for"
                raise ConfigError(KEY, f"a ticket of {held.peer}", advice)
            return held.chain
        key = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.key)))
        last = held.last
        named = Ticket(identity.peer_bytes, last.role, last.serial, last.not_after, invite=False)
        return held.chain + named.signed(self.root, key).packed()


def read_invite(line: str) -> Invite:
    """Read such a line.

    Args:
        line: as the user gave it, or the path of a file that has it; spaces and line ends around it do not matter.

    Returns:
        What it says.

    Raises:
        ConfigError: if it is none.
    """
    try:
        if not line.strip().startswith(PREFIX):
            line = Path(line.strip()).expanduser().read_text(errors="replace")[: LINE_MAX + 1]
        line = line.strip()
        if not line.startswith(PREFIX) or len(line) > LINE_MAX:
            raise ValueError("no such line")
        coded = line.removeprefix(PREFIX)
        return Invite.model_validate_json(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
    except (ValueError, ValidationError, binascii.Error, OSError) as error:
        raise ConfigError(KEY, f"{line[:24]}...", ALLOWED) from error
