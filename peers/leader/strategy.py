"""LSGD: every peer follows the peer with the lowest loss, of its group and now and then of all."""

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
    """Nobody offers exchanges: snapshots of the leader spread, and a peer that is due follows one.

    Args:
        parts: what every strategy works with.
    """

    def __init__(self, parts: StrategyParts) -> None:
        local = self._local = parts.local
        self.following = Following(local.peer, local.run.context.group, local.run.context.announce_seconds)
        self._follower = Follower(parts)

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """Say which pulls are due: to the leader of the group, of all groups, or both.

        Args:
            step: optimizer steps so far.
            coin: of the schedule.

        Yields:
            "exchange" for the group, "global" for all. If both have one period, only the latter.
        """
        policy = self._local.run.policy
        last = policy.global_period is not None and step % policy.global_period == 0
        if policy.schedule.due(step, coin) and not (last and policy.global_period == policy.schedule.period):
            yield "exchange"
        if last:
            yield "global"

    async def run_due(self, errand: Errand) -> None:
        """Follow the leader, or be it.

        Args:
            errand: "global" for the leader of all groups, else that of this peer's group.
        """
        before = self.following.leader
        await self._follower.run_once(self.following, of_all=errand == "global")
        after = self.following.leader
        if after != before:
            self._local.events.add("leader", f"this peer follows {'nobody' if after is None else after}", leader=after)

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """Give the snapshot of any leader that is held here. A peer that asks for this one's takes it for the leader.

        Args:
            origin: the leader's id.

        Returns:
            Its newest snapshot; None if there is none here.
        """
        if origin == self._local.peer:
            self.following.asked_for = True
        return self.following.snapshots.newest(origin)

    def told(self, peer: str, loss: float | None, now: float) -> None:
        """Remember the loss of a member: it may lead.

        Args:
            peer: its id.
            loss: in nats; None if it has none.
            now: in monotonic seconds.
        """
        self.following.hear(peer, loss, now)

    def left(self, goodbye: Goodbye) -> None:
        """Forget a leader that left.

        Args:
            goodbye: of a member.
        """
        self.following.lose(goodbye.peer)

    def status(self, now: float) -> TopologyStatus:
        """Say whom this peer follows.

        Args:
            now: in monotonic seconds.

        Returns:
            The leaders, and the peers that are not believed at present.
        """
        return TopologyStatus(leader=self.following.status(now))
