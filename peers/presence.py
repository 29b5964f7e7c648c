"""This peer's place among the members: what it announces, whom it sees, and who holds the centre variable."""

from __future__ import annotations

import asyncio
import logging

from p2p_elastic.errors import DirectoryError, IdentityInUse
from p2p_elastic.peers.follower import Follower
from p2p_elastic.peers.instances import Instances
from p2p_elastic.peers.local import Local
from p2p_elastic.peers.memory import look_back
from p2p_elastic.peers.partners import observe
from p2p_elastic.peers.records import PARTNERS_TOLD, PeerRecord
from p2p_elastic.peers.transport import Directory
from p2p_elastic.protocol.messages import Stamp

log = logging.getLogger(__name__)
PEERS_NAMED = 20  # in an event


class Presence:
    """Announces this peer and looks who else is there. Belongs to the network thread."""

    def __init__(self, local: Local, directory: Directory, follower: Follower) -> None:
        self._local, self._directory, self._follower = local, directory, follower
        self._instances = Instances(local.membership.first_sequence)
        self._displaced: IdentityInUse | None = None
        self._drained = False  # what our record says

    @property
    def next_sequence(self) -> int:
        """Beyond that of any record of ours so far."""
        return self._instances.sequence + 1

    @property
    def sequence(self) -> int:
        """Of our last record."""
        return self._instances.sequence

    async def announce(self) -> None:
        """Make our record known, unless we are leaving.

        Raises:
            DirectoryError: nobody took it.
            IdentityInUse: another process with our identity began earlier, and is alive.
        """
        local = self._local
        if not local.leaving:
            await self._look_for_others()
        if self._displaced is not None:
            raise self._displaced
        if local.leaving:
            return
        self._instances.sequence += 1
        await self._directory.announce(
            PeerRecord(
                peer=local.peer,
                run=local.membership.run,
                schema_hash=local.vector.schema_hash,
                step=local.progress.step,
                loss=local.loss(),
                weight=local.weight,
                drained=local.condition.drained,
                steps_per_second=local.step_rate.steps_per_second,
                partners=local.journal.latest(PARTNERS_TOLD),
                group=local.membership.group,
                centre=local.centre.claim() if local.centre is not None else None,
                sequence=self._instances.sequence,
            )
        )

    async def _look_for_others(self) -> None:
        """See whether another process has our identity."""
        local = self._local
        try:
            own = await self._directory.own(local.membership.run)
        except DirectoryError as error:
            log.info("directory: %s", error)
            return
        other = self._instances.saw(own)
        if other is None:
            return
        assert own is not None, "another process without a record"
        where = ", ".join(own.addresses) or "unknown addresses"
        if other == "earlier":
            local.leaving = True  # no word more of ours: it would be taken for the other's
            self._displaced = IdentityInUse(
                f"peer {local.peer} is alive elsewhere, with the same identity, since before this process began "
                f"(there: instance {own.sequence}, step {own.step}, {where}; here: instance {self.sequence}). "
                "This one ends, that one goes on. End that one first, or give each an identity of its own (--identity)"
            )
            return
        text = f"another process used our identity (instance {own.sequence}, {where}): it began later, and ends by that"
        local.events.add("duplicate", text, instance=own.sequence)
        log.warning("%s", text)

    async def refresh(self) -> None:
        """Read who else is in the run, and how we are. Raises DirectoryError."""
        local = self._local
        local.condition.look()  # whether the directory answers or not
        local.step_rate.mark(asyncio.get_running_loop().time(), local.progress.step)
        try:
            listed = await self._directory.members()
        except DirectoryError:
            self._look_apart()  # who is silent is so whether the directory answers or not
            raise
        before, now = local.members, asyncio.get_running_loop().time()
        records = (r for r in local.departed.without(listed, now) if r.schema_hash == local.vector.schema_hash)
        local.members, local.looked_at = observe(before, records, now), now
        for peer in sorted(before.keys() ^ local.members.keys()):
            joined = peer in local.members
            local.events.add("joined" if joined else "left", f"{peer} {'joined' if joined else 'left'}", peer=peer)
        for record in listed:
            if record.left:
                local.apart.left(record.peer, record.sequence)
        local.watch.look(local.members, now, local.membership.announce_seconds)
        self._look_apart()
        look_back(local, now)
        local.weigh()
        if local.condition.drained != self._drained:
            self._drained = local.condition.drained
            await self.announce()
        await self.look_for_centre()

    def _look_apart(self) -> None:
        """Judge who was lost, and say so."""
        local = self._local
        before = local.apart.partition
        local.apart.look(local.members, asyncio.get_running_loop().time(), local.progress.step)
        after = local.apart.partition
        if after is not None and (before is None or after.lost != before.lost):
            text = (
                f"{len(after.lost)} of {after.before} members vanished at once: they crashed, or the network is split"
            )
            local.events.add("partition", text, peers=[*sorted(after.lost)[:PEERS_NAMED]], left=after.left)
        if before is not None and after is None:
            steps = local.progress.step - before.step
            text = f"the partition ended, {steps} of our steps after it began; what both sides learnt is merged"
            local.events.add("healed", text, steps=steps)

    async def look_for_centre(self) -> None:
        """See who holds the centre variable, and take the place where it is ours. Raises DirectoryError."""
        local = self._local
        centre = local.centre
        if centre is None:
            return
        holder, drained = centre.holder, local.condition.drained
        if centre.look(
            local.peer, local.members, asyncio.get_running_loop().time(), leaving=local.leaving, drained=drained
        ):
            await self.announce()
        if centre.holder != holder:
            who = "nobody" if centre.holder is None else centre.holder
            local.events.add("centre", f"the centre is {who}", holder=centre.holder)

    async def copy_centre(self) -> None:
        """Stand by: see the centre variable as it is now."""
        local = self._local
        centre = local.centre
        holder = local.members.get(centre.holder or "") if centre is not None else None
        if centre is None or centre.seated or holder is None or holder.record.centre is None:
            return
        if local.condition.drained or holder.record.drained or local.pacing.closed():
            return
        stamp = holder.record.centre.stamp
        known = centre.stamp.clock if centre.stamp.term == stamp.term else None
        out = local.vector.empty()
        answer = await self._follower.ask(holder.record, holder.record.peer, known, into=out)
        if answer.given is not None:
            centre.saw(out, Stamp(term=stamp.term, clock=answer.given.step))
