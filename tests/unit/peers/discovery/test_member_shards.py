"""Which keys are read for the members of a run, and how often."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping

from helpers.directories import Node, Table

from p2p_elastic.peers.discovery.dht_keys import FIRST_KEY_MEMBERS, SHARDS, Shown, members_key, shard_of
from p2p_elastic.peers.discovery.member_shards import EMPTY_LOOKS, MemberShards
from p2p_elastic.protocol.limits import VIEW_MAX


class Counting(Node):
    """Counts what is read under each key."""

    def __init__(self, table: Table) -> None:
        super().__init__(table, "me")
        self.looks, self.gets = Counter[str](), Counter[str]()
        self.wanted: dict[str, tuple[str, ...]] = {}

    async def get(self, key: str) -> Mapping[str, bytes]:
        self.gets[key] += 1
        return await super().get(key)

    async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
        self.looks[key] += 1
        self.wanted[key] = tuple(wanted)
        bodies = await super().get(key)
        return Shown(dict(list(bodies.items())[:most]), len(bodies))


def test_a_small_run_has_one_key_and_a_look_shows_the_own_entry_too() -> None:
    async def main() -> None:
        node = Counting(Table())
        shards = MemberShards(node, "me")
        await shards.choose("run")
        await node.put(shards.key("run"), b"mine", 60.0)
        for _ in range(3):
            assert await shards.look("run") == [Shown({"me": b"mine"}, 1)]
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


def test_all_members_are_counted_and_those_wanted_are_asked_for_where_they_are() -> None:
    async def main() -> None:
        table = Table()
        node = Counting(table)
        for number in range(FIRST_KEY_MEMBERS + 300):
            peer = f"p{number}"
            table.put(members_key("run", 0 if number < FIRST_KEY_MEMBERS else shard_of(peer)), peer, b"")
        shards = MemberShards(node, "me")
        shards.wanted = ("p1", "p700")
        shown = await shards.look("run", near=("p2", "p1"))
        assert shards.count == FIRST_KEY_MEMBERS + 300
        assert len(shown) == 1 + SHARDS
        assert node.wanted[members_key("run")] == ("p1", "p700", "p2")
        for shard in range(1, SHARDS + 1):
            here = [peer for peer in ("p1", "p700", "p2") if shard_of(peer) == shard]
            assert node.wanted[members_key("run", shard)] == tuple(here)
        assert sum(len(one.bodies) for one in shown) <= 2 * VIEW_MAX

    asyncio.run(main())
