"""Gossip: two random members at a time exchange with each other."""

from __future__ import annotations

import random
from collections.abc import Iterator

from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.membership.selection import choose_partner
from p2p_elastic.peers.state.topology import Endpoint, Errand, Strategy
from p2p_elastic.protocol.records import PeerRecord


class PairsStrategy(Strategy):
    """Asks any live member, by how much it counts, how far it is trusted and how long exchanges with it take."""

    def __init__(self, parts: StrategyParts) -> None:
        self._parts, self._local = parts, parts.local

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """An exchange where the schedule says so."""
        if self._local.run.policy.schedule.due(step, coin):
            yield "exchange"

    async def run_due(self, errand: Errand) -> None:
        """Ask until a member agrees."""
        await self._parts.initiator.run_once()

    def next_partner(self, tried: set[str]) -> PeerRecord | None:
        """Any live one that begins and answers exchanges."""
        local = self._local
        # Where we only send, a slow partner would hear less and be heard as much; sum weights (GoSGD) allow for it.
        by_time = local.pacing.chances() if local.run.policy.receives or local.share > 0.0 else None
        return choose_partner(
            local.members.known,
            self._parts.rng,
            now=local.members.looked_at,
            announce_seconds=local.run.context.announce_seconds,
            excluding=tried,
            trust=local.judge.trust,
            by_time=by_time,
            receives=local.run.policy.receives,
        )

    def endpoint(self) -> Endpoint:
        """The model that trains here."""
        return self._parts.own

    @property
    def compares(self) -> bool:
        """Where partners are tried before we move towards them."""
        return self._local.run.policy.weighting == "dynamic"

    @property
    def one_donor(self) -> bool:
        """Members are near each other."""
        return False

    @property
    def hands_parameters(self) -> bool:
        """Any partner can use them."""
        return True

    def taker(self, tried: set[str]) -> PeerRecord | None:
        """Any partner that is trusted; one that does not count only copies us, so it comes last."""
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
