"""LSGD: every peer follows the one with the lowest loss, of its group and now and then of all."""

from __future__ import annotations

import random
from collections.abc import Iterator

from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.leader.election import Following
from p2p_elastic.peers.leader.follower import Follower
from p2p_elastic.peers.state.topology import Errand, Strategy, TopologyStatus
from p2p_elastic.protocol.messages import Goodbye


class LeaderStrategy(Strategy):
    """Nobody offers exchanges: snapshots of the leader spread, and whoever is due follows one."""

    def __init__(self, parts: StrategyParts) -> None:
        local = self._local = parts.local
        self.following = Following(local.peer, local.run.context.group, local.run.context.announce_seconds)
        self._follower = Follower(parts)

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """A pull to the leader of the group, of all groups, or both; where both have one period, that of all alone."""
        policy = self._local.run.policy
        last = policy.global_period is not None and step % policy.global_period == 0
        if policy.schedule.due(step, coin) and not (last and policy.global_period == policy.schedule.period):
            yield "exchange"
        if last:
            yield "global"

    async def run_due(self, errand: Errand) -> None:
        """Follow the leader, or be it."""
        before = self.following.leader
        await self._follower.run_once(self.following, of_all=errand == "global")
        after = self.following.leader
        if after != before:
            self._local.events.add("leader", f"we follow {'nobody' if after is None else after}", leader=after)

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """That of any leader that is held here; who asks for ours sees the leader in us."""
        if origin == self._local.peer:
            self.following.asked_for = True
        return self.following.snapshots.newest(origin)

    def told(self, peer: str, loss: float | None, now: float) -> None:
        """It may lead."""
        self.following.hear(peer, loss, now)

    def left(self, goodbye: Goodbye) -> None:
        """It leads no more."""
        self.following.lose(goodbye.peer)

    def status(self, now: float) -> TopologyStatus:
        """Whom this peer follows."""
        return TopologyStatus(leader=self.following.status(now))
