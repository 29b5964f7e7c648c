"""The keys in the DHT of runs and members, and what the directory needs of the DHT."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.discovery.reconnect import Meeting
from p2p_elastic.protocol.limits import VIEW_MAX

NAMESPACE = "p2p-elastic/1"
RUNS_KEY = f"{NAMESPACE}/runs"
FIRST_KEY_MEMBERS = 500  # after that newcomers announce under one of SHARDS further keys (a key holds about 1,000)
SHARDS = 16
KEEPERS = 3  # members besides the founder that keep the run manifest alive


class Shown(NamedTuple):
    """Entries under a key.

    Attributes:
        bodies: peer id -> body, of those that are shown.
        in_all: how many there are, as far as is known.
    """

    bodies: Mapping[str, bytes]
    in_all: int


class Entries(Meeting, Protocol):
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


def members_key(run: str, shard: int = 0) -> str:
    """Name the key under which members announce themselves.

    Args:
        run: the run's name.
        shard: 0 for the first key; 1 to SHARDS for the others, once that is full.

    Returns:
        The key.

    Example:
        >>> members_key("digits")
        'p2p-elastic/1/run/digits/members/0'
    """
    return f"{NAMESPACE}/run/{run}/members/{shard}"


def shard_of(peer: str) -> int:
    """Choose the further shard of a peer.

    Args:
        peer: the peer id.

    Returns:
        1 to SHARDS, always the same for one id.
    """
    return 1 + hashlib.sha256(peer.encode()).digest()[0] % SHARDS


def is_keeper(peer: str, others: frozenset[str]) -> bool:
    """Whether a peer is among the KEEPERS that republish the manifest: the first by hash, everywhere the same.

    Args:
        peer: the peer id asked about.
        others: the ids of the other members, without the founder, which keeps it anyway.

    Returns:
        True if fewer than KEEPERS of the others come before it.

    Example:
        >>> is_keeper("a", frozenset("bc"))
        True
    """
    ranked = sorted({peer, *others}, key=lambda p: hashlib.sha256(p.encode()).digest())
    return peer in ranked[:KEEPERS]
