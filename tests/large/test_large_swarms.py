"""A thousand peers in virtual time: each costs what its view costs, and nothing that it judges grows with the swarm."""

from __future__ import annotations

import asyncio

from helpers.swarm import following_at
from helpers.topologies import LSGD
from large.virtual_swarm import ANNOUNCE_SECONDS, Large, in_a_large_swarm, until

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


def test_a_new_leader_is_followed_by_all_of_hundreds_within_seconds() -> None:
    async def test(swarm: Large) -> None:
        await asyncio.sleep(30.0)
        leader = next(name for name, member in swarm.members.items() if member.loss > 1.5)
        swarm.members[leader].loss = 0.1

        def followed() -> bool:
            return all(following_at(member.peer).leader == leader for member in swarm.members.values())

        assert await until(followed, 40.0) is not None

    in_a_large_swarm(test, 200, LSGD)
