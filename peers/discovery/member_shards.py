"""The entries of a run's members: under one key, and under further ones once that is full."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from p2p_elastic.peers.discovery.dht_keys import FIRST_KEY_MEMBERS, SHARDS, Entries, members_key, shard_of

EMPTY_LOOKS = 4  # of which one reads a shard that was empty


class MemberShards:
    """Where a peer announces itself, and what it reads of the others.

    Args:
        entries: the DHT.
        own: this peer's id.
    """

    def __init__(self, entries: Entries, own: str) -> None:
        self._entries, self._own = entries, own
        self._shard = 0  # under which this peer announces itself
        self._looked: Mapping[str, bytes] | None = None  # this peer's entry in the last look; None: there was none yet
        self._empty: dict[int, int] = {}  # further shard that was empty -> looks since then

    def key(self, run: str) -> str:
        """Name the key under which this peer announces itself.

        Args:
            run: the run's name.

        Returns:
            The key.
        """
        return members_key(run, self._shard)

    async def choose(self, run: str) -> None:
        """Choose that key, before the first announcement in a run.

        Args:
            run: the run's name.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        first = await self._entries.get(members_key(run))
        full = len(first) >= FIRST_KEY_MEMBERS and self._own not in first
        self._shard = shard_of(self._own) if full else 0

    async def own(self, run: str) -> Mapping[str, bytes]:
        """Read the entry under this peer's id; if `look` was called since the last time, as it was then.

        Args:
            run: the run's name.

        Returns:
            This peer's id -> body; empty if there is none.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        looked, self._looked = self._looked, None
        return self._mine(await self._entries.get(self.key(run))) if looked is None else looked

    async def look(self, run: str) -> list[Mapping[str, bytes]]:
        """Read the entries of all members.

        Args:
            run: the run's name.

        Returns:
            Peer id -> body, of each shard.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        shards = [await self._entries.look(members_key(run))]
        if len(shards[0]) >= FIRST_KEY_MEMBERS // 2:
            shards += await asyncio.gather(*(self._look(run, shard) for shard in range(1, SHARDS + 1)))
        else:
            self._shard = 0  # the swarm shrank: come back to the key that everybody reads
        self._looked = next(filter(None, map(self._mine, shards)), {})
        return shards

    async def _look(self, run: str, shard: int) -> Mapping[str, bytes]:
        """Read a further shard; one that was empty only now and then."""
        self._empty[shard] = (self._empty[shard] + 1) % EMPTY_LOOKS if shard in self._empty else 0
        if self._empty[shard] and shard != self._shard:
            return {}
        found = await self._entries.look(members_key(run, shard))
        if found:
            del self._empty[shard]
        return found

    def _mine(self, entries: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {self._own: entries[self._own]} if self._own in entries else {}
