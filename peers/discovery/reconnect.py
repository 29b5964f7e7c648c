"""Finds again the peers that were lost from sight: after a partition nothing else does.

hivemind's routing tables empty themselves in a partition and never recover from it on their own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from p2p_elastic.errors import DirectoryError, PartnerUnreachable
from p2p_elastic.protocol.records import PeerRecord

log = logging.getLogger(__name__)
SEEK_SECONDS = 3.0
SEEK_AT_ONCE = 8
NEIGHBOURS_ENOUGH, SOUGHT_SHARE = 32, 0.1  # with so many, one is sought in this share of the rounds: no full mesh
PAUSE_GROWTH = 1.5
PAUSE_ALONE_MAX, PAUSE_MAX, PAUSE_REMEMBERED_MAX = 8.0, 10.0, 120.0  # seconds between two tries of one peer
KNOWN_SECONDS = 3600.0
KNOWN_MAX, REMEMBERED_MAX = 1000, 100
Addresses = Mapping[str, tuple[str, ...]]


class Meeting(Protocol):
    """What `Seeker` needs of the DHT."""

    async def meet(self, peer: str, addresses: tuple[str, ...]) -> None:
        """Connect to a peer, so that both know each other as nodes of the DHT.

        Args:
            peer: the peer id.
            addresses: multiaddrs to dial.

        Raises:
            PartnerUnreachable: if none of them leads to the peer.
            DirectoryError: if the peer is there but is no node of this DHT.
        """

    async def explore(self) -> None:
        """Ask the nodes that are known for those that they know.

        Raises:
            DirectoryError: if the DHT does not answer.
        """

    @property
    def neighbours(self) -> frozenset[str]:
        """The peer ids in the routing table."""


class Known(NamedTuple):
    """Where a member was, and when.

    Attributes:
        addresses: its multiaddrs.
        seen_at: when its record was last seen, in this peer's monotonic seconds.
    """

    addresses: tuple[str, ...]
    seen_at: float


class Tries(NamedTuple):
    """How often in a row a peer was not there.

    Attributes:
        failures: tries that failed since it was met last.
        last_at: when it was tried last, in this peer's monotonic seconds.
    """

    failures: int
    last_at: float


class Seeker:
    """Knows where peers were and meets those that are not neighbours (any more), a few at a time.

    Args:
        entries: the DHT.
        rng: draws which peer to try, and when.

    Attributes:
        hidden: peers that are not to be met, since others cannot dial them; they come by themselves.
    """

    def __init__(self, entries: Meeting, rng: random.Random) -> None:
        self._entries, self._rng = entries, rng
        self._members: dict[str, Known] = {}
        self._remembered: dict[str, tuple[str, ...]] = {}
        self._initial: Addresses = {}
        self._tries: dict[str, Tries] = {}
        self._meetings: dict[str, asyncio.Task[None]] = {}
        self.hidden: frozenset[str] = frozenset()

    @property
    def known(self) -> dict[str, tuple[str, ...]]:
        """Peer id -> addresses of the members of the last hour, the latest first."""
        return {peer: known.addresses for peer, known in reversed(self._members.items())}

    def note(self, others: Iterable[PeerRecord]) -> None:
        """Keep addresses longer than records live: after a long partition nothing else leads to the other side.

        Args:
            others: the records that the directory has now; a peer that said goodbye is forgotten.
        """
        now = asyncio.get_running_loop().time()
        known = {peer: k for peer, k in self._members.items() if now - k.seen_at < KNOWN_SECONDS}
        for record in others:
            if record.left:
                known.pop(record.peer, None)
                self._remembered.pop(record.peer, None)
            elif record.addresses:
                known.pop(record.peer, None)  # the newest last
                known[record.peer] = Known(record.addresses, now)
        self._members = dict(list(known.items())[-KNOWN_MAX:])

    def remember(self, addresses: Addresses) -> None:
        """Seek further peers, which an earlier life of this peer met; the last REMEMBERED_MAX of them.

        Args:
            addresses: peer id -> addresses.
        """
        self._remembered = dict(list({**self._remembered, **addresses}.items())[-REMEMBERED_MAX:])

    def forget_remembered(self) -> None:
        """Seek the peers of an earlier life no more."""
        self._remembered = {}

    def seek_too(self, initial: Addresses) -> None:
        """Seek the initial peers, too, while attached; otherwise the directory tries them itself.

        Args:
            initial: peer id -> addresses.
        """
        self._initial = initial

    async def run(self) -> None:
        """For ever: meet known peers that are no neighbours. When one turns up, all are tried at once."""
        before = self._entries.neighbours
        try:
            while True:
                neighbours = self._entries.neighbours
                if neighbours - before and self._lost():
                    await self._explore()
                    self._tries.clear()
                before = neighbours
                self._begin_meetings()
                await asyncio.sleep(SEEK_SECONDS * self._rng.uniform(0.7, 1.0))
        finally:
            for task in self._meetings.values():
                task.cancel()

    async def try_remembered(self) -> bool:
        """Try the peers of an earlier life, a few at once in random order, until one is there.

        Returns:
            True if one was.
        """
        peers = sorted(self._remembered)
        self._rng.shuffle(peers)
        for first in range(0, len(peers), SEEK_AT_ONCE):
            if any(await asyncio.gather(*map(self._meet, peers[first : first + SEEK_AT_ONCE]))):
                await self._explore()
                return True
        return False

    def _lost(self) -> list[str]:
        initial = self._initial if self._entries.neighbours else {}
        return sorted({*initial, *self._remembered, *self._members} - self._entries.neighbours - self.hidden)

    def _begin_meetings(self) -> None:
        self._meetings = {peer: task for peer, task in self._meetings.items() if not task.done()}
        lost = self._lost()
        self._tries = {peer: tries for peer, tries in self._tries.items() if peer in lost}
        due = [peer for peer in lost if peer not in self._meetings and self._is_due(peer)]
        at_once = SEEK_AT_ONCE
        if len(self._entries.neighbours) >= NEIGHBOURS_ENOUGH:  # some all the same, or a partition would not end
            at_once = int(self._rng.random() < SOUGHT_SHARE)
        for peer in self._rng.sample(due, max(0, min(at_once - len(self._meetings), len(due)))):
            # Not awaited: one that is silent for long must not hold up the others.
            self._meetings[peer] = asyncio.ensure_future(self._seek(peer))

    def _is_due(self, peer: str) -> bool:
        tries = self._tries.get(peer)
        if tries is None:
            return True
        longest = PAUSE_REMEMBERED_MAX if peer not in self._members else PAUSE_MAX
        longest = longest if self._entries.neighbours or peer not in self._members else PAUSE_ALONE_MAX
        pause = min(SEEK_SECONDS * PAUSE_GROWTH ** min(tries.failures - 1, 20), longest)
        return asyncio.get_running_loop().time() - tries.last_at >= pause * self._rng.uniform(0.8, 1.0)

    async def _seek(self, peer: str) -> None:
        if await self._meet(peer):
            await self._explore()

    async def _meet(self, peer: str) -> bool:
        known = self._members.get(peer)
        addresses = known.addresses if known else self._remembered.get(peer) or self._initial.get(peer) or ()
        now, failures = asyncio.get_running_loop().time(), self._tries.get(peer, Tries(0, 0.0)).failures
        self._tries[peer] = Tries(failures + 1, now)
        try:
            await self._entries.meet(peer, addresses)
        except (PartnerUnreachable, DirectoryError) as error:
            log.debug("meeting %s: %s", peer, error)
            return False
        self._tries.pop(peer, None)
        return True

    async def _explore(self) -> None:
        try:
            await self._entries.explore()
        except DirectoryError as error:
            log.info("exploring the DHT: %s", error)
