"""This peer's place among the members: what it announces, whom it sees, and who holds the centre variable."""

from __future__ import annotations

import asyncio

from p2p_elastic.messages import Stamp
from p2p_elastic.peers.follower import Follower
from p2p_elastic.peers.local import Local
from p2p_elastic.peers.memory import look_back
from p2p_elastic.peers.partners import observe
from p2p_elastic.peers.records import PARTNERS_TOLD, PeerRecord
from p2p_elastic.peers.transport import Directory


class Presence:
    """Announces this peer and looks who else is there. Belongs to the network thread."""

    def __init__(self, local: Local, directory: Directory, follower: Follower) -> None:
        self._local, self._directory, self._follower = local, directory, follower
        self._sequence = local.membership.first_sequence
        self._drained = False  # what our record says

    @property
    def sequence(self) -> int:
        """Of our last record."""
        return self._sequence

    async def announce(self) -> None:
        """Make our record known, unless we are leaving. Raises DirectoryError."""
        local = self._local
        if local.leaving:
            return
        self._sequence += 1
        await self._directory.announce(
            PeerRecord(
                peer=local.peer,
                run=local.membership.run,
                schema_hash=local.vector.schema_hash,
                step=local.progress.step,
                loss=local.loss(),
                weight=local.weight,
                drained=local.condition.drained,
                steps_per_second=local.pace.steps_per_second,
                partners=local.journal.latest(PARTNERS_TOLD),
                group=local.membership.group,
                centre=local.centre.claim() if local.centre is not None else None,
                sequence=self._sequence,
            )
        )

    async def refresh(self) -> None:
        """Read who else is in the run, and how we are. Raises DirectoryError."""
        local = self._local
        local.condition.look()  # whether the directory answers or not
        local.pace.mark(asyncio.get_running_loop().time(), local.progress.step)
        records = await self._directory.members()
        before, now = local.members, asyncio.get_running_loop().time()
        local.members = observe(before, (r for r in records if r.schema_hash == local.vector.schema_hash), now)
        for peer in sorted(before.keys() ^ local.members.keys()):
            joined = peer in local.members
            local.events.add("joined" if joined else "left", f"{peer} {'joined' if joined else 'left'}", peer=peer)
        look_back(local, now)
        local.weigh()
        if local.condition.drained != self._drained:
            self._drained = local.condition.drained
            await self.announce()
        await self._look_for_centre()

    async def _look_for_centre(self) -> None:
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
        if local.condition.drained or holder.record.drained:
            return
        stamp = holder.record.centre.stamp
        known = centre.stamp.clock if centre.stamp.term == stamp.term else None
        answer = await self._follower.ask(holder.record, holder.record.peer, known)
        if answer.given is not None:
            centre.saw(local.vectors.theirs, Stamp(term=stamp.term, clock=answer.given.step))
