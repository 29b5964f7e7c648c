"""An observer of a run: sees its members and fetches what they have, without training and without being chosen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from torch import Tensor

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import DirectoryError, ExchangeError
from p2p_elastic.parameters.schema import Schema
from p2p_elastic.peers.centre.variable import only_centre
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.gossip.initiator import new_id
from p2p_elastic.peers.lifecycle.download import Download, Fetcher
from p2p_elastic.peers.lifecycle.other_models import fetch_schema
from p2p_elastic.peers.membership.periodic import every
from p2p_elastic.peers.membership.run_context import Asking
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.protocol.messages import Describe, Given
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.software import OURS

log = logging.getLogger(__name__)
ANNOUNCE_SECONDS, REFRESH_SECONDS, WITHDRAW_SECONDS = 5.0, 0.5, 1.0
MEMBERS_SECONDS = 10.0  # to look for a member to copy
TRIES, PAUSE_SECONDS = 4, 1.0  # for one member that declines or cannot be reached


class Observer:
    """A member of no weight that asks not to be chosen: no peer chooses it, and no median counts it.

    Args:
        network: attached.
        manifest: of the run.
        limits: of each download.

    Attributes:
        fetcher: downloads parameters, and counts the bytes.
    """

    def __init__(self, network: LiveNetwork, manifest: RunManifest, limits: Limits) -> None:
        self._network, self._manifest, self._limits = network, manifest, limits
        self._elements, self._rng = 0, random.Random(network.identity.peer)
        self.fetcher = Fetcher(self._asking, network.transport, limits, self._rng)
        self._sequence = time.time_ns() // 1_000_000

    def _asking(self) -> Asking:
        manifest = self._manifest
        return Asking(self._network.identity.peer, manifest.run, manifest.schema_hash, self._elements, manifest.codec)

    async def stay(self) -> None:
        """Announce this observer until cancelled."""
        await every(ANNOUNCE_SECONDS, self._announce)

    async def _announce(self) -> None:
        self._sequence += 1
        peer, manifest = self._network.identity.peer, self._manifest
        record = PeerRecord(peer=peer, run=manifest.run, schema_hash=manifest.schema_hash, weight=0.0, drained=True)
        said = {"sequence": self._sequence, "addresses": (OURS.told,)}
        await self._network.directory.announce(record.model_copy(update=said))

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
        self._elements = len(out)
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

    async def schema(self) -> Schema | None:
        """Ask members for the names and shapes of the run's model, one after the other.

        Returns:
            The schema, as the hash in the manifest says; None if nobody tells it.
        """
        for member in await self.members(bool):
            asked = Describe(
                id=new_id(self._rng),
                peer=self._network.identity.peer,
                run=self._manifest.run,
                schema_hash=member.schema_hash,
            )
            try:
                schema = await fetch_schema(asked, member, self._network.transport, self._limits)
            except ExchangeError as error:
                log.info("the schema of %s: %s", member.peer, error)
                continue
            if schema is not None:
                return schema
        return None

    async def difference(self, schema: Schema) -> str | None:
        """Compare a model with the run's, as an observer who leaves afterwards if a member has to be asked.

        Args:
            schema: of the model here.

        Returns:
            The first difference, or the hashes if nobody tells more; None if there is none.
        """
        here, there = schema.hash, self._manifest.schema_hash
        if here == there:
            return None
        try:
            theirs = await self.schema()
        finally:
            await self.leave()
        return (theirs and schema.difference(theirs)) or f"schema {here} here, {there} there"
