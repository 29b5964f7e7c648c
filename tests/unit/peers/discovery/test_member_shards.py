"""Which keys are read for the members of a run, and how often."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from helpers.directories import Node, Table

from p2p_elastic.peers.discovery.dht_keys import FIRST_KEY_MEMBERS, SHARDS, members_key
from p2p_elastic.peers.discovery.member_shards import EMPTY_LOOKS, MemberShards


class Counting(Node):
    """Counts what is read under each key."""

    def __init__(self, table: Table) -> None:
        super().__init__(table, "me")
        self.looks, self.gets = Counter[str](), Counter[str]()

    async def get(self, key: str) -> Mapping[str, bytes]:
        self.gets[key] += 1
        return await super().get(key)

    async def look(self, key: str) -> Mapping[str, bytes]:
        self.looks[key] += 1
        return await super().get(key)


def test_a_small_run_has_one_key_and_a_look_shows_the_own_entry_too() -> None:
    async def main() -> None:
        node = Counting(Table())
        shards = MemberShards(node, "me")
        await shards.choose("run")
        await node.put(shards.key("run"), b"mine", 60.0)
        for _ in range(3):
            assert await shards.look("run") == [{"me": b"mine"}]
            assert await shards.own("run") == {"me": b"mine"}
        assert node.looks == {members_key("run"): 3}
        assert node.gets == {members_key("run"): 1}  # to choose it
        await shards.own("run")  # a second time since the last look
        assert node.gets == {members_key("run"): 2}

    asyncio.run(main())


def test_of_further_keys_those_that_are_empty_are_read_now_and_then() -> None:
    async def main() -> None:
        table = Table()
        node = Counting(table)
        for number in range(FIRST_KEY_MEMBERS):
            table.put(members_key("run"), f"p{number}", b"")
        table.put(members_key("run", 3), "other", b"")
        shards = MemberShards(node, "me")
        for _ in range(2 * EMPTY_LOOKS):
            await shards.look("run")
        expected = {members_key("run", shard): 2 for shard in range(1, SHARDS + 1)}
        full = 2 * EMPTY_LOOKS
        assert node.looks == {**expected, members_key("run"): full, members_key("run", 3): full}

    asyncio.run(main())
