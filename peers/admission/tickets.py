"""Tickets: signed permissions to take part in a private run, in chains that begin with the run's founder.

    chain    1 to CHAIN_MAX tickets: the founder signs the first, the holder of each signs the next, the last is for
             the peer
    ticket   holder: 38 bytes | role: u8, plus 128 in an invite | serial: 16 bytes | not after: u64 | signature: 64

Nobody has to be asked: who knows the founder can check a chain. An invite is a ticket whose holder is a key made for
it; who has the key names one peer, in a ticket of the same role and serial.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Sequence
from typing import NamedTuple

from p2p_elastic.errors import NotAdmitted
from p2p_elastic.peers.transport.identity import Identity, peer_from_text, peer_text, verify
from p2p_elastic.protocol.roles import Role

DOMAIN = b"p2p-elastic/ticket/1"
CHAIN_MAX = 4  # founder -> invite -> issuer -> invite -> peer
LAYOUT = struct.Struct("!38sB16sQ64s")
TICKET_BYTES, CHAIN_BYTES_MAX = LAYOUT.size, CHAIN_MAX * LAYOUT.size
SIGNED_BYTES = TICKET_BYTES - 64
INVITE = 128
OWNER_BYTES = 8  # of a serial that say who made it
LIFE_SECONDS_MAX = 30 * 86_400


class Root(NamedTuple):
    """What a private run begins with.

    Attributes:
        run: its name.
        founder: peer id of its founder, whose key signs first.
    """

    run: str
    founder: str

    def told(self, domain: bytes) -> bytes:
        """Begin what is signed for this run.

        Args:
            domain: what the signature is for.

        Returns:
            The bytes.
        """
        run = self.run.encode()
        return domain + struct.pack("!B", len(run)) + run + peer_from_text(self.founder)


class Ticket(NamedTuple):
    """One link of a chain.

    Attributes:
        holder: the peer id, as bytes, that it is for; or the key of an invite, written as one.
        role: what the holder may do.
        serial: 16 bytes, by which it is revoked: OWNER_BYTES of its issuer's hash, the rest random.
        not_after: seconds since 1970 by the swarm's clock.
        invite: whether the holder is a key that names one peer.
        signature: its issuer's.
    """

    holder: bytes
    role: Role
    serial: bytes
    not_after: int
    invite: bool
    signature: bytes = b""

    def packed(self) -> bytes:
        """Write it as bytes.

        Returns:
            TICKET_BYTES bytes.
        """
        kind = self.role | (INVITE if self.invite else 0)
        return LAYOUT.pack(self.holder, kind, self.serial, self.not_after, self.signature)

    def signed(self, root: Root, issuer: Identity) -> Ticket:
        """Sign it.

        Args:
            root: of the run that it is for.
            issuer: signs; the holder of the ticket before, or the founder.

        Returns:
            The ticket with its signature.
        """
        return self._replace(signature=issuer.sign(_told(root, issuer.peer_bytes, self)))


class Held(NamedTuple):
    """A chain that was checked.

    Attributes:
        peer: the holder of the last ticket; of an invite that is not used yet, its key.
        tickets: the chain.
        issuers: peer id of who signed each.
        hashed: the hash of the peer id, by which the founder revokes it: it is looked for at each call of the peer.
    """

    peer: str
    tickets: tuple[Ticket, ...]
    issuers: tuple[str, ...]
    hashed: bytes

    @property
    def last(self) -> Ticket:
        """The peer's own ticket."""
        return self.tickets[-1]

    @property
    def not_after(self) -> int:
        """When the first of the tickets ends."""
        return min(ticket.not_after for ticket in self.tickets)

    @property
    def by(self) -> str:
        """Who admitted the peer: the issuer of its ticket, or of the invite that it used."""
        return self.issuers[-2] if self.from_invite else self.issuers[-1]

    @property
    def from_invite(self) -> bool:
        """Whether it was made with the key of an invite, and not by an issuer yet."""
        return len(self.tickets) > 1 and self.tickets[-2].invite

    @property
    def chain(self) -> bytes:
        """The chain as bytes."""
        return write_chain(self.tickets)


def new_serial(issuer: bytes) -> bytes:
    """Make up a serial.

    Args:
        issuer: peer id, as bytes, of the peer that makes it.

    Returns:
        16 bytes.
    """
    return owner_of(issuer) + secrets.token_bytes(16 - OWNER_BYTES)


def owner_of(issuer: bytes) -> bytes:
    """Say how the serials of an issuer begin.

    Args:
        issuer: its peer id, as bytes.

    Returns:
        OWNER_BYTES bytes.
    """
    return hashlib.blake2b(issuer, digest_size=OWNER_BYTES).digest()


def hash_of(peer: str) -> bytes:
    """Hash a peer id, as a revocation names it.

    Args:
        peer: the peer id.

    Returns:
        16 bytes.
    """
    return hashlib.blake2b(peer_from_text(peer), digest_size=16).digest()


def write_chain(tickets: Sequence[Ticket]) -> bytes:
    """Write a chain as bytes.

    Args:
        tickets: from the founder's on; none at the founder itself.

    Returns:
        CHAIN_BYTES_MAX bytes at most.
    """
    return b"".join(ticket.packed() for ticket in tickets)


def read_chain(root: Root, chain: bytes) -> Held:
    """Check a chain: each signature, and that each issuer may admit the next holder. Not whether it is still valid.

    Args:
        root: of the run.
        chain: as it came.

    Returns:
        The chain.

    Raises:
        NotAdmitted: if it is not one of this run.
    """
    if not 0 < len(chain) <= CHAIN_BYTES_MAX or len(chain) % TICKET_BYTES:
        raise NotAdmitted("no ticket")
    issuer, before = peer_from_text(root.founder), None
    tickets, issuers = [], []
    for start in range(0, len(chain), TICKET_BYTES):
        ticket = _read(chain[start : start + TICKET_BYTES])
        if (problem := _objection(ticket, before)) is not None:
            raise NotAdmitted(f"not a ticket of this run: {problem}")
        if not verify(issuer, ticket.signature, _told(root, issuer, ticket)):
            raise NotAdmitted("a ticket of another run, or forged")
        tickets.append(ticket)
        issuers.append(peer_text(issuer))
        issuer, before = ticket.holder, ticket
    peer = peer_text(issuer)
    return Held(peer, tuple(tickets), tuple(issuers), hash_of(peer))


def _read(packed: bytes) -> Ticket:
    holder, kind, serial, not_after, signature = LAYOUT.unpack(packed)
    try:
        return Ticket(holder, Role(kind & ~INVITE), serial, not_after, bool(kind & INVITE), signature)
    except ValueError as error:
        raise NotAdmitted("a ticket with a role that is not known here") from error


def _objection(ticket: Ticket, before: Ticket | None) -> str | None:
    """Why a holder cannot have issued this; None if it can. Only the founder, or an invite of its, makes issuers."""
    if before is None:
        return None
    if before.invite:
        same = (ticket.role, ticket.serial) == (before.role, before.serial) and ticket.not_after <= before.not_after
        return None if same and not ticket.invite else "an invite names one peer, as it is itself"
    if before.role is not Role.ISSUER:
        return f"a {before.role.word} admits nobody"
    return "only the founder makes issuers" if ticket.role is Role.ISSUER else None


def _told(root: Root, issuer: bytes, ticket: Ticket) -> bytes:
    return root.told(DOMAIN) + issuer + ticket.packed()[:SIGNED_BYTES]
