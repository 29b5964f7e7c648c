"""Fetching other peers' parameters in parts, from several of them at once; what has arrived is kept."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.gossip.initiator import new_id
from p2p_elastic.peers.membership.run_context import Asking
from p2p_elastic.peers.session.call import Call, outcome_of
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.session.deadlines import Waits
from p2p_elastic.peers.transport.interfaces import Transport
from p2p_elastic.protocol.chunks import EXACT, Vectors, bytes_of
from p2p_elastic.protocol.exchange import fetch
from p2p_elastic.protocol.messages import DeclineReason, Fetch, Given, Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord

BUSY_SECONDS = 0.2  # first pause before a busy donor is asked again; doubled each time
BUSY_TIMES = 5
SLOW_SECONDS_MIN = 2.0  # for a last part while others idle; or as long as all took so far, if that is more
DIGEST_BYTES = 1 << 18


Objection = Callable[[Given], DeclineReason | None]
"""Why what a donor gives will not do; None if it does."""


class Failure(NamedTuple):
    """Why a donor gave nothing.

    Attributes:
        outcome: REFUSED if it broke the protocol: then it is not to be asked again.
        reason: shown to users.
    """

    outcome: Outcome
    reason: str


def parts_of(elements: int, part_elements: int) -> list[Part]:
    """Divide a vector into parts, in order.

    Args:
        elements: of the vector.
        part_elements: of each part; the last one may be shorter.

    Returns:
        (start, stop) of each.

    Example:
        >>> parts_of(10, 4)
        [(0, 4), (4, 8), (8, 10)]
    """
    return [(start, min(start + part_elements, elements)) for start in range(0, elements, part_elements)]


async def digest_of(data: memoryview) -> str:
    """Digest a part in slices, between which other tasks have their turn: a part takes 10 ms.

    Args:
        data: its bytes.

    Returns:
        BLAKE2b, 32 bytes, hexadecimal.
    """
    found = hashlib.blake2b(digest_size=32)
    for start in range(0, len(data), DIGEST_BYTES):
        found.update(data[start : start + DIGEST_BYTES])
        await asyncio.sleep(0)
    return found.hexdigest()


@dataclass(eq=False)
class Download:
    """A vector that is being put together from parts.

    Attributes:
        out: the vector [D].
        todo: parts that no donor is asked for at present.
        parts: how many there are.
        given: donor -> the header of the part that came from it last.
        parts_here: parts that are whole and right.
        nbytes: of those.
    """

    out: Tensor
    todo: deque[Part]
    parts: int
    given: dict[str, Given] = field(default_factory=dict)
    parts_here: int = 0
    nbytes: int = 0

    @classmethod
    def begin(cls, out: Tensor, part_elements: int) -> Download:
        """Begin a download of which nothing is here yet.

        Args:
            out: where it goes [D].
            part_elements: of each part.

        Returns:
            The download, with all parts to do.
        """
        parts = parts_of(len(out), part_elements)
        return cls(out, deque(parts), len(parts))

    @property
    def complete(self) -> bool:
        """Whether all parts are here."""
        return self.parts_here == self.parts

    @property
    def step(self) -> int:
        """That of the donor that is the furthest."""
        return max(given.step for given in self.given.values())

    @property
    def loss(self) -> float | None:
        """The highest that a donor claims, in nats; None if one claims none."""
        claimed = [given.loss for given in self.given.values()]
        return None if None in claimed else max(loss for loss in claimed if loss is not None)

    @property
    def stamp(self) -> Stamp | None:
        """The freshest, of the centre variable; None if something else is in here."""
        stamps = [given.centre for given in self.given.values()]
        return None if None in stamps else max((s for s in stamps if s is not None), key=lambda s: s.age)


class Fetcher:
    """Asks donors for parts of their parameters. Belongs to the network thread.

    Args:
        asking: gives what this peer says of itself when it asks.
        transport: opens streams.
        limits: of each conversation.
        rng: for the ids of fetches.
        gained: called with each part that arrived.
        waits: gives the learnt deadlines of a donor, which learn from each part; None: those of `limits`.
    """

    def __init__(
        self,
        asking: Callable[[], Asking],
        transport: Transport,
        limits: Limits,
        rng: random.Random,
        gained: Callable[[Download], None] = lambda _download: None,
        waits: Callable[[PeerRecord], Waits | None] = lambda _donor: None,
    ) -> None:
        self._asking, self._transport, self._limits, self._rng = asking, transport, limits, rng
        self._gained, self._waits = gained, waits
        self.bytes_sent = self.bytes_received = 0

    async def fill(
        self, download: Download, donors: Sequence[PeerRecord], objection_to: Objection | None = None
    ) -> dict[str, Failure]:
        """Fetch what is missing, from several donors at the same time, each part from one of them.

        The parts of a donor that fails go to the others, as far as there are any left. A donor that is much slower than
        the others fails too.

        Args:
            download: what is here already; it is filled.
            donors: those to ask.
            objection_to: says why what a donor gives will not do; None: all will do.

        Returns:
            Donor -> why it failed.
        """
        failures: dict[str, Failure] = {}
        workers = {
            asyncio.ensure_future(self._work(download, donor, failures, objection_to)): donor.peer
            for donor in donors[: max(1, len(download.todo))]
        }
        try:
            slow = await self._until_idle(workers, failures)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return {**failures, **{workers[one]: Failure(Outcome.TIMEOUT, "slower than the others") for one in slow}}

    async def _until_idle(
        self, workers: Mapping[asyncio.Task[None], str], failures: Mapping[str, Failure]
    ) -> set[asyncio.Task[None]]:
        """Wait for all of them; once one has nothing left to do, not for those much slower, which are returned."""
        began, left, idle = asyncio.get_running_loop().time(), set(workers), False
        while left:
            took = asyncio.get_running_loop().time() - began
            done, left = await asyncio.wait(
                left, timeout=max(took, SLOW_SECONDS_MIN) if idle else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for worker in done:
                worker.result()
            idle = idle or any(workers[worker] not in failures for worker in done)
        return left

    async def _work(
        self, download: Download, donor: PeerRecord, failures: dict[str, Failure], objection_to: Objection | None
    ) -> None:
        step, busy = None, 0
        while download.todo:
            part = download.todo.popleft()
            got: Given | Failure = Failure(Outcome.BROKEN, "given up")
            try:
                got = await self.part(donor, part, step, download.out[slice(*part)])
                objection = objection_to(got) if objection_to is not None and isinstance(got, Given) else None
                if objection is not None:
                    got = Failure(Outcome.DECLINED, objection.value)
            finally:  # cancelled, too
                if isinstance(got, Failure):
                    download.todo.appendleft(part)
            if isinstance(got, Given):
                step, busy = got.step, 0
                download.given[donor.peer] = got
                download.parts_here += 1
                download.nbytes += (part[1] - part[0]) * download.out.itemsize
                self._gained(download)
            elif got.reason == DeclineReason.BUSY and busy < BUSY_TIMES:
                await asyncio.sleep(BUSY_SECONDS * 2**busy)
                busy += 1
            else:
                failures[donor.peer] = got
                return

    async def part(self, donor: PeerRecord, part: Part, step: int | None, out: Tensor) -> Given | Failure:
        """Fetch one part of one donor's parameters.

        Args:
            donor: the one to ask.
            part: (start, stop).
            step: of the donor, if it has a copy of that still; None: any.
            out: where the part goes [stop - start].

        Returns:
            The header that came with the part, or why none came: also if the part has another digest than its header.

        Raises:
            asyncio.CancelledError: if it is given up; the errors of an exchange are returned.
        """
        asking = self._asking()
        exact = asking._replace(codec=EXACT)  # what a newcomer begins with is what its donor has
        asked = Fetch(id=new_id(self._rng), **exact._asdict(), origin=donor.peer, part=part, step=step)
        call = Call(self._transport, donor, self._limits, self._waits(donor), self._count)
        try:
            async with call as conversation:
                direct = conversation.carriers.meet(
                    self._transport.direct.ask(donor, 1, out.nbytes, relayed=conversation.stream.relayed)
                )
                asked = asked.model_copy(update={"direct": direct})
                answer = await conversation.run(fetch(asked), Vectors.into(out))
            if answer.given is not None and await digest_of(bytes_of(out)) != answer.given.digest:
                raise RemoteProtocolError("the part has another digest than it was given with", partner=donor.peer)
        except ExchangeError as error:
            return Failure(outcome_of(error) if call.opened else Outcome.UNREACHABLE, str(error))
        if answer.given is not None:
            return answer.given
        return Failure(Outcome.REFUSED if answer.refused else Outcome.DECLINED, answer.reason or "gave nothing")

    def _count(self, traffic: tuple[int, int]) -> None:
        self.bytes_sent += traffic[0]
        self.bytes_received += traffic[1]
