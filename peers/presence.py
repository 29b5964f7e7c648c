"""This peer's place among the members: what it announces, whom it sees, and who holds the centre variable."""

from __future__ import annotations

import asyncio
import logging

from p2p_elastic.errors import DirectoryError, IdentityInUse
from p2p_elastic.peers.follower import Follower
from p2p_elastic.peers.instances import Instances
from p2p_elastic.peers.local_context import LocalContext
from p2p_elastic.peers.records import PARTNERS_TOLD, PeerRecord
from p2p_elastic.peers.transport import Directory
from p2p_elastic.protocol.messages import Stamp

log = logging.getLogger(__name__)


class Presence:
    """Announces this peer and looks who else is there. Belongs to the network thread."""

    def __init__(self, local: LocalContext, directory: Directory, follower: Follower) -> None:
        self._local, self._directory, self._follower = local, directory, follower
        self._instances = Instances(local.run.context.first_sequence)
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
        if not local.departure.leaving:
            await self._look_for_others()
        if self._displaced is not None:
            raise self._displaced
        if local.departure.leaving:
            return
        self._instances.sequence += 1
        await self._directory.announce(
            PeerRecord(
                peer=local.peer,
                run=local.run.context.run,
                schema_hash=local.vector.schema_hash,
                step=local.own.progress.step,
                loss=local.own.loss(),
                weight=local.own.weight,
                drained=local.own.condition.drained,
                steps_per_second=local.own.step_rate.steps_per_second,
                partners=local.journal.latest(PARTNERS_TOLD),
                group=local.run.context.group,
                centre=local.run.centre.claim() if local.run.centre is not None else None,
                sequence=self._instances.sequence,
            )
        )

    async def _look_for_others(self) -> None:
        """See whether another process has our identity."""
        local = self._local
        try:
            own = await self._directory.own(local.run.context.run)
        except DirectoryError as error:
            log.info("directory: %s", error)
            return
        other = self._instances.saw(own)
        if other is None:
            return
        assert own is not None, "another process without a record"
        where = ", ".join(own.addresses) or "unknown addresses"
        if other == "earlier":
            local.departure.leave()  # no word more of ours: it would be taken for the other's
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
        local.own.condition.look()  # whether the directory answers or not
        local.own.step_rate.mark(asyncio.get_running_loop().time(), local.own.progress.step)
        try:
            listed = await self._directory.members()
        except DirectoryError:
            local.members.look_apart(
                local.own.progress.step
            )  # who is silent is so whether the directory answers or not
            raise
        now = asyncio.get_running_loop().time()
        local.members.look(listed, now)
        local.members.look_apart(local.own.progress.step)
        local.own.look_back(now)
        local.own.weigh()
        if local.own.condition.drained != self._drained:
            self._drained = local.own.condition.drained
            await self.announce()
        await self.look_for_centre()

    async def look_for_centre(self) -> None:
        """See who holds the centre variable, and take the place where it is ours. Raises DirectoryError."""
        local = self._local
        centre = local.run.centre
        if centre is None:
            return
        holder, drained = centre.holder, local.own.condition.drained
        if centre.look(
            local.peer,
            local.members.known,
            asyncio.get_running_loop().time(),
            leaving=local.departure.leaving,
            drained=drained,
        ):
            await self.announce()
        if centre.holder != holder:
            who = "nobody" if centre.holder is None else centre.holder
            local.events.add("centre", f"the centre is {who}", holder=centre.holder)

    async def copy_centre(self) -> None:
        """Stand by: see the centre variable as it is now."""
        local = self._local
        centre = local.run.centre
        holder = local.members.known.get(centre.holder or "") if centre is not None else None
        if centre is None or centre.seated or holder is None or holder.record.centre is None:
            return
        if local.own.condition.drained or holder.record.drained or local.pacing.closed():
            return
        stamp = holder.record.centre.stamp
        known = centre.stamp.clock if centre.stamp.term == stamp.term else None
        out = local.vector.empty()
        answer = await self._follower.ask(holder.record, holder.record.peer, known, into=out)
        if answer.given is not None:
            centre.saw(out, Stamp(term=stamp.term, clock=answer.given.step))
