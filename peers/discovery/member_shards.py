"""The entries of a run's members: under one key, and under further ones once that is full."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from p2p_elastic.peers.discovery.dht_keys import FIRST_KEY_MEMBERS, SHARDS, Entries, Shown, members_key, shard_of
from p2p_elastic.protocol.limits import VIEW_MAX

EMPTY_LOOKS = 4  # of which one reads a shard that was empty


class MemberShards:
    """Where a peer announces itself, and what it reads of the others.

    Args:
        entries: the DHT.
        own: this peer's id.

    Attributes:
        wanted: peer ids of members that each look is to show.
        count: how many members there are about, by the last look.
    """

    def __init__(self, entries: Entries, own: str) -> None:
        self._entries, self._own = entries, own
        self._shard = 0  # under which this peer announces itself
        self._looked: Mapping[str, bytes] | None = None  # this peer's entry in the last look; None: there was none yet
        self._empty: dict[int, int] = {}  # further shard that was empty -> looks since then
        self.wanted: Collection[str] = ()
        self.count = 0

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

    async def look(self, run: str, near: Collection[str] = ()) -> list[Shown]:
        """Read the entries of the members; of many, a sample.

        Args:
            run: the run's name.
            near: peer ids of members that are to be among them, if there is room beside those that are wanted.

        Returns:
            Those of each shard.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        wanted = tuple(dict.fromkeys((*self.wanted, *near)))
        shards = [await self._entries.look(members_key(run), wanted)]
        if shards[0].in_all >= FIRST_KEY_MEMBERS // 2:
            shards += await asyncio.gather(*(self._look(run, shard, wanted) for shard in range(1, SHARDS + 1)))
        else:
            self._shard = 0  # the swarm shrank: come back to the key that everybody reads
        self.count = sum(shard.in_all for shard in shards)
        self._looked = next(filter(None, (self._mine(shard.bodies) for shard in shards)), {})
        return shards

    async def _look(self, run: str, shard: int, wanted: Collection[str]) -> Shown:
        """Read a further shard; one that was empty only now and then."""
        self._empty[shard] = (self._empty[shard] + 1) % EMPTY_LOOKS if shard in self._empty else 0
        if self._empty[shard] and shard != self._shard:
            return Shown({}, 0)
        of_shard = [peer for peer in wanted if shard_of(peer) == shard]
        found = await self._entries.look(members_key(run, shard), of_shard, VIEW_MAX // SHARDS)
        if found.bodies:
            del self._empty[shard]
        return found

    def _mine(self, entries: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {self._own: entries[self._own]} if self._own in entries else {}
