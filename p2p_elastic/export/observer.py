"""An observer of a run: sees its members and fetches their parameters, without training and without being chosen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from torch import Tensor

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import DirectoryError, NetworkError
from p2p_elastic.node.run_finder import problems_of
from p2p_elastic.peers.centre.variable import only_centre
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.lifecycle.download import Download, Fetcher
from p2p_elastic.peers.membership.periodic import every
from p2p_elastic.peers.membership.run_context import Asking
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.protocol.messages import Given
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord

log = logging.getLogger(__name__)
ANNOUNCE_SECONDS, REFRESH_SECONDS, WITHDRAW_SECONDS = 5.0, 0.5, 1.0
ATTACH_SECONDS = 1.0
MEMBERS_SECONDS = 10.0  # to look for a member to copy
TRIES, PAUSE_SECONDS = 4, 1.0  # for one member that declines or cannot be reached


async def attached(network: LiveNetwork, seconds: float) -> None:
    """Wait until an initial peer answers.

    Args:
        network: open.
        seconds: to wait at most.

    Raises:
        NetworkError: if none does; the message says what is wrong with each.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await network.directory.attach():
        if loop.time() + ATTACH_SECONDS > end:
            raise NetworkError(f"no initial peer answers:\n{problems_of(network)}")
        await asyncio.sleep(ATTACH_SECONDS)


class Observer:
    """A member of no weight that asks not to be chosen: no peer chooses it, and no median counts it.

    Args:
        network: attached.
        manifest: of the run.
        elements: D, the number of parameters.
        limits: of each download.

    Attributes:
        fetcher: downloads parameters, and counts the bytes.
    """

    def __init__(self, network: LiveNetwork, manifest: RunManifest, elements: int, limits: Limits) -> None:
        self._network, self._manifest, self._limits = network, manifest, limits
        asking = Asking(network.identity.peer, manifest.run, manifest.schema_hash, elements, manifest.codec)
        self.fetcher = Fetcher(lambda: asking, network.transport, limits, random.Random(network.identity.peer))
        self._sequence = time.time_ns() // 1_000_000

    async def stay(self) -> None:
        """Announce this observer until cancelled."""
        await every(ANNOUNCE_SECONDS, self._announce)

    async def _announce(self) -> None:
        self._sequence += 1
        peer, manifest = self._network.identity.peer, self._manifest
        record = PeerRecord(peer=peer, run=manifest.run, schema_hash=manifest.schema_hash, weight=0.0, drained=True)
        await self._network.directory.announce(record.model_copy(update={"sequence": self._sequence}))

    async def leave(self) -> None:
        """Withdraw its record, if that is quick."""
        with contextlib.suppress(asyncio.TimeoutError, DirectoryError):
            await wait_for(self._network.directory.withdraw(), WITHDRAW_SECONDS)

    async def members(self, enough: Callable[[list[PeerRecord]], object]) -> list[PeerRecord]:
        """Look for the members of the run that have its model.

        Args:
            enough: says whether these are enough to stop looking.

        Returns:
            The members, as soon as there are enough; what there is after MEMBERS_SECONDS.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + MEMBERS_SECONDS
        while True:
            found: list[PeerRecord] = []
            try:
                await self._announce()  # the directory lists the members of the run that was announced
                listed = await self._network.directory.members()
                found = [r for r in listed if not r.left and r.schema_hash == self._manifest.schema_hash]
            except DirectoryError as error:
                log.info("directory: %s", error)
            if enough(found) or loop.time() > end:
                return found
            await asyncio.sleep(REFRESH_SECONDS)

    async def take(self, member: PeerRecord, out: Tensor, *, of_centre: bool) -> Given | str:
        """Download the parameters of a member.

        Args:
            member: its record.
            out: [D] float32, written to.
            of_centre: whether to take the centre variable that it holds.

        Returns:
            What the member says of them; or why it did not give them.
        """
        download, why = Download.begin(out, self._limits.part_elements), ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE_SECONDS)
            failures = await self.fetcher.fill(download, [member], only_centre if of_centre else None)
            if download.complete:
                return download.given[member.peer]
            failure = failures[member.peer]
            why = f"{failure.outcome.value}: {failure.reason}"
            if failure.outcome is Outcome.REFUSED:
                break
        return why
