"""Gossip: two random members at a time exchange with each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from p2p_elastic.peers.discovery.reconnect import NEIGHBOURS_ENOUGH
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.membership.selection import UNHEARD_SHARE, choose_partner
from p2p_elastic.peers.state.endpoint import Endpoint
from p2p_elastic.peers.state.topology import Errand, Strategy
from p2p_elastic.protocol.records import PeerRecord


class PairsStrategy(Strategy):
    """Asks any live member, by how much it counts, how far it is trusted and how long exchanges with it take.

    Args:
        parts: what every strategy works with.
    """

    def __init__(self, parts: StrategyParts) -> None:
        self._parts, self._local = parts, parts.local

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """Say whether an exchange is due.

        Args:
            step: optimizer steps so far.
            coin: the random numbers of the schedule.

        Yields:
            "exchange" if the schedule says so.
        """
        if self._local.run.policy.schedule.due(step, coin):
            yield "exchange"

    async def run_due(self, errand: Errand) -> float | None:
        """Ask until a member agrees.

        Args:
            errand: always an exchange.

        Returns:
            Seconds until a member is free, if one was busy; None if it is done, or given up.
        """
        return await self._parts.initiator.run_once()

    def next_partner(self, tried: set[str]) -> PeerRecord | None:
        """Choose a live member at random, of those that answer exchanges and are not known to be busy.

        Args:
            tried: ids of those that are not to be asked.

        Returns:
            Its record; None if no other is there.
        """
        local = self._local
        # If this peer only sends, a slow partner hears less and is heard as much; sum weights (GoSGD) allow for it.
        by_time = local.pacing.chances() if local.run.policy.receives or local.share > 0.0 else None
        return choose_partner(
            local.members.known,
            self._parts.rng,
            now=local.members.looked_at,
            announce_seconds=local.run.context.announce_seconds,
            excluding=tried | local.busy.at(asyncio.get_running_loop().time()),
            trust=local.judge.trust,
            by_time=by_time,
            receives=local.run.policy.receives,
            answered=local.members.ever_answered,
            unheard=self._unheard_share(),
        )

    def _unheard_share(self) -> float:
        """A directory that does not know all yet meets whoever is there within seconds: nobody else need try."""
        knows_many = len(self._local.members.reached) >= NEIGHBOURS_ENOUGH
        return UNHEARD_SHARE if knows_many and self._local.pacing.tries_unheard() else 0.0

    def endpoint(self) -> Endpoint:
        """Give the model that trains here.

        Returns:
            This peer's own endpoint.
        """
        return self._parts.own

    @property
    def compares(self) -> bool:
        """Whether partners are tried before this peer moves towards them: if the run weighs dynamically."""
        return self._local.run.policy.weighting == "dynamic"

    @property
    def one_donor(self) -> bool:
        """No: members are near each other, so that parts of several fit together."""
        return False

    @property
    def hands_parameters(self) -> bool:
        """Yes: any partner can use them."""
        return True

    def taker(self, tried: set[str]) -> PeerRecord | None:
        """Choose a partner that is trusted; one that does not count only copies this peer, so it comes last.

        Args:
            tried: ids of those that are not to be asked.

        Returns:
            Its record; None if no other is there.
        """
        local = self._local
        trust = local.judge.trust
        excluding = tried | {peer for peer, trusted in trust.items() if trusted == 0.0}
        counting = {peer: member for peer, member in local.members.known.items() if member.record.weight > 0.0}
        for members in (counting, local.members.known):
            chosen = choose_partner(
                members,
                self._parts.rng,
                now=local.members.looked_at,
                announce_seconds=local.run.context.announce_seconds,
                excluding=excluding,
                trust=trust,
            )
            if chosen is not None:
                return chosen
        return None
