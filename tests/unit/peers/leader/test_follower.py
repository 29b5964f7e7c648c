"""One due pull towards a leader."""

from __future__ import annotations

import asyncio

import pytest
import torch
from helpers.peer_parts import introduce, parts_in, serve, step, values_of
from helpers.topologies import LSGD

from p2p_elastic.peers.exchange.slot import DELIVERED, IDLE
from p2p_elastic.peers.exchange.snapshots import COPIES, Snapshot, SnapshotLosses
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.comparing import Comparing
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.leader.election import Following
from p2p_elastic.peers.leader.follower import Follower
from p2p_elastic.peers.leader.strategy import LeaderStrategy
from p2p_elastic.peers.lifecycle.donor import Donor
from p2p_elastic.peers.lifecycle.giving import Giving
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

LOSSES = {"a": 1.0, "b": 0.1, "c": 2.0, "d": 2.0}


async def no_look() -> None:
    return


def following_of(parts: StrategyParts) -> Following:
    strategy = parts.local.run.topology
    assert isinstance(strategy, LeaderStrategy)
    return strategy.following


class Swarm:
    """The peer "a" is due to follow; the others answer, and "b" has the lowest loss."""

    def __init__(self, names: str = "ab", losses: dict[str, float] = LOSSES) -> None:
        self.network = SimulatedNetwork()
        self.peers = {name: parts_in(self.network, LSGD, name) for name in names}
        for name, parts in self.peers.items():
            if name in losses:
                parts.local.own.report_loss(losses[name])
        introduce(*self.peers.values())
        self.follower = self.peers["a"]

    def hold(self, at: str, of: str = "b", at_step: int = 7) -> Snapshot:
        """That peer holds a snapshot of the other, whose parameters are all one."""
        snapshot = Snapshot(of, at_step, 0.1, torch.ones(72), of)
        following_of(self.peers[at]).snapshots.keep(snapshot)
        return snapshot

    def pull(self) -> None:
        """One pull, and the step after it."""

        async def main() -> None:
            for name, parts in self.peers.items():
                admission = Admission(parts.local)
                giving = Giving(parts.local, admission, Donor(parts.local, parts.limits, no_look))
                if name != "a":
                    await serve(parts, Comparing(parts.local, admission), giving)
            step(self.follower, due=True)
            await Follower(self.follower).run_once(following_of(self.follower), of_all=False)
            assert self.follower.local.slot.state in (IDLE, DELIVERED)
            step(self.follower)
            await asyncio.sleep(10.0)

        run_virtual(main())

    @property
    def skipped(self) -> dict[str, int]:
        return {why: count for why, count in self.follower.local.journal.skipped.items()}


def test_a_follower_moves_to_the_snapshot_of_the_one_with_the_lowest_loss() -> None:
    swarm = Swarm("abc")
    swarm.hold("b")
    before = values_of(swarm.follower)
    swarm.pull()
    torch.testing.assert_close(values_of(swarm.follower), (before + 1.0) / 2.0)
    assert following_of(swarm.follower).leader == "b"
    assert not swarm.skipped


def test_the_leader_publishes_itself_once_per_step_and_stays_where_it_is() -> None:
    swarm = Swarm(losses={**LOSSES, "a": 0.01})
    before = values_of(swarm.follower)
    swarm.pull()
    published = following_of(swarm.follower).snapshots.newest("a")
    assert published is not None
    assert torch.equal(published.vector, before)
    assert torch.equal(values_of(swarm.follower), before)
    assert swarm.skipped == {"leading": 1}


def test_where_nobody_has_a_loss_nobody_leads() -> None:
    swarm = Swarm(losses={})
    swarm.pull()
    assert swarm.skipped == {"no leader": 1}


def test_a_leader_without_a_snapshot_is_followed_the_next_time_and_knows_that_it_leads() -> None:
    swarm = Swarm()
    swarm.pull()
    assert swarm.skipped == {"no snapshot of the leader": 1}
    assert following_of(swarm.peers["b"]).asked_for


def test_a_leader_that_sent_its_snapshot_often_enough_refers_to_those_that_have_it() -> None:
    swarm = Swarm("abcd")
    snapshot = swarm.hold("b")
    for holder in "cd":
        swarm.hold(holder)
        snapshot.holders.append(holder)
    assert len(snapshot.holders) == COPIES
    swarm.pull()
    taken = following_of(swarm.follower).snapshots.newest("b")
    assert taken is not None
    assert taken.source in ("c", "d")
    assert not swarm.skipped


@pytest.mark.parametrize(("measured", "believed"), [(0.1, True), (9.0, False)])
def test_a_leader_is_followed_where_its_parameters_give_what_it_claims(measured: float, believed: bool) -> None:
    swarm = Swarm()
    swarm.hold("b")
    before = values_of(swarm.follower)
    swarm.follower.measure = lambda _snapshot: SnapshotLosses(measured, 0.01, 1.0)
    swarm.pull()
    torch.testing.assert_close(values_of(swarm.follower), (before + 1.0) / 2.0 if believed else before)
    assert ("b" in following_of(swarm.follower).disbelieved) is not believed


def test_who_is_drained_follows_nobody() -> None:
    swarm = Swarm()
    swarm.hold("b")
    swarm.follower.local.own.condition.drain()
    swarm.pull()
    assert swarm.skipped == {"drained": 1}


def test_a_leader_that_is_gone_costs_no_move_and_becomes_suspect() -> None:
    swarm = Swarm()
    following_of(swarm.follower).hear("b", 0.1, 1.0)
    del swarm.peers["b"]  # it does not serve
    before = values_of(swarm.follower)
    swarm.pull()
    assert torch.equal(values_of(swarm.follower), before)
    assert set(swarm.follower.local.members.not_dead()) == {"b"}
    assert sum(swarm.skipped.values()) == 1
