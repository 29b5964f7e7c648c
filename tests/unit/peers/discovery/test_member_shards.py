"""Where the members of runs of any size announce themselves, and what each of them reads."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from helpers.directories import Node, Table
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.peers.discovery.dht_keys import (
    KEEPERS,
    SHARD_MEMBERS,
    Shown,
    best_key,
    group_key,
    is_keeper,
    level_of,
    members_key,
    place_of,
    shard_of,
)
from p2p_elastic.peers.discovery.member_shards import ANCHORS, BEST_SHOWN, LINGER, LOOKS_TO_MOVE, MemberShards
from p2p_elastic.protocol.limits import MEMBERS_MAX, VIEW_MAX
from p2p_elastic.testing.virtual_time import run_virtual

ANNOUNCE_SECONDS, LOOK_SECONDS = 5.0, 3.0


def body_of(loss: float | None = None, about: int | None = None, **facts: object) -> bytes:
    """As pydantic writes a record."""
    said = {"loss": loss, "about": about, **facts}
    fields = ",".join(f'"{key}":{value}' for key, value in said.items() if value is not None)
    return f"{{{fields}}}".encode()


class Counting(Node):
    """Counts what is read under each key."""

    def __init__(self, table: Table, peer: str = "me") -> None:
        super().__init__(table, peer)
        self.looks, self.gets = Counter[str](), Counter[str]()
        self.wanted: dict[str, tuple[str, ...]] = {}

    async def get(self, key: str) -> Mapping[str, bytes]:
        self.gets[key] += 1
        return await super().get(key)

    async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
        self.looks[key] += 1
        self.wanted[key] = tuple(wanted)
        shown = await super().look(key, wanted, most)
        self.gets[key] -= 1
        return shown


def test_a_small_run_has_one_key_and_a_look_shows_the_own_entry_too() -> None:
    async def main() -> None:
        node = Counting(Table())
        shards = MemberShards(node, "me")
        await shards.choose("run")
        assert shards.keys("run", b"{}") == (members_key("run"),)
        await node.put(members_key("run"), b"mine", 60.0)
        for _ in range(3):
            assert await shards.look("run") == [Shown({"me": b"mine"}, 1)]
            assert await shards.own("run") == {"me": b"mine"}
        assert +node.gets == {}
        await shards.own("run")  # a second time since the last look
        assert +node.gets == {members_key("run"): 1}
        assert node.looks == {members_key("run"): 4}  # and one to choose it
        assert shards.count == 1

    asyncio.run(main())


def test_up_to_64_members_all_are_seen_and_counted() -> None:
    async def main() -> None:
        table = Table()
        for number in range(VIEW_MAX):
            table.put(members_key("run"), f"p{number}", b"{}")
        shards = MemberShards(Counting(table), "p0")
        await shards.choose("run")
        for _ in range(4):
            (shown,) = await shards.look("run")
            assert len(shown.bodies) == shards.count == VIEW_MAX

    asyncio.run(main())


def large(members: int, level: int, own: str = "me") -> tuple[Table, Counting]:
    """A run whose members know how many they are, and announce themselves as they should."""
    table = Table()
    for number in range(members):
        peer, body = f"p{number}", body_of(loss=1.0 + number, about=members)
        table.put(members_key("run", level, shard_of(peer, level)), peer, body)
        if number < ANCHORS:
            table.put(best_key("run"), peer, body)
    return table, Counting(table, own)


def test_whoever_comes_into_a_large_run_learns_of_its_size_at_the_first_key() -> None:
    async def main() -> None:
        _, node = large(750, 4)
        shards = MemberShards(node, "me")
        await shards.choose("run")
        assert shards.count == 750
        own = members_key("run", 4, shard_of("me", 4))
        assert own in shards.keys("run", body_of(loss=10**6))
        for _ in range(10):
            view = await shards.look("run")
        assert 480 < shards.count < 1180
        shown = {peer for one in view for peer in one.bodies}
        assert VIEW_MAX - 10 <= len(shown) <= VIEW_MAX + BEST_SHOWN
        assert {f"p{number}" for number in range(BEST_SHOWN)} <= shown  # the lowest losses
        read = {key for key in node.looks if node.looks[key] > 1}
        assert len(read) == 3  # the own shard, another one, and the best
        assert {own, best_key("run")} < read

    asyncio.run(main())


def test_wanted_members_are_shown_by_the_shard_that_they_are_in() -> None:
    async def main() -> None:
        _, node = large(750, 4)
        shards = MemberShards(node, "me")
        await shards.choose("run")
        shards.wanted = tuple(f"p{number}" for number in range(500, 520))
        for _ in range(2):
            view = await shards.look("run", near=("p600", "p501"))
        shown = {peer for one in view for peer in one.bodies}
        for key, wanted in node.wanted.items():
            if key.endswith("members/0"):
                continue
            assert set(wanted) <= shown
            assert {shard_of(peer, 4) for peer in wanted} <= {int(key.rsplit("/", 1)[1])}

    asyncio.run(main())


def test_those_that_a_peer_has_to_do_with_are_not_lost_in_a_flood_of_records() -> None:
    async def main() -> None:
        table, node = large(750, 4)
        friends = [f"friend {number}" for number in range(5)]
        for peer in friends:
            table.put(members_key("run", 4, shard_of(peer, 4)), peer, body_of(about=750))
        shards = MemberShards(node, "me")
        await shards.choose("run")
        shards.wanted = friends
        for _ in range(5):
            view = await shards.look("run")
        assert set(friends) <= {peer for one in view for peer in one.bodies}
        assert max(node.looks.values()) <= 6
        shards.wanted = ()
        view = await shards.look("run")
        assert len(view) == 3

    asyncio.run(main())


def test_the_best_announce_themselves_where_all_look_and_others_do_not() -> None:
    async def main() -> None:
        _, node = large(750, 4, own="p749")
        assert place_of("p749") * 750 > ANCHORS
        shards = MemberShards(node, "p749")
        await shards.choose("run")
        await shards.look("run")
        ordinary = shards.keys("run", body_of(loss=500.0))
        assert all("/members/4/" in key or "/members/5/" in key for key in ordinary)
        assert best_key("run") in shards.keys("run", body_of(loss=0.5))
        assert best_key("run") in shards.keys("run", body_of(loss=500.0, centre='{"seated":false}'))

    asyncio.run(main())


def test_the_best_of_a_group_announce_themselves_where_its_members_look() -> None:
    async def main() -> None:
        table, node = large(750, 4, own="p749")
        for number in range(10):
            table.put(group_key("run", "lab"), f"p{700 + number}", body_of(loss=700.0 + number, about=750))
        shards = MemberShards(node, "p749")
        await shards.choose("run")
        assert group_key("run", "lab") not in shards.keys("run", body_of(loss=900.0))
        shards.keys("run", body_of(loss=900.0), "lab")
        view = await shards.look("run")
        assert {f"p{700 + number}" for number in range(BEST_SHOWN)} <= {peer for one in view for peer in one.bodies}
        for _ in range(LINGER):
            assert group_key("run", "lab") in shards.keys("run", body_of(loss=650.0), "lab")
        keys = shards.keys("run", body_of(loss=650.0), "lab")
        assert group_key("run", "lab") in keys
        assert best_key("run") not in keys  # in all of the run there are better ones

    asyncio.run(main())


async def in_a_run_of(members: int) -> MemberShards:
    """Shards of a peer that has just found out how many members there are."""
    table = Table()
    for number in range(min(members, VIEW_MAX)):
        table.put(members_key("run"), f"p{number}", body_of(about=members if members > VIEW_MAX else None))
    shards = MemberShards(Counting(table), "me")
    await shards.choose("run")
    return shards


def test_near_a_number_of_members_at_which_the_shards_change_both_have_a_peer() -> None:
    for members, levels in ((50, {0}), (60, {0, 1}), (75, {0, 1}), (100, {1}), (125, {1, 2}), (150, {1, 2})):
        shards = asyncio.run(in_a_run_of(members))
        keys = shards.keys("run", body_of(loss=1.0))
        found = {0 if key == members_key("run") else int(key.split("/")[-2]) for key in keys}
        assert found >= levels
        assert found - levels <= {0}


def test_of_thousands_the_best_have_several_keys() -> None:
    shards = asyncio.run(in_a_run_of(5000))
    keys = shards.keys("run", body_of(loss=0.0))
    assert {best_key("run", number) for number in range(6)} < set(keys)


def test_a_liar_changes_what_is_believed_by_little() -> None:
    async def main() -> None:
        table, node = large(750, 4)
        for number in range(0, 750, 5):
            peer = f"p{number}"
            table.put(members_key("run", 4, shard_of(peer, 4)), peer, body_of(about=MEMBERS_MAX if number % 2 else 1))
        shards = MemberShards(node, "me")
        await shards.choose("run")
        for _ in range(20):
            await shards.look("run")
        assert 480 < shards.count < 1180

    asyncio.run(main())


def test_a_node_that_lies_about_how_many_there_are_moves_nobody() -> None:
    class Lying(Counting):
        async def look(self, key: str, wanted: Collection[str] = (), most: int = VIEW_MAX) -> Shown:
            shown = await super().look(key, wanted, most)
            return Shown(shown.bodies, MEMBERS_MAX) if self.looks[key] % 3 == 0 else shown

    async def main() -> None:
        table = Table()
        for number in range(20):
            table.put(members_key("run"), f"p{number}", b"{}")
        node = Lying(table)
        shards = MemberShards(node, "me")
        await shards.choose("run")
        for _ in range(20):
            (shown,) = await shards.look("run")
            assert len(shown.bodies) == 20
            assert shards.keys("run", b"{}")[0] == members_key("run")
        assert set(node.looks) == {members_key("run")}

    asyncio.run(main())


def test_whoever_is_under_the_key_of_another_shard_is_not_seen_there() -> None:
    async def main() -> None:
        table, node = large(750, 4)
        own, strangers = shard_of("me", 4), [f"s{number}" for number in range(60)]
        for peer in strangers:
            table.put(members_key("run", 4, own), peer, body_of(about=MEMBERS_MAX))
        shards = MemberShards(node, "me")
        await shards.choose("run")
        seen = {peer for _ in range(10) for one in await shards.look("run") for peer in one.bodies}
        assert {peer for peer in strangers if peer in seen} <= {s for s in strangers if shard_of(s, 4) == own}
        assert 480 < shards.count < 1180

    asyncio.run(main())


def test_many_under_the_first_key_that_claim_a_large_run_make_none() -> None:
    async def main() -> None:
        table = Table()
        for number in range(60):
            honest = number >= 40
            said = body_of(loss=1.0) if honest else body_of(loss=0.0, about=MEMBERS_MAX, centre='{"seated":true}')
            table.put(members_key("run"), f"{'p' if honest else 'liar'}{number}", said)
        for at in range(40):  # and the anchors of a run of 750
            peer = min((f"a{at} {number}" for number in range(40)), key=place_of)
            table.put(members_key("run"), peer, body_of(loss=2.0, about=750))
        shards = MemberShards(Counting(table), "me")
        await shards.choose("run")
        assert shards.count == 750

    asyncio.run(main())


# ---------------------------------------------------------------- whole swarms


class Swarm:
    """The shards of many peers, each of which announces itself and looks."""

    def __init__(self) -> None:
        self.table, self.views = Table(), dict[str, set[str]]()
        self.shards: dict[str, MemberShards] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, peer: str, phase: float) -> None:
        self.tasks[peer] = asyncio.ensure_future(self._live(peer, phase))

    async def _live(self, peer: str, phase: float) -> None:
        await asyncio.sleep(phase)
        node = Node(self.table, peer)
        shards = MemberShards(node, peer)
        await shards.choose("run")
        self.shards[peer] = shards

        async def announce() -> None:
            while True:
                body = body_of(loss=1.0 + place_of(peer), about=shards.count if shards.count > VIEW_MAX else None)
                for key in shards.keys("run", body):
                    self.table.put(key, peer, body, seconds=20.0)
                await asyncio.sleep(ANNOUNCE_SECONDS)

        async def look() -> None:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                shown = await shards.look("run")
                self.views[peer] = {other for one in shown for other in one.bodies if other != peer}

        await asyncio.gather(announce(), look())

    async def end(self, *peers: str) -> None:
        for peer in peers:
            self.tasks[peer].cancel()
            self.shards.pop(peer, None)
            self.views.pop(peer, None)
        await asyncio.gather(*(self.tasks.pop(peer) for peer in peers), return_exceptions=True)

    def check(self, tolerance: float = 1.4) -> None:
        """All know about how many they are, see a view's worth of members that are there, and are one component."""
        members = len(self.shards)
        assert self.views.keys() == self.shards.keys()
        for shards in self.shards.values():
            assert members / tolerance < shards.count < members * tolerance
        seen = Counter(other for view in self.views.values() for other in view)
        assert seen.keys() == self.shards.keys()  # each is seen by somebody, and nobody else is
        assert min(map(len, self.views.values())) >= min(members - 1, 16)
        assert statistics.median(map(len, self.views.values())) >= min(members - 1, VIEW_MAX - 16)
        assert max(map(len, self.views.values())) <= VIEW_MAX + BEST_SHOWN
        met, todo = set[str](), [next(iter(self.views))]
        while todo:
            peer = todo.pop()
            if peer not in met:
                met.add(peer)
                todo += self.views[peer]
        assert len(met) == members


def in_a_swarm(test: Any) -> None:
    async def main() -> None:
        swarm = Swarm()
        try:
            await test(swarm)
        finally:
            await swarm.end(*swarm.tasks)

    run_virtual(main())


@pytest.mark.parametrize("within", [0.0, 30.0])
def test_two_hundred_that_begin_together_find_each_other(within: float) -> None:
    async def test(swarm: Swarm) -> None:
        for number in range(200):
            swarm.begin(f"p{number}", place_of(f"q{number}") * within)
        await asyncio.sleep(within + 45.0)
        swarm.check()
        assert {level_of(shards.count) for shards in swarm.shards.values()} <= {2}

    in_a_swarm(test)


def test_a_swarm_that_loses_nine_of_ten_members_comes_back_to_one_key() -> None:
    async def test(swarm: Swarm) -> None:
        for number in range(300):
            swarm.begin(f"p{number}", 0.0)
        await asyncio.sleep(50.0)
        swarm.check()
        await swarm.end(*(f"p{number}" for number in range(300) if number % 10))
        await asyncio.sleep(80.0 + LINGER * ANNOUNCE_SECONDS)
        swarm.check()
        assert {shards.count for shards in swarm.shards.values()} == {30}
        assert {shards.keys("run", b"{}") for shards in swarm.shards.values()} == {(members_key("run"),)}

    in_a_swarm(test)


def test_the_lowest_losses_are_seen_by_all() -> None:
    async def test(swarm: Swarm) -> None:
        for number in range(200):
            swarm.begin(f"p{number}", 0.0)
        await asyncio.sleep(60.0)
        best = sorted(swarm.views, key=place_of)[: BEST_SHOWN - 1]
        for peer, view in swarm.views.items():
            assert set(best) <= view | {peer}

    in_a_swarm(test)


# ---------------------------------------------------------------- keys


@given(peer=st.text("abcdef123", min_size=1, max_size=40), level=st.integers(0, 14))
def test_the_shard_of_a_peer_is_part_of_the_one_before(peer: str, level: int) -> None:
    assert 0 <= shard_of(peer, level) < 2**level
    assert shard_of(peer, level + 1) >> 1 == shard_of(peer, level)


@given(size=st.floats(1.0, MEMBERS_MAX))
def test_shards_are_neither_empty_nor_large(size: float) -> None:
    level = level_of(size)
    assert size / 2**level <= SHARD_MEMBERS
    assert level == 0 or size / 2**level > SHARD_MEMBERS / 2


def test_some_keep_the_manifest_however_many_there_are() -> None:
    for members in (1, 2, 10, SHARD_MEMBERS, SHARD_MEMBERS + 1, 1000, 10_000):
        peers = [f"p{number}" for number in range(members)]
        view = frozenset(peers[:VIEW_MAX])
        keepers = sum(is_keeper(peer, view - {peer}, members) for peer in peers)
        assert min(members, KEEPERS) <= keepers <= 4 * KEEPERS


def test_looks_at_one_k_are_needed_before_another_is_believed() -> None:
    async def main() -> None:
        table, node = Table(), Counting(Table())
        node = Counting(table)
        shards = MemberShards(node, "me")
        await shards.choose("run")
        for number in range(200):
            table.put(members_key("run"), f"p{number}", b"{}")
        for _ in range(LOOKS_TO_MOVE):
            assert set(node.looks) == {members_key("run")}
            await shards.look("run")
        await shards.look("run")
        assert members_key("run", level_of(200), shard_of("me", level_of(200))) in node.looks

    asyncio.run(main())
