"""Which tickets do not count any more: one list for each peer that may revoke, each newer than the one before.

    list     length of the chain: u16 | chain of its signer | signer: 38 bytes | sequence: u64 | entries: u16 |
             entries, each 16 bytes | until: u64 | signature: 64 bytes

An entry is the serial of a ticket, or from the founder also the hash of a peer id, which no ticket lets in any more.
The founder's list counts for all tickets, an issuer's for those whose serial it made. Members pass the lists on, and
merging them in any order gives the same.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from p2p_elastic.errors import NotAdmitted
from p2p_elastic.peers.admission.tickets import CHAIN_BYTES_MAX, LIFE_SECONDS_MAX, Held, Root, owner_of, read_chain
from p2p_elastic.peers.transport.identity import SIGNATURE_BYTES, Identity, peer_from_text, peer_text, verify
from p2p_elastic.protocol.roles import Role

DOMAIN = b"p2p-elastic/revoked/1"
HEAD, ENTRY = struct.Struct("!38sQH"), struct.Struct("!16sQ")
ENTRIES_MAX, SIGNERS_MAX = 512, 16
LIST_BYTES_MAX = 2 + CHAIN_BYTES_MAX + HEAD.size + ENTRIES_MAX * ENTRY.size + SIGNATURE_BYTES
LISTS_BYTES_MAX = (SIGNERS_MAX + 1) * LIST_BYTES_MAX


class RevokedList(NamedTuple):
    """What one peer revoked.

    Attributes:
        signer: its peer id.
        chain: of the signer; empty: the founder.
        sequence: the higher, the newer.
        entries: serial, or hash of a peer id -> until when it has to be remembered, in seconds since 1970.
        signature: the signer's.
    """

    signer: str
    chain: bytes
    sequence: int
    entries: dict[bytes, int]
    signature: bytes = b""

    def packed(self) -> bytes:
        """Write it as bytes.

        Returns:
            LIST_BYTES_MAX bytes at most.
        """
        return struct.pack("!H", len(self.chain)) + self.chain + self._body() + self.signature

    def signed(self, root: Root, signer: Identity) -> RevokedList:
        """Sign it.

        Args:
            root: of the run.
            signer: whose list it is.

        Returns:
            The list with its signature.
        """
        return self._replace(signature=signer.sign(self.told(root)))

    def told(self, root: Root) -> bytes:
        """Lay out what is signed.

        Args:
            root: of the run.

        Returns:
            The bytes.
        """
        return root.told(DOMAIN) + self._body()

    def _body(self) -> bytes:
        head = HEAD.pack(peer_from_text(self.signer), self.sequence, len(self.entries))
        return head + b"".join(ENTRY.pack(*entry) for entry in sorted(self.entries.items()))


class Revocations:
    """The newest list of each signer.

    Args:
        root: of the run.

    Attributes:
        packed: all lists as bytes, LISTS_BYTES_MAX at most; empty if nothing was revoked.
        digest: 16 hex characters that are the same at peers with the same lists; empty if nothing was revoked.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lists: dict[str, RevokedList] = {}
        self.packed, self.digest = b"", ""

    def _keep(self, one: RevokedList) -> None:
        """Put a list in the place of the signer's earlier one. Members ask for the digest at each look."""
        self._lists[one.signer] = one
        self.packed = b"".join(self._lists[signer].packed() for signer in sorted(self._lists))
        self.digest = hashlib.blake2b(self.packed, digest_size=8).hexdigest()

    def merge(self, packed: bytes) -> bool:
        """Take in the lists that are newer than those here.

        Args:
            packed: as another peer wrote them.

        Returns:
            Whether there was one.

        Raises:
            NotAdmitted: if one is malformed, forged, or from a peer that may not revoke.
        """
        newer = False
        for found in _parse(packed):
            known = self._lists.get(found.signer)
            if known is not None and known.sequence >= found.sequence:
                continue
            if known is None and len(self._lists) >= SIGNERS_MAX and found.signer != self._root.founder:
                continue
            self._check(found)
            self._keep(found)
            newer = True
        return newer

    def change(
        self, signer: Identity, held: Held | None, until: int, entries: Iterable[bytes], back: Iterable[bytes] = ()
    ) -> None:
        """Write this peer's own list anew.

        Args:
            signer: this peer.
            held: its chain; None: it is the founder.
            until: seconds since 1970 until when new entries are remembered: LIFE_SECONDS_MAX from now.
            entries: what is revoked.
            back: what is not revoked any more.

        Raises:
            ValueError: if the list is full.
        """
        now, known = until - LIFE_SECONDS_MAX, self._lists.get(signer.peer)
        kept = {} if known is None else {entry: end for entry, end in known.entries.items() if end > now}
        kept |= dict.fromkeys(entries, until)
        kept = {entry: end for entry, end in kept.items() if entry not in set(back)}
        if len(kept) > ENTRIES_MAX:
            raise ValueError(f"at most {ENTRIES_MAX} revocations at a time")
        sequence = max(now, 0 if known is None else known.sequence + 1)  # also above that of a list that was lost
        chain = b"" if held is None else held.chain
        self._keep(RevokedList(signer.peer, chain, sequence, kept).signed(self._root, signer))

    def revoked(self, held: Held) -> bool:
        """Whether a chain does not count any more.

        Args:
            held: the chain.

        Returns:
            True if one of its tickets was revoked, or its peer.
        """
        return any(self._names(one, held) for one in self._lists.values())

    def _names(self, one: RevokedList, held: Held) -> bool:
        if one.signer == self._root.founder:
            return held.hashed in one.entries or any(ticket.serial in one.entries for ticket in held.tickets)
        return any(t.serial in one.entries and _made(one.signer, t.serial) for t in held.tickets)

    def entries(self) -> frozenset[bytes]:
        """List what was revoked.

        Returns:
            Serials and hashes of peer ids.
        """
        return frozenset(entry for one in self._lists.values() for entry in one.entries)

    def _check(self, found: RevokedList) -> None:
        if found.signer != self._root.founder:
            held = read_chain(self._root, found.chain)
            if held.peer != found.signer or held.last.role is not Role.ISSUER:
                raise NotAdmitted("revocations of a peer that may not revoke")
        if not verify(peer_from_text(found.signer), found.signature, found.told(self._root)):
            raise NotAdmitted("forged revocations")


def _made(signer: str, serial: bytes) -> bool:
    return serial.startswith(owner_of(peer_from_text(signer)))


def _parse(packed: bytes) -> Iterator[RevokedList]:
    if len(packed) > LISTS_BYTES_MAX:
        raise NotAdmitted("too many revocations")
    at = 0
    try:
        while at < len(packed):
            (length,) = struct.unpack_from("!H", packed, at)
            if length > CHAIN_BYTES_MAX:
                raise NotAdmitted("malformed revocations")
            chain, at = packed[at + 2 : at + 2 + length], at + 2 + length
            signer, sequence, count = HEAD.unpack_from(packed, at)
            at += HEAD.size
            end = at + count * ENTRY.size
            if count > ENTRIES_MAX or end + SIGNATURE_BYTES > len(packed):
                raise NotAdmitted("malformed revocations")
            entries = dict(ENTRY.iter_unpack(packed[at:end]))
            at = end + SIGNATURE_BYTES
            yield RevokedList(peer_text(signer), chain, sequence, entries, packed[end:at])
    except struct.error as error:
        raise NotAdmitted("malformed revocations") from error
