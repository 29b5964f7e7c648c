"""This peer's place among the members: what it announces, and which others it sees."""

from __future__ import annotations

import asyncio
import logging

from p2p_elastic.errors import DirectoryError, IdentityInUse
from p2p_elastic.peers.membership.instances import Instances
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.transport.interfaces import Directory
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.records import PARTNERS_TOLD, PeerRecord

log = logging.getLogger(__name__)
LOST_WANTED = 8  # that are asked for at a look


class Presence:
    """Announces this peer and looks which others are in the run. Belongs to the network thread.

    Args:
        local: this peer's side of any exchange.
        directory: has the records of all members.
    """

    def __init__(self, local: LocalContext, directory: Directory) -> None:
        self._local, self._directory = local, directory
        self._instances = Instances(local.run.context.first_sequence)
        self._displaced: IdentityInUse | None = None
        self._drained = False  # what this peer's record says
        self._looks = 0

    @property
    def next_sequence(self) -> int:
        """Beyond that of any record of this peer so far."""
        return self._instances.sequence + 1

    @property
    def sequence(self) -> int:
        """That of this peer's last record."""
        return self._instances.sequence

    async def announce(self) -> None:
        """Make this peer's record known, unless it is leaving.

        Raises:
            DirectoryError: if no member of the DHT took it.
            IdentityInUse: if another process with this peer's identity began earlier, and is alive.
        """
        local = self._local
        if not local.departure.leaving:
            await self._look_for_others()
        if self._displaced is not None:
            raise self._displaced
        if local.departure.leaving:
            return
        self._instances.sequence += 1
        await self._directory.announce(self._record())

    def _record(self) -> PeerRecord:
        local = self._local
        return PeerRecord(
            peer=local.peer,
            run=local.run.context.run,
            schema_hash=local.vector.schema_hash,
            addresses=(local.run.context.software.told,),
            step=local.own.progress.step,
            loss=local.own.loss(),
            weight=local.own.weight,
            drained=local.own.condition.drained,
            steps_per_second=local.own.step_rate.steps_per_second,
            partners=local.journal.latest(PARTNERS_TOLD),
            group=local.run.context.group,
            sequence=self._instances.sequence,
            **local.run.topology.claim(),
        )

    async def _look_for_others(self) -> None:
        """See whether another process has this peer's identity."""
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
        where = ", ".join(own.places) or "unknown addresses"
        if other == "earlier":
            local.departure.leave()  # no word more of this process: it would be taken for the other's
            self._displaced = IdentityInUse(
                f"peer {local.peer} is alive elsewhere, with the same identity, since before this process began "
                f"(there: instance {own.sequence}, step {own.step}, {where}; here: instance {self.sequence}). "
                "This one ends, that one goes on. End that one first, or give each an identity of its own (--identity)"
            )
            return
        there = f"instance {own.sequence}, {where}"
        text = f"another process used this peer's identity ({there}): it began later, and ends by that"
        local.events.add("duplicate", text, instance=own.sequence)
        log.warning("%s", text)

    async def refresh(self) -> None:
        """Read which others are in the run, and how this peer does.

        Raises:
            DirectoryError: if the directory does not answer.
        """
        local = self._local
        local.own.condition.look()  # whether the directory answers or not
        local.own.step_rate.mark(asyncio.get_running_loop().time(), local.own.progress.step)
        try:
            self._directory.want(self._wanted())
            listed = await self._directory.members()
        except DirectoryError:
            # A silent member is so whether the directory answers or not.
            local.members.look_apart(local.own.progress.step)
            raise
        now = asyncio.get_running_loop().time()
        local.members.reached = self._directory.neighbours
        local.members.look(listed, now, self._directory.count, self._directory.reads)
        local.members.look_apart(local.own.progress.step)
        local.own.look_back(now)
        local.own.weigh()
        if local.own.condition.drained != self._drained:
            self._drained = local.own.condition.drained
            await self.announce()
        await self.look()

    def _wanted(self) -> list[str]:
        """Whom to ask the directory for by name; first, in turns, some that a partition took.

        This peer may see another sample of a large run than before: nothing else would tell it that they are back.
        """
        contacts, lost = self._local.members.contacts, list[str]()
        if self._directory.count > VIEW_MAX:
            lost = [peer for peer in sorted(self._local.members.apart.away) if self._directory.reads(peer)]
        begin = self._looks * LOST_WANTED % max(1, len(lost))
        self._looks += 1
        return [*(lost[begin:] + lost[:begin])[:LOST_WANTED], *contacts]

    async def look(self) -> None:
        """Let the topology judge anew which members are there.

        Raises:
            DirectoryError: if what follows could not be announced.
        """
        await self._local.run.topology.look(self.announce)
