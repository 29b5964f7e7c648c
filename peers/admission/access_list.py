"""Who may take part in the run that this peer is in: everybody, or those who showed a ticket that still counts."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.errors import ConfigError, NotAdmitted
from p2p_elastic.peers.admission.invites import Invite
from p2p_elastic.peers.admission.revocations import Revocations
from p2p_elastic.peers.admission.tickets import (
    CHAIN_BYTES_MAX,
    LIFE_SECONDS_MAX,
    Held,
    Root,
    Ticket,
    hash_of,
    new_serial,
    owner_of,
    read_chain,
)
from p2p_elastic.peers.transport.identity import Identity, peer_from_text
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.messages import PeerId, RunName
from p2p_elastic.protocol.roles import Role
from p2p_elastic.status.schema import AdmissionStatus, AdmittedStatus
from p2p_elastic.values import Frozen

log = logging.getLogger(__name__)
TICKET_SECONDS = 7 * 86_400  # of a ticket that is renewed; with less than half left it is renewed again
ISSUER_SECONDS = LIFE_SECONDS_MAX  # of an issuer's: so long the founder may be away
SLACK_SECONDS = 60  # that an issuer's clock may be ahead
CHAINS_MAX, PEERS_MAX, INVITES_MAX = 4096, 2**16, 4096


class AccessMemory(Frozen):
    """What another life of this peer needs to be admitted again."""

    run: RunName = Field(description="name of the run")
    founder: PeerId = Field(description="its founder")
    chain: Annotated[str, Field(max_length=2 * CHAIN_BYTES_MAX)] = Field(description="of this peer, in hex")
    spare: Annotated[str, Field(max_length=2 * CHAIN_BYTES_MAX)] = Field(
        default="", description="an older one by another issuer, in hex; empty: none"
    )
    revoked: str = Field(description="all lists, in hex")
    invites: dict[str, PeerId] = Field(description="serial in hex -> the peer that used the invite")


class _Shown(NamedTuple):
    """A chain that was shown here, and until when it counts by this machine's own monotonic clock."""

    held: Held
    end: float


class AccessList:
    """Everybody in an open run; in a private one the peers with a ticket. Belongs to the network thread.

    Args:
        identity: of this peer.
        clock: the swarm's.

    Attributes:
        private: whether a ticket is needed.
        root: of the private run, once that is known.
        refused: why -> how many tickets.
        changed: called when `memory` changed.
    """

    def __init__(self, identity: Identity, clock: SwarmClock) -> None:
        self._identity, self.clock = identity, clock
        self.private = False
        self.root: Root | None = None
        self._own: Held | None = None
        self._spare: Held | None = None  # by another issuer, who may outlive that of `_own`
        self._revocations = Revocations(Root("", ""))
        self._shown: dict[bytes, _Shown] = {}  # digest of a chain -> what is known of it
        self._peers: dict[str, _Shown] = {}
        self._invites: dict[bytes, str] = {}
        self.refused: dict[str, int] = {}
        self.changed: Callable[[], None] = lambda: None

    # -- the run ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """From now on admit nobody, until `enter` says which run it is."""
        self.private = True

    def enter(self, root: Root, chain: bytes = b"") -> None:
        """Take part in a private run. Whether the chain still counts is seen later, by the swarm's clock.

        Args:
            root: of the run.
            chain: of this peer; empty at its founder.

        Raises:
            NotAdmitted: if the chain is not of that run, or not this peer's.
        """
        self._take(root, chain)
        self.changed()

    def _take(self, root: Root, chain: bytes) -> None:
        own = None if self._identity.peer == root.founder else read_chain(root, chain)
        if own is not None and own.peer != self._identity.peer:
            raise NotAdmitted("the ticket of another peer")
        if self.root != root:
            self._revocations, self._spare = Revocations(root), None
        self.private, self.root, self._own = True, root, own

    def recall(self, memory: AccessMemory) -> None:
        """Go on as in another life.

        Args:
            memory: of that life.

        Raises:
            ConfigError: if it is damaged.
        """
        try:
            root, chain = Root(memory.run, memory.founder), bytes.fromhex(memory.chain)
            self.private, self.root, self._revocations = True, root, Revocations(root)
            self._revocations.merge(bytes.fromhex(memory.revoked))
            self._invites = {bytes.fromhex(serial): peer for serial, peer in memory.invites.items()}
            self._own = read_chain(root, chain) if self._identity.peer != root.founder else None
            self._spare = read_chain(root, bytes.fromhex(memory.spare)) if memory.spare else None
        except (ValueError, NotAdmitted) as error:
            raise ConfigError("admission", "a file that was changed", "a whole one; or give --invite LINE") from error

    def memory(self) -> AccessMemory | None:
        """Gather what another life needs.

        Returns:
            None in an open run.
        """
        if self.root is None:
            return None
        return AccessMemory(
            run=self.root.run,
            founder=self.root.founder,
            chain=self.chain.hex(),
            spare="" if self._spare is None else self._spare.chain.hex(),
            revoked=self.revoked.hex(),
            invites={serial.hex(): peer for serial, peer in self._invites.items()},
        )

    @property
    def chain(self) -> bytes:
        """This peer's own chain; empty at the founder, and in an open run."""
        return b"" if self._own is None else self._own.chain

    @property
    def revoked(self) -> bytes:
        """All lists of revocations."""
        return self._revocations.packed

    @property
    def revoked_digest(self) -> str:
        """Of all lists: the same at peers that know the same; empty if nothing was revoked."""
        return self._revocations.digest

    # -- who ----------------------------------------------------------------------------------------------------------

    def allows(self, peer: str, role: Role = Role.OBSERVER) -> bool:
        """Whether a peer may do something now.

        Args:
            peer: its proven id.
            role: that it needs.

        Returns:
            True for everybody in an open run.
        """
        return not self.private or self.role_of(peer) >= role

    def role_of(self, peer: str) -> int:
        """Say which role a peer has now.

        Args:
            peer: its proven id.

        Returns:
            A `Role`; 0: it is not admitted.
        """
        if self.root is None:
            return 0 if self.private else Role.ISSUER
        if peer == self.root.founder:
            return Role.ISSUER
        if peer == self._identity.peer:
            shown = None if self._own is None else _Shown(self._own, math.inf)
        else:
            shown = self._peers.get(peer)
        return shown.held.last.role if shown is not None and self._problem(shown) is None else 0

    @property
    def invited_as(self) -> Role:
        """The role that this peer's own ticket gives in its private run, whether or not it still counts."""
        return Role.ISSUER if self._own is None else self._own.last.role

    def admit(self, peer: str, chain: bytes) -> None:
        """Let a peer in that shows its chain.

        Args:
            peer: its proven id.
            chain: as it came; empty: the peer is the founder.

        Raises:
            NotAdmitted: if it does not count, with the reason.
        """
        try:
            self._admit(peer, chain)
        except NotAdmitted as error:
            why = str(error)
            self.refused[why] = self.refused.get(why, 0) + 1
            raise

    def knows(self, peer: str, chain: bytes) -> bool:
        """Whether a chain was made for a peer of this run, though it may not count any more; it is let in if it does.

        Args:
            peer: its proven id.
            chain: as it came with a record of that peer.

        Returns:
            False if it is forged, or of another run.
        """
        try:
            if self.root is None or peer != self.root.founder:
                self._look_at(peer, chain)
        except NotAdmitted:
            return False
        with contextlib.suppress(NotAdmitted):
            self.admit(peer, chain)
        return True

    def _look_at(self, peer: str, chain: bytes) -> _Shown:
        if self.root is None:
            raise NotAdmitted("this peer is in no run yet")
        digest = hashlib.blake2b(chain, digest_size=16).digest()
        shown = self._shown.get(digest)
        if shown is None:
            held = read_chain(self.root, chain)
            left = held.not_after - self.clock.now()
            shown = self._shown[digest] = _Shown(held, self.clock.monotonic() + left)
            forget_oldest(self._shown, CHAINS_MAX)
        if shown.held.peer != peer:
            raise NotAdmitted("the ticket of another peer")
        return shown

    def _admit(self, peer: str, chain: bytes) -> None:
        if self.root is not None and peer == self.root.founder:
            return
        shown = self._look_at(peer, chain)
        if (problem := self._problem(shown)) is not None:
            raise NotAdmitted(problem)
        self._use_invite(shown.held)
        known = self._peers.get(peer)
        if known is None or shown.held.not_after > known.held.not_after or self._problem(known) is not None:
            if known is None and len(self._peers) >= PEERS_MAX:
                self._peers = {p: s for p, s in self._peers.items() if self._problem(s) is None}
            self._peers[peer] = shown
            forget_oldest(self._peers, PEERS_MAX)

    def _problem(self, shown: _Shown) -> str | None:
        """Why a chain does not count now; None if it does."""
        if shown.held.last.invite:
            return "an invite that names no peer"
        left = shown.held.not_after - self.clock.now()
        if min(left, shown.end - self.clock.monotonic()) <= 0.0:
            return "the ticket has ended"
        if left > LIFE_SECONDS_MAX + SLACK_SECONDS:
            return "the ticket would live too long"
        return "the ticket was revoked" if self._revocations.revoked(shown.held) else None

    def _use_invite(self, held: Held) -> None:
        """An invite is for the peer that used it first, as far as is known here."""
        if not held.from_invite:
            return
        first = self._invites.get(held.last.serial)
        if first is None:
            self._invites[held.last.serial] = held.peer
            forget_oldest(self._invites, INVITES_MAX)
            self.changed()
        elif first != held.peer:
            raise NotAdmitted("an invite that another peer used before")

    # -- admitting ----------------------------------------------------------------------------------------------------

    @property
    def issues(self) -> bool:
        """Whether this peer may admit others."""
        return self.root is not None and self.role_of(self._identity.peer) == Role.ISSUER

    def invite(self, role: Role, seconds: int, addresses: tuple[str, ...], peer: str | None = None) -> Invite:
        """Invite somebody.

        Args:
            role: that it gets.
            seconds: until when the line is good; if it names a peer, how long the ticket lives unless it is renewed.
            addresses: multiaddrs of members, this one among them.
            peer: whom it is for, if its id is known; None: whoever uses the line first.

        Returns:
            What to give to that person.

        Raises:
            ConfigError: if this peer may not, or the time is too long.
        """
        root = self._may_issue(role)
        if not 0 < seconds <= LIFE_SECONDS_MAX:
            raise ConfigError("for", f"{seconds} s", f"up to {LIFE_SECONDS_MAX // 86_400} days")
        serial = new_serial(self._identity.peer_bytes)
        if peer is None:
            key = Identity.generate()
            secret, holder = key.to_bytes()[4:36].hex(), key.peer_bytes
        else:
            secret, holder = "", _holder(peer)
            self._take_back(peer)
        chain = self.chain + self._ticket(holder, role, serial, seconds, invite=peer is None).packed()
        return Invite(run=root.run, founder=root.founder, addresses=addresses[:8], chain=chain.hex(), key=secret)

    def renewed(self, peer: str) -> bytes:
        """Renew the ticket of an admitted peer, if that is due and this peer's to do.

        Args:
            peer: its proven id.

        Returns:
            Its new chain; empty if it keeps the old one.
        """
        shown = self._peers.get(peer)
        if shown is None or not self.issues or not self.allows(peer):
            return b""
        held, own = shown.held, self._own
        role, life = held.last.role, _life(held)
        until = int(self.clock.now()) + life
        longer = held.from_invite or (until if own is None else min(until, own.not_after)) > held.not_after
        if (role is Role.ISSUER and own is not None) or not self._due(held) or not longer:
            return b""
        chain = self.chain + self._ticket(_holder(peer), role, held.last.serial, life).packed()
        self.admit(peer, chain)
        return chain

    @property
    def renewal_due(self) -> bool:
        """Whether this peer should show its ticket to an issuer again."""
        return self._own is not None and self._due(self._own)

    def renew(self, chain: bytes) -> None:
        """Take this peer's own new chain, and keep the one that it replaces: its issuer may be revoked.

        Args:
            chain: as an issuer sent it.

        Raises:
            NotAdmitted: if it does not count.
        """
        assert self.root is not None, "in no private run"
        before = self._own
        self._take(self.root, chain)
        if before is not None and self._own is not None and before.by != self._own.by:
            self._spare = before
        self.changed()

    def _due(self, held: Held) -> bool:
        return held.from_invite or held.not_after - self.clock.now() < _life(held) / 2

    def _ticket(self, holder: bytes, role: Role, serial: bytes, seconds: int, *, invite: bool = False) -> Ticket:
        assert self.root is not None, "checked before"
        not_after = int(self.clock.now()) + seconds
        return Ticket(holder, role, serial, not_after, invite).signed(self.root, self._identity)

    def _may_issue(self, role: Role) -> Root:
        if self.root is None:
            raise ConfigError("admission", "open", "a private run: found one with --admission ticket")
        if not self.issues:
            raise ConfigError("role", self._own_role, "the founder or an issuer: ask there")
        if role is Role.ISSUER and self._own is not None:
            raise ConfigError("role", role.word, "only the founder admits issuers")
        return self.root

    # -- revoking -----------------------------------------------------------------------------------------------------

    def revoke(self, what: str) -> None:
        """Let a peer, or a ticket, count no more.

        Args:
            what: a peer id, or a serial in hex.

        Raises:
            ConfigError: if this peer may not, or there is no such thing.
        """
        root = self._may_issue(Role.TRAINER)
        if what in (root.founder, self._identity.peer):
            raise ConfigError("revoke", what, "another peer than the founder and this one")
        founder, shown = self._own is None, self._peers.get(what)
        if _is_serial(what):
            entries = [bytes.fromhex(what)]
        else:
            entries = [shown.held.last.serial] if shown is not None else []
            entries += [_entry(what)] if founder else []
        if not founder and not any(e.startswith(owner_of(self._identity.peer_bytes)) for e in entries):
            raise ConfigError("revoke", what, "a ticket that this peer issued; the founder revokes any")
        try:
            self._revocations.change(self._identity, self._own, self._until, entries)
        except ValueError as error:
            raise ConfigError("revoke", what, str(error)) from error
        self.changed()

    def _take_back(self, peer: str) -> None:
        """Somebody is admitted again."""
        entry = hash_of(peer)
        if entry in self._revocations.entries():
            if self._own is not None:
                raise ConfigError("peer", peer, "the founder revoked it, and admits it again")
            self._revocations.change(self._identity, None, self._until, (), (entry,))
            self.changed()

    @property
    def _until(self) -> int:
        return int(self.clock.now()) + LIFE_SECONDS_MAX

    def hear(self, peer: str, chain: bytes, revoked: bytes) -> None:
        """Take in what a peer shows: its chain, and the revocations that it knows, which may be its own.

        Args:
            peer: its proven id.
            chain: as it came.
            revoked: as it came.

        Raises:
            NotAdmitted: if it is not let in, or the lists are malformed or forged.
        """
        self.admit(peer, chain)
        self.merge(revoked)
        if not self.allows(peer):
            raise NotAdmitted("the ticket was revoked")

    def merge(self, revoked: bytes) -> None:
        """Take in the lists that another member knows.

        Args:
            revoked: as it sent them.

        Raises:
            NotAdmitted: if they are malformed or forged.
        """
        if self._revocations.merge(revoked):
            if self._own is not None and self._spare is not None and self._revocations.revoked(self._own):
                self._own, self._spare = self._spare, None
            self.changed()

    # -- for people ---------------------------------------------------------------------------------------------------

    @property
    def _own_role(self) -> str:
        role = self.role_of(self._identity.peer)
        return Role(role).word if role else "not admitted"

    def status(self) -> AdmissionStatus | None:
        """Say who is admitted.

        Returns:
            None in an open run.
        """
        if self.root is None:
            return None
        now = self.clock.now()
        listed = [
            AdmittedStatus(
                peer=peer,
                role=shown.held.last.role.word,
                by=shown.held.by,
                serial=shown.held.last.serial.hex(),
                seconds_left=max(0.0, shown.held.not_after - now),
                problem=self._problem(shown),
            )
            for peer, shown in tuple(self._peers.items())
        ]
        return AdmissionStatus(
            founder=self.root.founder,
            role=self._own_role,
            seconds_left=None if self._own is None else max(0.0, self._own.not_after - now),
            admitted=tuple(sorted(listed, key=lambda a: a.peer)),
            revoked=len(self._revocations.entries()),
            refused=dict(self.refused),
        )


def _life(held: Held) -> int:
    return ISSUER_SECONDS if held.last.role is Role.ISSUER else TICKET_SECONDS


def _holder(peer: str) -> bytes:
    try:
        holder = peer_from_text(peer)
    except ValueError:
        holder = b""
    if len(holder) != 38:
        raise ConfigError("peer", peer, "the id of a peer, which begins with 12D3KooW")
    return holder


def _is_serial(what: str) -> bool:
    return len(what) == 32 and all(c in "0123456789abcdef" for c in what)


def _entry(peer: str) -> bytes:
    _holder(peer)
    return hash_of(peer)
