"""One due pull towards a leader (LSGD): a leader publishes itself, others fetch its snapshot and follow it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.exchange.snapshots import Snapshot, next_holder
from p2p_elastic.peers.gossip.apply_move import Brought, move
from p2p_elastic.peers.gossip.initiator import new_id
from p2p_elastic.peers.gossip.snapshot_fetch import SnapshotFetcher
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.leader.election import Following, disbelief
from p2p_elastic.peers.session.call import Call, outcome_of
from p2p_elastic.protocol.exchange import compare
from p2p_elastic.protocol.messages import DeclineReason
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.base import Facts

log = logging.getLogger(__name__)
HOPS_MAX = 6  # peers asked for one snapshot: a tree of two branches holds 126 of them by then

BUSY_SECONDS = 0.05  # first pause before a busy holder is asked again; doubled with each hop
COMPARED = 2  # members whose loss is asked for before each pull; members that ask this peer tell theirs


class Follower:
    """Asks the leader, or the peers that it refers to, for its snapshot.

    Args:
        parts: what every strategy works with.
    """

    def __init__(self, parts: StrategyParts) -> None:
        self._parts, self._local = parts, parts.local
        self._fetcher = SnapshotFetcher(parts.local, parts.transport, parts.limits, parts.rng)

    async def run_once(self, following: Following, *, of_all: bool) -> None:
        """Do one due pull. When it returns, a move is waiting or the mailbox is free again.

        Args:
            following: whom this peer follows.
            of_all: whether the leader of all groups is due, not that of this peer's group.
        """
        done = False
        try:
            done = await self._run(following, of_all)
        finally:
            if not done:
                self._local.slot.release()

    async def _run(self, following: Following, of_all: bool) -> bool:
        local = self._local
        if local.own.condition.drained:
            local.journal.skipped["drained"] += 1
            return False
        if not await local.own.finite(local.slot.mailbox, whole=True):  # a leader is followed whole
            local.slot.mailbox.mine.zero_()  # with weight 0 this peer does not lead; it takes the leader's parameters
        await self._compare(following)
        now = asyncio.get_running_loop().time()
        local.own.weigh()
        own_loss = local.own.loss() if local.own.weight > 0.0 else None  # a peer that does not count does not lead
        leader = following.choose(own_loss, local.members.known, now, of_all=of_all)
        if (leader == local.peer or following.asked_for) and not local.own.broken:
            self._publish(following)
        claimed = following.claimed
        if leader is None or leader == local.peer or claimed is None:
            local.journal.skipped["no leader" if leader is None else "leading"] += 1
            return False
        snapshot = await self._obtain(following, leader)
        if snapshot is None:
            local.journal.skipped["no snapshot of the leader"] += 1
            return False
        self._follow(following, snapshot, claimed, of_all)
        return True

    async def _compare(self, following: Following) -> None:
        """Compare losses with a few members: records are announced too seldom to choose a leader by them."""
        alive = {p: m for p, m in self._local.members.alive().items() if m.record.available}
        chosen = self._parts.rng.sample(sorted(alive), min(COMPARED, len(alive)))
        await asyncio.gather(*(self._compare_with(following, alive[peer].record) for peer in chosen))

    async def _compare_with(self, following: Following, partner: PeerRecord) -> None:
        local, parts = self._local, self._parts
        call = Call(parts.transport, partner, parts.limits, local.members.waits(partner), local.journal.gave)
        try:
            async with call as conversation:
                told = await conversation.run(compare(local.own.tell(new_id(parts.rng))))
        except ExchangeError as error:
            log.info("comparing losses with %s: %s", partner.peer, error)
            local.members.failed(partner.peer, outcome_of(error))
            return
        local.members.heard(partner.peer)
        if told is not None:
            following.hear(partner.peer, told.loss, asyncio.get_running_loop().time())

    def _publish(self, following: Following) -> None:
        local = self._local
        step, known = local.slot.mailbox.snapshot_step, following.snapshots.newest(local.peer)
        if known is not None and known.step == step:
            return
        following.asked_for = False
        following.snapshots.published += 1
        following.snapshots.keep(Snapshot(local.peer, step, local.own.loss(), local.slot.mailbox.mine.clone()))

    async def _obtain(self, following: Following, leader: str) -> Snapshot | None:
        """The leader's newest snapshot, from it or from those that it refers to."""
        local, asked, named = self._local, {leader}, set[str]()
        held, target = following.snapshots.newest(leader), leader
        now = asyncio.get_running_loop().time
        for hop in range(HOPS_MAX):
            member = local.members.known.get(target)
            if member is None:
                return held
            asked.add(target)
            into = local.vector.empty()  # the snapshot's own: it is kept, and sent on
            answer = await self._fetcher.ask(member.record, leader, None if held is None else held.step, into=into)
            given = answer.given
            if given is not None and (target == leader or held is None or given.step > held.step):
                taken = Snapshot(leader, given.step, given.loss, into, target)
                following.snapshots.keep(taken)
                return taken
            if answer.reason == DeclineReason.BUSY:  # on its way to others, which can be asked soon
                await asyncio.sleep(BUSY_SECONDS * 2**hop)
                continue
            if target == leader and not answer.holders:
                if answer.refused:
                    following.disbelieve(leader, f"sent a snapshot that is none: {answer.reason}", now())
                return held
            named.update(answer.holders)
            holders = set[str]() if following.insists_on(leader, now()) else named
            # The leader helps a peer that comes back.
            target = next_holder(holders, asked, local.members.alive(), self._parts.rng) or leader
        return held

    def _follow(self, following: Following, snapshot: Snapshot, claimed: float, of_all: bool) -> None:
        local, loop = self._local, asyncio.get_running_loop()
        received = local.slot.mailbox.bring(snapshot.vector)
        mine = Facts(local.slot.mailbox.snapshot_step, local.own.loss(), local.own.weight, asked=True)
        theirs = Facts(snapshot.step, snapshot.loss, 1.0)
        check = self._check(following, snapshot, claimed, loop)
        brought = Brought(new_id(self._parts.rng), snapshot.origin, mine, theirs, received, of_all=of_all, check=check)
        move(local, brought)

    def _check(
        self, following: Following, snapshot: Snapshot, claimed: float, loop: asyncio.AbstractEventLoop
    ) -> Callable[[], bool] | None:
        """What the training thread asks before it follows; None if it has no examples to try, or did so already.

        The snapshot has to give the loss that its origin `claimed` when it was chosen, whatever comes with it.
        """
        local, measure = self._local, self._parts.measure
        if measure is None or snapshot.believed:
            return None

        def believed() -> bool:
            with_it = snapshot.loss
            reason = "claims no loss" if with_it is None else disbelief(min(with_it, claimed), measure(snapshot))
            if reason is None:
                snapshot.believed = True
                local.own.met(copied=True)
                return True
            log.warning("%s does not lead this peer now: %s (from %s)", snapshot.origin, reason, snapshot.source)
            with contextlib.suppress(RuntimeError):  # the network ended before training did
                loop.call_soon_threadsafe(lambda: following.doubt(snapshot, reason, loop.time()))
            return False

        return believed
