"""Joining late: take the parameters of members that are ahead, before the first own step.

    see members -> nobody ahead: begin
                -> donors -> parts of each, at the same time -> try them on own examples -> begin from there
                -> nothing came for PATIENCE_SECONDS: begin as it is, and copy at the first exchange

By elastic gossip and its like members are near each other, so that a vector whose parts come from several of them is
about as far from their average as each of them is. If they are far apart that does not hold: the result then does
clearly worse on the newcomer's examples than its donors say, and everything is fetched again from one donor alone. The
topology says which members a newcomer can copy.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from torch import Tensor

from p2p_elastic.peers.lifecycle.download import Download, Failure, Fetcher
from p2p_elastic.peers.membership.liveness import is_ahead
from p2p_elastic.peers.membership.newcomer import CaughtUp, Fetching, Measured
from p2p_elastic.peers.membership.periodic import attempt
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.transport.interfaces import Transport
from p2p_elastic.protocol.framing import CHUNK_BYTES_MAX
from p2p_elastic.protocol.messages import DeclineReason
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.trial import as_good_as, is_above

log = logging.getLogger(__name__)
DONORS = 4  # asked at the same time
SEE_SECONDS = 5.0  # that members are looked for
REFRESH_SECONDS = 0.2
PATIENCE_SECONDS = 30.0  # without more than a chunk: begin as it is
DECLINED_SECONDS, FAILED_SECONDS = 1.0, 5.0  # that a donor is left alone, doubled each time
MIXED_SHARE, SINGLE_SHARE = 0.25, 0.5  # of the way from what donors claim back to where training began


Try = Callable[[Tensor], Awaitable["Measured | None"]]
"""Parameters [D] -> how they do on this peer's examples; None if that cannot be measured."""


def disbelief(download: Download, untrained: float | None, measured: Measured) -> str | None:
    """Say why what was fetched is not worth beginning with.

    Its donors were trained on other examples than those here: what they claim may be much less than they give here. It
    may be a part of the way back to the `untrained` loss, a shorter one for parts of several donors.

    Args:
        download: what was fetched, with the loss that its donors claim.
        untrained: the loss that this peer would begin with otherwise, in nats; None if it is not known.
        measured: the loss of what was fetched, on this peer's examples.

    Returns:
        The reason; None if it is worth it.
    """
    claimed = untrained if download.loss is None else download.loss
    if claimed is None or untrained is None:
        return None
    share = MIXED_SHARE if len(download.given) > 1 else SINGLE_SHARE
    most = max(as_good_as(claimed), claimed + share * (untrained - claimed))
    if not is_above(measured.loss, measured.error, most):
        return None
    return f"a loss of {claimed:.3g} was claimed, this peer's examples give {measured.loss:.3g}"


class CatchingUp:
    """One newcomer's catching up. Belongs to the network thread.

    Args:
        local: this peer's side of any exchange.
        transport: opens streams.
        limits: of each conversation, and the size of a part.
        rng: chooses donors among the healthy ones.
        refresh: reads the directory.
    """

    def __init__(
        self,
        local: LocalContext,
        transport: Transport,
        limits: Limits,
        rng: random.Random,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._local, self._rng, self._refresh, self._part_elements = local, rng, refresh, limits.part_elements
        self.fetcher = Fetcher(lambda: local.run.asking, transport, limits, rng, self._gained, local.members.waits)
        self._began_at = self._gained_at = 0.0
        self._pauses: dict[str, tuple[float, int]] = {}  # donor -> until when it is left alone, and how often it was
        self._refused: set[str] = set()  # not asked again
        self._single = local.run.topology.one_donor
        self._report: Callable[[Fetching], None] = lambda _progress: None
        self._last_failure = ""

    async def bring(self, untrained: float | None, try_out: Try | None) -> CaughtUp | None:
        """Fetch what to begin with, and note in the status of the arrival what came of it.

        Args:
            untrained: the loss that this peer would begin with otherwise, in nats; None if it is not known.
            try_out: tries parameters on this peer's examples; None: they are taken untried.

        Returns:
            None if there is nothing to begin with; the status of the arrival says why.
        """
        local, fetcher, result = self._local, self.fetcher, "interrupted"
        arrival = local.own.arrival
        arrival.began(self._now())
        try:
            found = await self.run(untrained, try_out, arrival.fetching)
            result = found if isinstance(found, str) else ""
        finally:
            local.journal.gave((fetcher.bytes_sent, fetcher.bytes_received))
            if result:
                arrival.not_caught_up(result, fetcher.bytes_received, self._now())
        if isinstance(found, str):
            return None
        local.run.topology.caught_up(found)
        arrival.caught_up(found, fetcher.bytes_received, self._now())
        return found

    async def run(
        self, untrained: float | None, try_out: Try | None, report: Callable[[Fetching], None] | None = None
    ) -> CaughtUp | str:
        """Fetch what to begin with.

        Args:
            untrained: the loss that this peer would begin with otherwise, in nats; None if it is not known.
            try_out: tries parameters on this peer's examples; None: they are taken untried.
            report: called with each part that arrives; None: as before.

        Returns:
            What to begin with, or why this peer begins as it is.
        """
        self._report = report or self._report
        self._began_at = self._gained_at = self._now()
        why_alone = self._local.run.topology.why_alone
        if why_alone is not None:
            return why_alone
        await self._see_members()
        alive = self._local.members.alive()
        if not alive:
            return "nobody else is there"
        if not any(self._has_the_run(member.record) for member in alive.values()):
            return "nobody is ahead"
        return await self._fetch(untrained, try_out)

    async def _see_members(self) -> None:
        await attempt(self._refresh)
        while not self._local.members.alive() and self._now() - self._began_at < SEE_SECONDS:
            await asyncio.sleep(REFRESH_SECONDS)
            await attempt(self._refresh)

    async def _fetch(self, untrained: float | None, try_out: Try | None) -> CaughtUp | str:
        local, out = self._local, self._local.vector.empty()
        download, source = Download.begin(out, self._part_elements), None
        while self._now() - self._gained_at < PATIENCE_SECONDS:
            donors = self._donors()
            if not donors:
                await asyncio.sleep(REFRESH_SECONDS)
                await attempt(self._refresh)
                continue
            if self._single and donors[0].peer != source:
                download, source = Download.begin(out, self._part_elements), donors[0].peer
            before = self.fetcher.bytes_received
            failures = await self.fetcher.fill(download, donors, local.run.topology.objection_to)
            if self.fetcher.bytes_received - before > CHUNK_BYTES_MAX:  # a stream that broke over a thin link
                self._gained_at = self._now()
            self._note(failures)
            if not download.complete:
                continue
            measured = None if try_out is None else await try_out(out)
            doubt = None if measured is None else disbelief(download, untrained, measured)
            if doubt is None:
                return self._caught_up(download, measured)
            self._doubted(download, doubt)
            download, source = Download.begin(out, self._part_elements), None
        return f"no healthy member gave its parameters within {PATIENCE_SECONDS:g} s{self._last_failure}"

    def _caught_up(self, download: Download, measured: Measured | None) -> CaughtUp:
        loss = None if measured is None else measured.loss
        return CaughtUp(download.out, tuple(download.given), download.step, download.loss, loss, download.stamp)

    def _donors(self) -> list[PeerRecord]:
        """The members to ask now: several at random of the healthy ones, or the best alone."""
        local, now = self._local, self._now()
        seen = [m.record for m in local.members.alive().values() if self._may_ask(m.record.peer, now)]
        found = local.run.topology.donors([r for r in seen if self._has_the_run(r)])
        if self._single:
            return found[:1]
        return self._rng.sample(found, min(DONORS, len(found)))

    def _has_the_run(self, record: PeerRecord) -> bool:
        """Whether a member's parameters are the run's: it has trained, or the run's first ones are its own."""
        return is_ahead(record, 0) or record.peer == self._local.run.context.origin

    def _may_ask(self, peer: str, now: float) -> bool:
        until = self._pauses.get(peer, (0.0, 0))[0]
        return peer not in self._refused and now >= until

    def _note(self, failures: dict[str, Failure]) -> None:
        for peer, failure in failures.items():
            log.info("catching up: %s gave nothing: %s: %s", peer, failure.outcome.value, failure.reason)
            self._last_failure = f"; {peer}: {failure.reason}"
            if failure.outcome is Outcome.REFUSED:
                self._local.journal.streams_refused["wrong parts"] += 1
                self._refused.add(peer)
                continue
            times = self._pauses.get(peer, (0.0, 0))[1]
            first = DECLINED_SECONDS if failure.outcome is Outcome.DECLINED else FAILED_SECONDS
            soon = failure.reason == DeclineReason.NOT_TRAINING  # a long step: its copy comes with the next one
            self._pauses[peer] = self._now() + first * (1 if soon else 2**times), times + 1

    def _doubted(self, download: Download, doubt: str) -> None:
        who = ", ".join(download.given)
        log.warning("catching up: the parameters of %s are not believed: %s", who, doubt)
        self._last_failure = f"; {who}: {doubt}"
        if len(download.given) == 1:
            self._refused.update(download.given)
        self._single = True  # they are far apart, or one of them lies

    def _gained(self, download: Download) -> None:
        self._gained_at = self._now()
        self._report(
            Fetching(
                download.parts_here,
                download.parts,
                self.fetcher.bytes_received,
                len(download.given),
                self._gained_at - self._began_at,
            )
        )

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
