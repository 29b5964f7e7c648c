"""The live directory over a DHT that is a dictionary: records, runs, and the way into the swarm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from helpers.directories import SCHEMA, Fixture, Node, Table, address_of, join, manifest_of, publish
from helpers.private_runs import Member, Time, introducing
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.errors import DirectoryError, PartnerUnreachable
from p2p_elastic.peers.discovery.dht_directory import (
    ATTACH_SECONDS_MAX,
    RECORD_SECONDS,
    DHTDirectory,
    Told,
    fitting,
    restricted,
)
from p2p_elastic.peers.discovery.dht_keys import (
    KEEPERS,
    RUNS_KEY,
    is_keeper,
    members_key,
    shard_of,
)
from p2p_elastic.peers.discovery.explain_address import explain
from p2p_elastic.peers.discovery.member_shards import BEST_SHOWN
from p2p_elastic.peers.discovery.reconnect import (
    NEIGHBOURS_ENOUGH,
    PAUSE_ALONE_MAX,
    PAUSE_MAX,
    PAUSE_REMEMBERED_MAX,
    SEEK_AT_ONCE,
    SEEK_SECONDS,
)
from p2p_elastic.peers.transport.identity import SIGNATURE_BYTES, Identity
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.protocol.records import PARTNERS_TOLD, RECORD_BYTES_MAX, CentreClaim, PeerRecord
from p2p_elastic.protocol.roles import Role
from p2p_elastic.protocol.software import VERSION_CHARACTERS_MAX, Software
from p2p_elastic.status.schema import BootstrapStatus
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

checked = settings(max_examples=60)
LONGEST = Software(version="9" * VERSION_CHARACTERS_MAX, protocol=1000)


def filler(peer: str, sequence: int = 1, run: str = "run", **facts: Any) -> bytes:
    record = PeerRecord(peer=peer, run=run, schema_hash=SCHEMA, sequence=sequence, **facts)
    return record.model_dump_json().encode()


Scenario = Callable[[Table], Awaitable[None]]


def in_virtual_time(scenario: Scenario) -> Callable[[], None]:
    def test() -> None:
        run_virtual(scenario(Table()))  # type: ignore[arg-type]

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


# ---------------------------------------------------------------- members


@in_virtual_time
async def test_peers_of_a_run_see_each_other_with_addresses_but_not_themselves(table: Table) -> None:
    a, b = join(table), join(table)
    await a.announce(step=3)
    await b.announce(step=5, loss=0.5)
    assert list(await a.members()) == [b.peer]
    seen = (await a.members())[b.peer]
    assert (seen.step, seen.loss, seen.addresses) == (5, 0.5, (address_of(b.peer),))
    assert list(await b.members()) == [a.peer]


@in_virtual_time
async def test_before_the_first_announcement_nobody_is_known(table: Table) -> None:
    assert await join(table).directory.members() == ()


@in_virtual_time
async def test_peers_of_another_run_are_not_seen(table: Table) -> None:
    a, b = join(table), join(table)
    await a.announce("one")
    await b.announce("two")
    assert await a.members() == {}
    await b.announce("one")
    assert list(await a.members()) == [b.peer]


@in_virtual_time
async def test_a_record_expires(table: Table) -> None:
    a, b = join(table), join(table)
    await a.announce()
    await b.announce()
    await asyncio.sleep(RECORD_SECONDS + 1)
    assert await a.members() == {}


@in_virtual_time
async def test_malformed_and_foreign_records_are_ignored_and_counted(table: Table) -> None:
    a, b = join(table), join(table)
    await a.announce()
    await b.announce()
    key = members_key("run")
    table.put(key, "m1", b"not json")
    table.put(key, "m2", filler("m2")[:-1])
    table.put(key, "m3", filler(b.peer, 99, step=10**6))  # about somebody else
    table.put(key, "m4", filler("m4", run="other"))
    table.put(key, "m5", json.dumps({**json.loads(filler("m5")), "step": -1}).encode())
    table.put(key, "m6", json.dumps({**json.loads(filler("m6")), "addresses": ["/ip4/1.1.1.1/tcp/1"] * 9}).encode())
    table.put(key, "m7", b"\xff\xfe")
    members = await a.members()
    assert list(members) == [b.peer]
    assert members[b.peer].step == 0
    assert a.directory.ignored == 7


@in_virtual_time
async def test_what_the_node_refused_is_counted_too(table: Table) -> None:
    a = join(table)
    a.node.refused = 3
    assert a.directory.ignored == 3


@in_virtual_time
async def test_a_goodbye_is_seen_as_left_and_soon_gone(table: Table) -> None:
    a, b = join(table), join(table)
    await a.announce()
    await b.announce()
    before = (await a.members())[b.peer]
    await b.directory.withdraw()
    goodbye = (await a.members())[b.peer]
    assert goodbye.left
    assert goodbye.sequence > before.sequence
    await asyncio.sleep(RECORD_SECONDS / 2)
    assert await a.members() == {}


@in_virtual_time
async def test_a_peer_that_never_announced_itself_has_nothing_to_withdraw(table: Table) -> None:
    await join(table).directory.withdraw()
    assert not table.entries


@in_virtual_time
async def test_a_goodbye_comes_after_the_first_announcement_that_is_under_way(table: Table) -> None:
    # It found nothing to withdraw, and the record then stood for a minute.
    async def slowly() -> None:
        await asyncio.sleep(0.5)

    a, b = join(table), join(table)
    await a.announce()
    b.node.before_get = slowly
    announcing = asyncio.ensure_future(b.announce())
    await asyncio.sleep(0.1)
    await b.directory.withdraw()
    await announcing
    assert (await a.members())[b.peer].left


# ---------------------------------------------------------------- more members than a peer sees


def fill(table: Table, members: int, level: int) -> None:
    """A run whose members know how many they are."""
    for number in range(members):
        peer = f"p{number}"
        for key in (members_key("run", level, shard_of(peer, level)), *[members_key("run")] * (number < VIEW_MAX)):
            table.put(key, peer, filler(peer, about=members))


@in_virtual_time
async def test_the_members_of_a_large_run_say_how_many_there_are_and_see_a_view(table: Table) -> None:
    fill(table, 400, 3)
    a = join(table)
    await a.announce(loss=0.1)
    for _ in range(4):
        members = await a.all_members()
    assert 250 < a.directory.count < 640
    assert len(members) <= VIEW_MAX + BEST_SHOWN
    assert {record.about for record in members.values()} == {400}
    await a.announce(loss=0.1)
    for key in (
        members_key("run", 3, shard_of(a.peer, 3)),
        members_key("run"),
    ):
        assert json.loads(table.get(key)[a.peer])["about"] == a.directory.count
    assert (await a.directory.own("run")) is not None


@in_virtual_time
async def test_a_goodbye_is_under_each_key_that_the_peer_announced_itself_under(table: Table) -> None:
    fill(table, 400, 3)
    a, b = join(table), join(table)
    for _ in range(3):
        for peer in (a, b):
            await peer.announce(loss=0.1)
            await peer.members()
    before = {key for key, entries in table.entries.items() if b.peer in entries}
    assert len(before) > 1
    await b.directory.withdraw()
    assert {key for key in before if json.loads(table.get(key)[b.peer])["left"]} == before
    assert (await a.all_members())[b.peer].left


@in_virtual_time
async def test_of_two_records_of_one_peer_the_newer_counts(table: Table) -> None:
    fill(table, 400, 3)
    a = join(table)
    await a.announce()
    key = members_key("run", 3, shard_of(a.peer, 3))
    x = next(name for name in map("x{}".format, range(100)) if shard_of(name, 3) == shard_of(a.peer, 3))
    for where, sequence in ((members_key("run"), 1), (key, 2)):
        table.put(where, x, filler(x, sequence, loss=-1.0))
    a.directory.want([x])
    assert (await a.all_members())[x].sequence == 2
    table.put(members_key("run"), x, filler(x, 3, loss=-1.0))
    assert (await a.all_members())[x].sequence == 3


# ---------------------------------------------------------------- runs


@in_virtual_time
async def test_a_founded_run_is_found_with_all_that_its_founder_said(table: Table) -> None:
    founder, other = join(table), join(table)
    manifest = manifest_of(founder.peer, moving_rate=0.25)
    founder.directory.found(manifest)
    assert await other.directory.runs() == ()  # not announced yet
    await founder.announce()
    assert await other.directory.runs() == (manifest,)
    assert other.directory.ignored == 0


@in_virtual_time
async def test_a_manifest_that_its_founder_did_not_sign_is_ignored_and_counted(table: Table) -> None:
    founder, forger, other = join(table), join(table), join(table)
    founder.directory.found(manifest_of(founder.peer))
    await founder.announce()
    genuine = json.loads(table.get(RUNS_KEY)[founder.peer])
    forger.directory.found(manifest_of(founder.peer, run="forged"))  # signed by the forger
    await forger.announce()
    changed = {**genuine, "manifest": {**genuine["manifest"], "batch_size": 1}}
    table.put(RUNS_KEY, "m1", json.dumps(changed).encode())
    table.put(RUNS_KEY, "m2", json.dumps({**genuine, "signature": "0" * 128}).encode())
    table.put(RUNS_KEY, "m3", json.dumps({**genuine, "signature": "zz"}).encode())
    nobody = {**genuine, "manifest": {**genuine["manifest"], "founder": "0 is not base58"}}
    table.put(RUNS_KEY, "m4", json.dumps(nobody).encode())
    table.put(RUNS_KEY, "m5", b"garbage")
    table.put(RUNS_KEY, "m6", b"\xff")
    table.put(RUNS_KEY, "keeper", json.dumps(genuine).encode())  # any member may publish what the founder signed
    assert await other.directory.runs() == (manifest_of(founder.peer),) * 2
    assert other.directory.ignored == 7


@pytest.mark.parametrize(("period", "probability"), [(8, 0.5), (None, None)])
def test_a_signed_manifest_with_no_usable_schedule_is_ignored_and_counted(
    period: int | None, probability: float | None
) -> None:
    async def main() -> None:
        table = Table()
        founder, other = join(table), join(table)
        values = {**manifest_of(founder.peer).model_dump(), "period": period, "probability": probability}
        text = json.dumps(values, sort_keys=True)
        signature = founder.identity.sign(b"p2p-elastic/manifest/1" + text.encode()).hex()
        table.put(RUNS_KEY, founder.peer, json.dumps({"manifest": values, "signature": signature}).encode())
        assert await other.directory.runs() == ()
        assert other.directory.ignored == 1

    run_virtual(main())


@in_virtual_time
async def test_a_signed_manifest_out_of_bounds_is_refused_by_name_and_is_no_run(table: Table) -> None:
    founder, other = join(table), join(table)
    publish(table, founder, batch_size=2**20)
    assert await other.directory.runs() == ()
    assert list(other.directory.refused) == ["run"]
    assert str(other.directory.refused["run"]).startswith(
        "batch-size: got 1048576; allowed: less than or equal to 65536. Run 'run' defines it"
    )
    publish(table, founder, learning_rate=0.5)  # founded anew
    assert len(await other.directory.runs()) == 1
    assert other.directory.refused == {}


@in_virtual_time
async def test_a_manifest_of_other_fields_is_not_kept_alive_under_a_signature_of_those(table: Table) -> None:
    founder, other = join(table), join(table)
    publish(table, founder, moving_rate=0)  # 0.0 as we write it: others would not find it genuine
    assert await other.directory.runs() == ()
    assert "update p2p-elastic" in str(other.directory.refused["run"])


@in_virtual_time
async def test_members_keep_a_run_alive_after_its_founder_is_gone(table: Table) -> None:
    founder, members = join(table), [join(table) for _ in range(KEEPERS + 3)]
    manifest = manifest_of(founder.peer)
    founder.directory.found(manifest)
    living = asyncio.ensure_future(founder.take_part())
    await asyncio.sleep(1.0)
    for member in members:
        assert await member.directory.runs() == (manifest,)
        member.directory.join(manifest)
    for member in members:
        asyncio.ensure_future(member.take_part())  # noqa: RUF006  # run_virtual cancels it
    await asyncio.sleep(30.0)
    living.cancel()
    await asyncio.sleep(3 * RECORD_SECONDS)
    assert founder.peer not in table.get(RUNS_KEY)
    late = join(table)
    assert set(await late.directory.runs()) == {manifest}
    keepers = {member.peer for member in members} & table.get(RUNS_KEY).keys()
    assert len(keepers) == KEEPERS


@in_virtual_time
async def test_when_a_keeper_is_gone_another_takes_over(table: Table) -> None:
    founder, members = join(table), [join(table) for _ in range(KEEPERS + 1)]
    manifest = manifest_of(founder.peer)
    founder.directory.found(manifest)
    await founder.announce()
    lives = {}
    for member in members:
        await member.directory.runs()
        member.directory.join(manifest)
        lives[member.peer] = asyncio.ensure_future(member.take_part())
    await asyncio.sleep(2 * RECORD_SECONDS)
    gone = sorted(table.get(RUNS_KEY))
    for peer in gone:
        lives[peer].cancel()
    await asyncio.sleep(2 * RECORD_SECONDS)
    assert sorted(table.get(RUNS_KEY)) == sorted(lives.keys() - set(gone))


@given(peers=st.sets(st.text("abcdef123", min_size=1, max_size=8), min_size=1, max_size=12))
@checked
def test_peers_that_know_each_other_agree_on_the_keepers(peers: set[str]) -> None:
    keepers = [peer for peer in peers if is_keeper(peer, frozenset(peers - {peer}), len(peers))]
    assert len(keepers) == min(KEEPERS, len(peers))


# ---------------------------------------------------------------- what went wrong with an address


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        ("dial tcp4 10.0.0.7:4001: connect: connection refused", "refused: nothing listens there"),
        ("failed to negotiate security protocol: peer id mismatch: expected X", "wrong peer id: another peer"),
        ("timed out after 8 s", "timed out: wrong address, machine off, or a firewall"),
        ("dial tcp4 10.0.0.7:4001: i/o timeout", "timed out: wrong address, machine off, or a firewall"),
        ("dial tcp4: connect: no route to host", "no route to that network from here"),
        ("lookup nowhere: no such host", "the host name is not known here"),
        (
            "dial to self attempted",
            "this peer listens there itself: give another peer's address, or this one another --port",
        ),
        ("  * something new *  ", "something new"),
    ],
)
def test_what_libp2p_says_becomes_words_that_help(error: str, problem: str) -> None:
    said = explain("/ip4/10.0.0.7/tcp/4001/p2p/12D3A", error)
    assert said.startswith(problem)
    assert "loopback" not in said


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/1/p2p/12D3A", "/ip6/::1/tcp/1/p2p/12D3A"])
def test_a_loopback_address_that_fails_comes_with_a_hint(address: str) -> None:
    said = explain(address, "connection refused")
    assert said.startswith("refused: ")
    assert "loopback address means this machine itself" in said


def test_of_several_lines_the_one_about_this_address_counts() -> None:
    error = (
        "failed to dial 12D3A: all dials failed\n"
        "  * [/ip4/10.0.0.8/tcp/4001] dial tcp4: i/o timeout\n"
        "  * [/ip4/10.0.0.7/tcp/4001] dial tcp4: connect: connection refused\n"
        "  * [/ip4/10.0.0.9/tcp/4001] dial tcp4: no route to host"
    )
    assert explain("/ip4/10.0.0.7/tcp/4001/p2p/12D3A", error).startswith("refused")
    assert explain("/ip4/10.0.0.8/tcp/4001/p2p/12D3A", error).startswith("timed out")
    assert explain("/ip4/10.0.0.5/tcp/4001/p2p/12D3A", error).startswith("no route")  # none is: the last


# ---------------------------------------------------------------- the way into the swarm


@in_virtual_time
async def test_one_live_initial_peer_among_dead_ones_is_enough(table: Table) -> None:
    dead, live = join(table), join(table)
    table.dead.add(dead.peer)
    peer = join(table, dead.peer, live.peer)
    assert [one.problem for one in peer.directory.bootstrap()] == ["not tried yet"] * 2
    assert not peer.directory.attached
    assert await peer.directory.attach()
    assert peer.directory.attached
    first, second = peer.directory.bootstrap()
    assert first.address == address_of(dead.peer)
    assert first.problem is not None
    assert first.problem.startswith("refused: ")
    assert second == BootstrapStatus(address=address_of(live.peer), problem=None)
    assert peer.node.explored == 1


@in_virtual_time
async def test_where_no_initial_peer_answers_each_has_its_problem(table: Table) -> None:
    table.dead.update({"12D3A", "12D3B"})
    peer = join(table, "12D3A", "12D3B")
    assert not await peer.directory.attach()
    assert not peer.directory.attached
    assert all(one.problem is not None for one in peer.directory.bootstrap())
    assert peer.node.explored == 0


@in_virtual_time
async def test_one_working_address_of_a_peer_is_enough(table: Table) -> None:
    class Picky(Node):
        async def meet(self, peer: str, addresses: tuple[str, ...]) -> None:
            if addresses[0].startswith("/ip4/10."):
                raise PartnerUnreachable("dial tcp4: i/o timeout")
            self.links.add(peer)

    addresses = ("/ip4/10.0.0.7/tcp/1/p2p/12D3A", "/ip4/192.168.0.7/tcp/1/p2p/12D3A")
    identity = Identity.generate()
    directory = DHTDirectory(Picky(table, identity.peer), identity, {"12D3A": addresses})
    assert await directory.attach()
    timed_out, fine = directory.bootstrap()
    assert timed_out.problem is not None
    assert timed_out.problem.startswith("timed out")
    assert fine.problem is None


@in_virtual_time
async def test_a_failed_exploration_does_not_undo_the_attachment(table: Table) -> None:
    class Shy(Node):
        async def explore(self) -> None:
            raise DirectoryError("explore: no answer")

    identity = Identity.generate()
    directory = DHTDirectory(Shy(table, identity.peer), identity, {"12D3A": (address_of("12D3A"),)})
    assert await directory.attach()


@in_virtual_time
async def test_while_alone_the_initial_peer_is_tried_less_and_less_often_and_once_there_it_is_found(
    table: Table,
) -> None:
    table.dead.add("12D3A")
    peer = join(table, "12D3A")
    staying = asyncio.ensure_future(peer.directory.stay_attached())
    attaching = asyncio.ensure_future(peer.directory.until_attached())
    await asyncio.sleep(200.0)
    tried = [when for when, _, _ in peer.node.met]
    pauses = [after - before for before, after in pairwise(tried)]
    assert tried[0] == 0.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, *[ATTACH_SECONDS_MAX] * (len(pauses) - 5)]
    assert not attaching.done()
    table.dead.clear()
    await asyncio.sleep(ATTACH_SECONDS_MAX + 1.0)
    assert attaching.done()
    assert peer.directory.attached
    assert [one.problem for one in peer.directory.bootstrap()] == [None]
    assert not staying.done()


@in_virtual_time
async def test_after_a_partition_the_swarm_is_found_again_at_once(table: Table) -> None:
    peer, other = join(table, "12D3A"), join(table)
    staying = asyncio.ensure_future(peer.directory.stay_attached())
    await peer.announce()
    await other.announce()
    await peer.members()
    await asyncio.sleep(100.0)
    assert peer.directory.attached
    peer.node.links.clear()  # hivemind's routing table empties itself
    await asyncio.sleep(SEEK_SECONDS + 2.0)
    assert peer.directory.attached
    assert other.peer in peer.node.links
    assert not staying.done()


@in_virtual_time
async def test_a_founder_finds_its_members_again_without_any_initial_peer(table: Table) -> None:
    founder, member = join(table), join(table)
    asyncio.ensure_future(founder.directory.stay_attached())  # noqa: RUF006  # run_virtual cancels it
    await founder.announce()
    await member.announce()
    await founder.members()
    await asyncio.sleep(SEEK_SECONDS + 1.0)
    assert founder.node.links == {member.peer}
    assert founder.node.met[0][1:] == (member.peer, (address_of(member.peer),))


@in_virtual_time
async def test_members_that_said_goodbye_or_have_no_address_are_not_looked_for(table: Table) -> None:
    peer, left = join(table), join(table)
    await peer.announce()
    await left.announce()
    await left.directory.withdraw()
    table.put(members_key("run"), "nowhere", filler("nowhere"))
    await peer.members()
    asyncio.ensure_future(peer.directory.stay_attached())  # noqa: RUF006  # run_virtual cancels it
    await asyncio.sleep(5.0)
    assert peer.node.met == []


@in_virtual_time
async def test_a_member_that_vanishes_just_when_it_is_to_be_met_does_no_harm(table: Table) -> None:
    peer = join(table)
    await peer.announce()
    table.put(members_key("run"), "fleeting", filler("fleeting", addresses=("/ip4/10.0.0.9/tcp/1",)), seconds=2.0)
    await peer.members()
    peer.node.links.add("somebody")
    reading = asyncio.Event()
    peer.node.before_get = reading.wait  # type: ignore[assignment]
    staying = asyncio.ensure_future(peer.directory.stay_attached())
    await asyncio.sleep(SEEK_SECONDS / 2)
    refreshing = asyncio.ensure_future(peer.directory.members())  # will see that it expired
    await asyncio.sleep(0.1)
    peer.node.on_neighbours = lambda: reading.set() if asyncio.get_running_loop().time() >= SEEK_SECONDS else None
    await asyncio.sleep(2 * SEEK_SECONDS)
    assert await refreshing == ()
    assert not staying.done()


@in_virtual_time
async def test_a_member_whose_record_is_long_gone_is_looked_for_until_a_partition_heals(table: Table) -> None:
    a, same_side, other_side = (join(table) for _ in range(3))
    for peer in (a, same_side, other_side):
        await peer.announce()
    await a.members()
    a.node.links = {same_side.peer}  # attached, but not to the other side
    table.dead.add(other_side.peer)
    staying = asyncio.ensure_future(a.directory.stay_attached())
    for _ in range(60):  # five minutes, in which the records of the other side expire
        await same_side.announce()
        await a.announce()
        await a.members()
        await asyncio.sleep(5.0)
    assert other_side.peer not in await a.members()
    table.dead.clear()
    await asyncio.sleep(15.0)
    assert other_side.peer in a.node.links
    staying.cancel()


@in_virtual_time
async def test_a_member_that_said_goodbye_is_not_looked_for(table: Table) -> None:
    a, stays, leaves = (join(table) for _ in range(3))
    for peer in (a, stays, leaves):
        await peer.announce()
    await a.members()
    await leaves.directory.withdraw()
    await a.members()
    a.node.links = {stays.peer}
    staying = asyncio.ensure_future(a.directory.stay_attached())
    await asyncio.sleep(60.0)
    assert leaves.peer not in {peer for _, peer, _ in a.node.met}
    staying.cancel()


# ---------------------------------------------------------------- after a partition


def cut_off(table: Table, one: list[Fixture], other: list[Fixture]) -> None:
    table.cut = {frozenset({a.peer, b.peer}) for a in one for b in other}
    for side, opposite in ((one, other), (other, one)):
        for peer in side:
            peer.node.links -= {o.peer for o in opposite}


async def swarm_of(table: Table, count: int) -> list[Fixture]:
    peers = [join(table) for _ in range(count)]
    for peer in peers:
        await peer.announce()
    for peer in peers:
        await peer.members()
        peer.node.links = {other.peer for other in peers} - {peer.peer}
        asyncio.ensure_future(peer.directory.stay_attached())  # noqa: RUF006  # run_virtual cancels it
    return peers


@pytest.mark.parametrize("seconds", [30.0, 301.0, 1234.5, 3000.0])
@pytest.mark.parametrize("sides", [(1, 1), (1, 4), (3, 3)])
def test_the_sides_of_a_partition_find_each_other_within_ten_seconds_of_its_end(
    sides: tuple[int, int], seconds: float
) -> None:
    async def main() -> None:
        table = Table()
        peers = await swarm_of(table, sum(sides))
        one, other = peers[: sides[0]], peers[sides[0] :]
        await asyncio.sleep(20.0)
        cut_off(table, one, other)
        await asyncio.sleep(seconds)
        assert not any({o.peer for o in other} & peer.node.links for peer in one)
        table.cut.clear()
        await asyncio.sleep(10.0)
        across = [(a, b) for a in one for b in other if b.peer in a.node.links or a.peer in b.node.links]
        assert across

    run_virtual(main())


@in_virtual_time
async def test_the_halves_of_a_large_swarm_find_each_other_and_nobody_meets_everybody(table: Table) -> None:
    peers = await swarm_of(table, 2 * NEIGHBOURS_ENOUGH + 2)
    one, other = peers[::2], peers[1::2]
    cut_off(table, one, other)
    await asyncio.sleep(20.0)
    table.cut.clear()
    await asyncio.sleep(10.0)
    across = [(a, b) for a in one for b in other if b.peer in a.node.links]
    assert across
    assert len(across) < len(one) * len(other) / 4


@in_virtual_time
async def test_one_that_is_silent_does_not_hold_up_the_search_for_the_others(table: Table) -> None:
    peers = await swarm_of(table, 3)
    table.cut = {frozenset({peers[0].peer, peers[1].peer})}
    table.dead.add(peers[2].peer)
    peers[0].node.links.clear()
    await asyncio.sleep(SEEK_SECONDS + 0.1)
    table.dead.clear()
    await asyncio.sleep(PAUSE_ALONE_MAX)
    assert peers[2].peer in peers[0].node.links


@in_virtual_time
async def test_where_one_of_the_lost_turns_up_the_others_are_tried_at_once(table: Table) -> None:
    peers = await swarm_of(table, 8)
    us, lost = peers[0], {peer.peer for peer in peers[2:]}
    # They refuse: a dial that is not answered could have begun before the end, and would be waited for until then.
    table.dead |= lost
    us.node.links -= lost
    await asyncio.sleep(300.0)
    assert not us.node.links & lost
    table.dead.clear()
    us.node.links.add(peers[2].peer)  # it met us
    explored = us.node.explored
    await asyncio.sleep(SEEK_SECONDS)
    assert lost <= us.node.links
    assert us.node.explored > explored


@in_virtual_time
async def test_however_many_are_lost_only_a_few_are_tried_at_once_and_each_seldom(table: Table) -> None:
    peer = join(table)
    lost = [join(table) for _ in range(3 * SEEK_AT_ONCE)]
    for one in [peer, *lost]:
        await one.announce()
    await peer.members()
    table.cut = {frozenset({peer.peer, one.peer}) for one in lost}
    peer.node.links.add("somebody")
    asyncio.ensure_future(peer.directory.stay_attached())  # noqa: RUF006  # run_virtual cancels it
    await asyncio.sleep(600.0)
    times = [when for when, _, _ in peer.node.met]
    assert max(sum(when <= other < when + 5.0 for other in times) for when in times) <= SEEK_AT_ONCE
    one = [when for when, who, _ in peer.node.met if who == lost[0].peer]
    assert all(after - before >= 0.7 * PAUSE_MAX for before, after in pairwise(one[-10:]))
    assert {who for _, who, _ in peer.node.met} == {one.peer for one in lost}


# ---------------------------------------------------------------- peers of an earlier life


@in_virtual_time
async def test_remembered_peers_are_tried_a_few_at_once_until_one_is_there(table: Table) -> None:
    peer = join(table, "12D3A")
    before = {f"12D3B{i:03}": (address_of(f"12D3B{i:03}"),) for i in range(50)}
    table.dead |= {"12D3A", *before} - {"12D3B007"}
    assert peer.directory.remember(before) == 50
    assert not await peer.directory.attach()
    assert await peer.directory.try_remembered()
    assert peer.node.links == {"12D3B007"}
    assert peer.node.explored == 1


@in_virtual_time
async def test_where_no_remembered_peer_is_there_they_are_sought_seldom_until_one_is(table: Table) -> None:
    identity = Identity.generate()
    node = Node(table, identity.peer)
    directory = DHTDirectory(node, identity, {}, known={"12D3B": (address_of("12D3B"),)})
    table.dead.add("12D3B")
    assert not await directory.try_remembered()
    asyncio.ensure_future(directory.stay_attached())  # noqa: RUF006  # run_virtual cancels it
    await asyncio.sleep(1000.0)
    pauses = [after[0] - before[0] for before, after in pairwise(node.met)]
    assert pauses[-1] >= 0.7 * PAUSE_REMEMBERED_MAX
    table.dead.clear()
    await asyncio.sleep(PAUSE_REMEMBERED_MAX + SEEK_SECONDS)
    assert node.links == {"12D3B"}


@in_virtual_time
async def test_a_peer_is_not_looked_for_under_its_own_name(table: Table) -> None:
    peer = join(table)
    assert peer.directory.remember({peer.peer: (address_of(peer.peer),)}) == 0
    assert not await peer.directory.try_remembered()
    assert peer.node.met == []


@pytest.mark.parametrize("length", [190, 150], ids=["few long addresses", "as many as there may be"])
def test_a_record_with_everything_in_it_fits_into_the_dht(length: int) -> None:
    identity, claim = Identity.generate(), CentreClaim(stamp=Stamp(term=2**31 - 1, clock=2**53 - 1), seated=False)
    addresses = tuple(f"/dns4/{i}.example/tcp/65535".ljust(length, "x") for i in range(9))
    full = PeerRecord(
        peer=identity.peer,
        run="r" * 64,
        schema_hash="f" * 32,
        step=2**53 - 1,
        loss=-1.7976931348623157e308,
        group="g" * 32,
        centre=claim,
        sequence=2**53 - 1,
        weight=0.30000000000000004,
        steps_per_second=123456789.12345679,
        drained=False,
        partners=(identity.peer,) * PARTNERS_TOLD,
        addresses=(*fitting(addresses, (LONGEST.told,)), LONGEST.told),
    )
    assert 5 <= len(full.addresses) < len(addresses)
    assert len(full.model_dump_json().encode()) + SIGNATURE_BYTES <= RECORD_BYTES_MAX


def test_addresses_that_fit_are_all_in_the_record_eight_at_most() -> None:
    short = tuple(f"/ip4/10.0.0.{i}/tcp/31330/p2p/12D3KooWRaxMvbNmZ7YFqWsLpT4" for i in range(9))
    assert fitting(short) == short[:8]
    assert fitting(short, (LONGEST.told,)) == short[:7]


@in_virtual_time
async def test_a_record_tells_the_addresses_of_its_peer_and_then_what_it_runs(table: Table) -> None:
    peer = join(table)
    peer.directory.told = Told(tuple(f"/ip4/192.0.2.{i}/tcp/1" for i in range(9)))
    record = PeerRecord(peer=peer.peer, run="run", schema_hash=SCHEMA, addresses=(LONGEST.told,))
    await peer.directory.announce(record)
    told = await peer.directory.own("run")
    assert told is not None
    assert told.places == tuple(f"{each}/p2p/{peer.peer}" for each in peer.directory.told.addresses[:7])
    assert told.addresses == (*told.places, LONGEST.told)
    assert told.software == LONGEST


# -- peers behind routers ----------------------------------------------------------------------------------------------


def behind(peer: Fixture, relay: Fixture) -> None:
    """From its next announcement on, a peer is reached through that relay."""
    peer.directory.told = Told((f"{address_of(relay.peer)}/p2p-circuit", address_of(peer.peer)))


@in_virtual_time
async def test_a_member_behind_a_relay_is_in_reach_but_no_node_for_others(table: Table) -> None:
    relay, home, other = join(table), join(table), join(table)
    behind(home, relay)
    for peer in (relay, home, other):
        await peer.announce()
    other.node.links = {relay.peer, home.peer}
    relay.node.links = {home.peer}
    for peer in (other, relay):
        assert home.peer in await peer.members()
        assert peer.node.hidden == {home.peer}
        assert home.peer in peer.directory.neighbours
        assert peer.directory.attached
    seeking = asyncio.ensure_future(other.directory.stay_attached())
    await asyncio.sleep(60.0)
    seeking.cancel()
    assert home.peer not in [peer for _, peer, _ in other.node.met]


@in_virtual_time
async def test_who_is_behind_a_relay_and_knows_nobody_else_hides_nobody(table: Table) -> None:
    relay, home, neighbour = join(table), join(table), join(table)
    for peer in (home, neighbour):
        behind(peer, relay)
        await peer.announce()
    home.node.links = {neighbour.peer}
    await home.members()
    assert home.node.hidden == frozenset()
    home.node.links = {neighbour.peer, relay.peer}
    await home.members()
    assert home.node.hidden == {neighbour.peer}


# -- private runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [0, *Role])
def test_a_record_keeps_what_the_role_of_its_peer_allows(role: int) -> None:
    claim = CentreClaim(stamp=Stamp(term=1), seated=True)
    told = PeerRecord(peer="a", run="lab", schema_hash=SCHEMA, step=5, centre=claim)
    seen = restricted(told, role)
    assert seen.step == 5
    assert (seen.centre == claim) is (role >= Role.CENTRE)
    assert (seen.weight, seen.drained) == ((1.0, False) if role >= Role.TRAINER else (0.0, True))


def test_only_the_run_of_the_invite_is_taken() -> None:
    async def scenario() -> None:
        time, table = Time(), Table()
        founder = Member(time)
        guest = founder.invites(time)
        shown = await introducing(SimulatedNetwork(), guest)
        node = Node(table, guest.peer)
        node.introductions = shown
        own = DHTDirectory(node, guest.identity, {})
        for identity, name in ((founder.identity, "lab"), (founder.identity, "other"), (Identity.generate(), "lab")):
            theirs = DHTDirectory(Node(table, f"{name} {identity.peer}"), identity, {})
            theirs.found(manifest_of(identity.peer, run=name, admission="ticket"))
            await theirs.announce(PeerRecord(peer=identity.peer, run=name, schema_hash=SCHEMA))
        assert [(m.run, m.founder) for m in await own.runs()] == [("lab", founder.peer)]
        everybody = DHTDirectory(Node(table, "stranger"), Identity.generate(), {})
        assert await everybody.runs() == ()
        assert "--invite LINE" in str(everybody.refused["lab"])

    run_virtual(scenario())
