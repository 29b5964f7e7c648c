"""What a peer does again and again while it runs: it announces, looks at the members and begins exchanges."""

from __future__ import annotations

import asyncio
import contextlib

from p2p_elastic.peers.gossip.errands import Errands
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.lifecycle.other_models import OtherModels
from p2p_elastic.peers.membership.periodic import attempt, every
from p2p_elastic.peers.state.context import LocalContext

SOON_SHARE = 0.2  # of the interval between announcements, until the second one


class NetworkTasks:
    """The tasks of a running peer. Belongs to the network thread.

    Args:
        local: the parts of this peer.
        presence: announces it, and reads the directory.
        errands: the exchanges that are due.
        due: set when a snapshot waits for an exchange to begin with it.
        others: asks members that have another model what it is.
    """

    def __init__(
        self, local: LocalContext, presence: Presence, errands: Errands, due: asyncio.Event, others: OtherModels
    ) -> None:
        self._local, self._presence, self._errands, self._due = local, presence, errands, due
        self._others = others
        self._loop: asyncio.AbstractEventLoop | None = None
        self._to_attend, self._to_ask = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Announce, refresh and initiate until cancelled."""
        self._loop, context = asyncio.get_running_loop(), self._local.run.context
        await attempt(self._presence.announce)  # first: the directory lists the members of the run that was announced
        tasks = [
            asyncio.ensure_future(every(context.announce_seconds, self._presence.announce)),
            asyncio.ensure_future(self._announce_soon()),
            asyncio.ensure_future(every(context.refresh_seconds, self.refresh)),
            asyncio.ensure_future(self._attend()),
            asyncio.ensure_future(self._ask_others()),
            asyncio.ensure_future(self._initiate_forever()),
        ]
        if context.standby:
            tasks.append(asyncio.ensure_future(every(context.announce_seconds, self._stand_by)))
        try:
            await asyncio.gather(*tasks)
        finally:
            while left := [task for task in tasks if not task.done()]:  # one may swallow a cancellation: so again
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=0.1)

    async def refresh(self) -> None:
        """Read which others are in the run, and how this peer does.

        Raises:
            DirectoryError: if the directory does not answer.
        """
        await self._presence.refresh()
        if self._local.run.topology.pending:
            self._to_attend.set()
        if self._others.pending:
            self._to_ask.set()

    def weigh_at_once(self) -> None:
        """Weigh this peer, if its condition was changed on its event loop: the caller is told what comes of it."""
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread: the next refresh weighs
            if asyncio.get_running_loop() is self._loop:
                self._local.own.weigh()

    async def _announce_soon(self) -> None:
        """The first record says that this peer has not begun: a later joiner would think that nobody is ahead."""
        await asyncio.sleep(SOON_SHARE * self._local.run.context.announce_seconds)
        await attempt(self._presence.announce)

    async def _attend(self) -> None:
        """Do what the topology has to do, with a pause of one announcement between two tries, until cancelled."""
        while True:
            await self._to_attend.wait()
            self._to_attend.clear()
            while self._local.run.topology.pending:
                await self._local.run.topology.attend()
                await asyncio.sleep(self._local.run.context.announce_seconds)

    async def _ask_others(self) -> None:
        """Ask members that have another model, one after each look at the directory, until cancelled."""
        while True:
            await self._to_ask.wait()
            self._to_ask.clear()
            await self._others.ask()

    async def _stand_by(self) -> None:
        await self._local.run.topology.stand_by()

    async def _initiate_forever(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            seconds = await self._local.run.topology.run_due(self._errands.current)
            if seconds is not None:
                self._errands.postpone(asyncio.get_running_loop().time() + seconds)
