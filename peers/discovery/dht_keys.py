"""The keys in the DHT of runs and members, and what the directory needs of the DHT."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.discovery.reconnect import Meeting
from p2p_elastic.protocol.limits import VIEW_MAX

NAMESPACE = "p2p-elastic/1"
RUNS_KEY = f"{NAMESPACE}/runs"
SHARD_MEMBERS = VIEW_MAX  # at most, on average
PLACES_KEPT = 2**14  # of all ids that are seen, at each look
KEEPERS = 3  # members besides the founder that keep the run manifest alive; of many twice as many, on average


class Shown(NamedTuple):
    """Entries under a key.

    Attributes:
        bodies: peer id -> body, of those that are shown.
        in_all: how many there are, as far as is known.
    """

    bodies: Mapping[str, bytes]
    in_all: int


class Looking(Protocol):
    """What reads a table of signed entries."""

    async def get(self, key: str) -> Mapping[str, bytes]:
        """Read all entries under a key.

        Args:
            key: where.

        Returns:
            Peer id -> body; the signature of each was checked.

        Raises:
            DirectoryError: if the DHT does not answer.
        """

    async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
        """Read the entries under a key again and again: cheaper than `get`, and for some seconds behind it at times.

        Args:
            key: where.
            wanted: peer ids whose entries are wanted in any case.
            most: how many entries are wanted; of more than that a sample is shown.

        Returns:
            What there is; the signature of each entry was checked.

        Raises:
            DirectoryError: if the DHT does not answer.
        """


class Entries(Looking, Meeting, Protocol):
    """What the directory needs of the DHT: a table of signed entries; `SignedDHT` is it."""

    async def put(self, key: str, body: bytes, seconds: float) -> None:
        """Store this peer's entry under a key; it replaces the earlier one.

        Args:
            key: where.
            body: what to store.
            seconds: how long it lives.

        Raises:
            DirectoryError: if no node takes it.
        """

    def hide(self, peers: frozenset[str]) -> None:
        """Leave peers that others cannot dial out of the routing table.

        Args:
            peers: their ids; others that were left out so far may come back.
        """

    @property
    def refused(self) -> int:
        """How many records were refused so far."""

    @property
    def introductions(self) -> Introductions | None:
        """By which members of a private run let each other in; None: the run is open."""


def members_key(run: str, level: int = 0, shard: int = 0) -> str:
    """Name the key under which members announce themselves.

    Args:
        run: the run's name.
        level: k, of 2^k shards.
        shard: 0 to 2^k - 1.

    Returns:
        The key.

    Example:
        >>> members_key("digits"), members_key("digits", 4, 11)
        ('p2p-elastic/1/run/digits/members/0', 'p2p-elastic/1/run/digits/members/4/11')
    """
    return f"{NAMESPACE}/run/{run}/members/" + (f"{level}/{shard}" if level else "0")


def best_key(run: str, number: int = 0) -> str:
    """Name a key under which those are that others look for first.

    Args:
        run: the run's name.
        number: which one of several; the first is that of a run with one key only.

    Returns:
        The key.

    Example:
        >>> best_key("digits"), best_key("digits", 2)
        ('p2p-elastic/1/run/digits/members/0', 'p2p-elastic/1/run/digits/members/best/2')
    """
    return f"{NAMESPACE}/run/{run}/members/best/{number}" if number else members_key(run)


def group_key(run: str, group: str) -> str:
    """Name the key under which those of a group are that its members look for first, in a large run.

    Args:
        run: the run's name.
        group: the group's.

    Returns:
        The key.

    Example:
        >>> group_key("digits", "lab")
        'p2p-elastic/1/run/digits/members/group/lab'
    """
    return f"{NAMESPACE}/run/{run}/members/group/{group}"


def level_of(size: float) -> int:
    """Choose the number of shards of a run.

    Args:
        size: how many members it has, about.

    Returns:
        k, of 2^k shards, each of at most SHARD_MEMBERS members on average.

    Example:
        >>> [level_of(size) for size in (1, 64, 65, 128, 129, 10_000)]
        [0, 0, 1, 1, 2, 8]
    """
    return max(0, math.ceil(math.log2(max(1.0, size) / SHARD_MEMBERS)))


@lru_cache(maxsize=PLACES_KEPT)
def place_of(peer: str) -> float:
    """Choose the place of a peer among all that there may be.

    Args:
        peer: the peer id.

    Returns:
        0 to below 1, by its hash.
    """
    return int.from_bytes(hashlib.sha256(peer.encode()).digest()[:6], "big") / 2**48


def shard_of(peer: str, level: int) -> int:
    """Choose the shard of a peer.

    Args:
        peer: the peer id.
        level: k, of 2^k shards.

    Returns:
        0 to 2^k - 1, the first k bits of its place.

    Example:
        >>> shard_of("peer", 0), shard_of("peer", 3) == shard_of("peer", 5) >> 2
        (0, True)
    """
    return int(place_of(peer) * 2**level)


def is_keeper(peer: str, others: frozenset[str], count: int) -> bool:
    """Whether a peer is among the KEEPERS that republish the manifest: the first by hash, everywhere the same.

    Args:
        peer: the peer id asked about.
        others: the ids of the other members that are seen, without the founder, which keeps it anyway.
        count: how many members there are, about.

    Returns:
        True if fewer than KEEPERS of the others come before it; if not all are seen, if its place is among the first
        2 KEEPERS of `count` members, on average.

    Example:
        >>> is_keeper("a", frozenset("bc"), 3)
        True
    """
    if count > SHARD_MEMBERS:
        return place_of(peer) * count < 2 * KEEPERS
    return sum(place_of(other) < place_of(peer) for other in others) < KEEPERS
