"""A thousand peers in virtual time: each costs what its view costs, and nothing that it judges grows with the swarm."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Mapping

from helpers.swarm import following_at
from helpers.topologies import LSGD
from large.hostile_nodes import Member, Nodes, in_a_hostile_swarm
from large.virtual_swarm import ANNOUNCE_SECONDS, Large, in_a_large_swarm, until

from p2p_elastic.peers.discovery.dht_keys import members_key, shard_of
from p2p_elastic.protocol.limits import VIEW_MAX


def test_a_thousand_peers_come_together_and_those_that_are_left_forget_the_dead() -> None:
    async def test(swarm: Large) -> None:
        await asyncio.sleep(15.0)
        before = swarm.variance
        await asyncio.sleep(30.0)
        assert swarm.variance < 0.6 * before
        views = swarm.views
        assert views.parts == 1
        assert VIEW_MAX - 20 < views.sizes[1] <= VIEW_MAX + 8
        assert views.seen_by[0] > 10
        assert views.seen_by[2] < 0.5 * views.seen_by[1]
        assert swarm.partitions == 0

        await swarm.kill(list(swarm.members)[::2])
        await asyncio.sleep(7 * ANNOUNCE_SECONDS)  # suspect after 3 to 6
        views = swarm.views
        assert views.parts == 1
        assert views.dead_links < 0.05
        assert views.seen_by[0] > 3

    in_a_large_swarm(test, 1000)


def test_hostile_nodes_of_the_directory_take_nobody_away_and_make_no_large_swarm() -> None:
    async def test(nodes: Nodes, members: Mapping[str, Member]) -> None:
        await asyncio.sleep(80.0)
        honest = [member for name, member in members.items() if name not in nodes.hostile]
        assert statistics.fmean(member.hostile_share for member in honest) < 0.3
        assert max(member.hostile_share for member in honest) < 0.5
        assert all(100 < member.shards.count < 400 for member in honest)
        seen = Counter(other for member in honest for other in member.view)
        assert min(seen[member.name] for member in honest) > 10
        # All nodes of a shard are theirs, and it heals once they are not.
        nodes.captured = members_key("run", 2, 3)
        await asyncio.sleep(80.0)
        there = [member.hostile_share for member in honest if shard_of(member.name, 2) == 3]
        assert statistics.fmean(there) > 0.4
        nodes.captured = None
        await asyncio.sleep(40.0)
        assert statistics.fmean(member.hostile_share for member in honest) < 0.3

    in_a_hostile_swarm(test, Nodes(200, 0.2, seed=0))


def test_groups_of_hundreds_have_one_leader_each_and_a_new_one_is_followed_within_seconds() -> None:
    async def test(swarm: Large) -> None:
        def leaders(group: int) -> set[str | None]:
            return {following_at(swarm.members[name].peer).leader for name in list(swarm.members)[group::2]}

        await asyncio.sleep(30.0)
        assert [len(leaders(group)) for group in range(2)] == [1, 1]
        before, other = leaders(0), leaders(1)
        leader = next(name for name in list(swarm.members)[::2] if swarm.members[name].loss > 1.5)
        swarm.members[leader].loss = 0.1
        assert await until(lambda: leaders(0) == {leader}, 40.0) is not None
        assert before != {leader}
        assert leaders(1) == other

    in_a_large_swarm(test, 200, LSGD, groups=2)
