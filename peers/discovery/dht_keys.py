"""Where the directory keeps what in the DHT: the keys of runs and members."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

NAMESPACE = "p2p-elastic/1"
RUNS_KEY = f"{NAMESPACE}/runs"
FIRST_KEY_MEMBERS = 500  # beyond so many, newcomers announce under one of SHARDS further keys (a key holds about 1,000)
SHARDS = 16
KEEPERS = 3  # members besides the founder that keep the run manifest alive


class Entries(Protocol):
    """What the directory needs of the DHT; `SignedDHT` is it."""

    async def put(self, key: str, body: bytes, seconds: float) -> None: ...

    async def get(self, key: str) -> Mapping[str, bytes]: ...

    async def meet(self, peer: str, addresses: tuple[str, ...]) -> None: ...

    async def explore(self) -> None: ...

    @property
    def neighbours(self) -> frozenset[str]: ...

    @property
    def refused(self) -> int: ...


def members_key(run: str, shard: int = 0) -> str:
    """Where members announce themselves; shard 0 first, 1..SHARDS once that is full."""
    return f"{NAMESPACE}/run/{run}/members/{shard}"


def shard_of(peer: str) -> int:
    """The further shard of a peer, 1..SHARDS."""
    return 1 + hashlib.sha256(peer.encode()).digest()[0] % SHARDS


def is_keeper(peer: str, others: frozenset[str]) -> bool:
    """Whether this peer is among the KEEPERS that republish the manifest: the first by hash, everywhere the same."""
    ranked = sorted({peer, *others}, key=lambda p: hashlib.sha256(p.encode()).digest())
    return peer in ranked[:KEEPERS]
