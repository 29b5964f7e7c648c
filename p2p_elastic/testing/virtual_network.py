"""A network and a clock that are not there: the same `Peer` in virtual time, seeded and repeatable.

Faults live here, as verdicts of the network on each open and each piece sent; production code has none. A run on
`VirtualClockLoop` takes as long as its computations do, however many simulated hours pass, and fails at once with
`SimulationDeadlock` where everybody waits for ever.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import DirectoryError, ExchangeTimeout, PartnerUnreachable
from p2p_elastic.peers.transport.interfaces import Handler
from p2p_elastic.protocol.chunks import Incoming, Outgoing
from p2p_elastic.protocol.records import PeerRecord

T = TypeVar("T")
STREAM_BYTES_MAX = 1 << 20  # a sender waits while so much is under way: back-pressure


class Verdict(NamedTuple):
    """What the network does with one piece, or with the opening of a stream.

    pass: it arrives after `seconds`. cut: the stream breaks, both ends see it. corrupt: it arrives changed. silence: it
    and all that follows in this direction vanish, and nobody is told.
    """

    action: Literal["pass", "cut", "corrupt", "silence"] = "pass"
    seconds: float = 0.001


class Event(NamedTuple):
    """What a verdict is asked about: a stream opened, a piece of `nbytes` sent, a record announced, or the record of
    `source` read by `target`."""

    source: str
    target: str
    kind: Literal["open", "piece", "announce", "record"]
    nbytes: int
    number: int  # of the piece in its direction of the stream, from 0
    now: float


Judge = Callable[[Event], Verdict]


@dataclass
class SimulatedNetwork:
    """Everything between the simulated peers. `faults` counts the verdicts other than pass, by action."""

    judge: Judge = field(default=lambda _event: Verdict())
    faults: Counter[str] = field(default_factory=Counter)
    handlers: dict[str, list[Handler]] = field(default_factory=dict)  # by peer id, of each process; the last serves
    records: dict[str, tuple[PeerRecord, float]] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    streams: defaultdict[str, dict[SimulatedStream, None]] = field(default_factory=lambda: defaultdict(dict))

    def verdict(
        self, source: str, target: str, kind: Literal["open", "piece", "announce", "record"], **about: int
    ) -> Verdict:
        now = asyncio.get_running_loop().time()
        verdict = self.judge(Event(source, target, kind, about.get("nbytes", 0), about.get("number", 0), now))
        if verdict.action != "pass":
            self.faults[verdict.action] += 1
        return verdict

    def transport(self, peer: str) -> SimulatedTransport:
        return SimulatedTransport(self, peer)

    def directory(self, peer: str, ttl_seconds: float = 60.0) -> SimulatedDirectory:
        return SimulatedDirectory(self, peer, ttl_seconds)


class _Pipe:
    """One direction of a stream."""

    def __init__(self, network: SimulatedNetwork, source: str, target: str) -> None:
        self._network, self._source, self._target = network, source, target
        self._sent_pieces: deque[bytes] = deque()
        self._arrived: deque[bytes] = deque()
        self._under_way = self._sent = 0
        self._last_arrival = 0.0
        self._changed = asyncio.Event()
        self.closed = self._finished = self._silent = False

    async def send(self, data: bytes) -> None:
        while self._under_way > STREAM_BYTES_MAX and not self.closed:
            await self._wait()
        if self.closed:
            raise PartnerUnreachable("the stream is cut", partner=self._target)
        verdict = self._network.verdict(self._source, self._target, "piece", nbytes=len(data), number=self._sent)
        self._sent += 1
        if verdict.action == "cut":
            raise PartnerUnreachable("the stream is cut", partner=self._target)
        self._silent = self._silent or verdict.action == "silence"
        if (
            self._silent
        ):  # a host that vanished, a firewall that forgot us: nothing arrives any more, and nobody is told
            return
        if verdict.action == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 0x55])
        self._under_way += len(data)
        loop = asyncio.get_running_loop()
        self._last_arrival = max(self._last_arrival, loop.time() + verdict.seconds)
        self._sent_pieces.append(data)
        # What is under way belongs to nobody: a sender that is stopped meanwhile does not hold it back.
        loop.call_at(self._last_arrival, self._arrive, context=Context())

    def _arrive(self) -> None:
        """One piece arrives: the oldest, since timers that end at the same time fire in any order."""
        if self._sent_pieces:  # not cut meanwhile
            self._arrived.append(self._sent_pieces.popleft())
        self._changed.set()

    async def receive_into(self, buffer: memoryview) -> None:
        filled = 0
        while filled < len(buffer):
            while not self._arrived:
                if self.closed or (self._finished and not self._sent_pieces):
                    raise PartnerUnreachable("the stream ended", partner=self._source)
                await self._wait()
            piece = self._arrived.popleft()
            taken = piece[: len(buffer) - filled]
            buffer[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) < len(piece):
                self._arrived.appendleft(piece[len(taken) :])
            self._under_way -= len(taken)
            self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def finish(self) -> None:
        """No more will be sent; what is under way still arrives."""
        self._finished = not self._silent
        self._changed.set()

    def cut(self) -> None:
        """Nothing arrives any more."""
        self.closed = True
        self._sent_pieces.clear()
        self._arrived.clear()
        self._changed.set()


class SimulatedStream:
    """One end of a simulated stream. It is in `streams`, in the order of opening, until it ends."""

    def __init__(self, partner: str, outgoing: _Pipe, incoming: _Pipe, streams: dict[SimulatedStream, None]) -> None:
        self.partner, self._outgoing, self._incoming, self._streams = partner, outgoing, incoming, streams
        streams[self] = None

    async def send(self, data: bytes | memoryview) -> None:
        try:
            await self._outgoing.send(bytes(data))
        except PartnerUnreachable:
            self.abort()
            raise

    async def receive_into(self, buffer: memoryview) -> None:
        await self._incoming.receive_into(buffer)

    async def transfer(self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float) -> float:
        loop, moved, longest = asyncio.get_running_loop(), asyncio.Event(), 0.0

        async def timed(wait: Coroutine[Any, Any, object]) -> None:
            nonlocal longest
            began = loop.time()
            try:
                await wait_for(wait, gap_seconds)
            except asyncio.TimeoutError as error:
                raise ExchangeTimeout(f"nothing came of it within {gap_seconds:.3g} s", partner=self.partner) from error
            longest = max(longest, loop.time() - began)

        async def send(outgoing: Outgoing) -> None:
            for header, chunk in outgoing.pieces():
                moved.set()
                await timed(self.send(header))
                await timed(self.send(chunk))
            moved.set()

        async def until_sent(chunks: int) -> None:
            while outgoing is not None and outgoing.sent < chunks:
                moved.clear()
                await moved.wait()

        async def fill(incoming: Incoming) -> None:
            for piece in incoming.pieces():
                await timed(until_sent(piece) if isinstance(piece, int) else self.receive_into(piece))

        ways = [send(outgoing)] if outgoing is not None else []
        tasks = [asyncio.ensure_future(way) for way in [*ways, *([fill(incoming)] if incoming is not None else [])]]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return longest

    async def close(self) -> None:
        self._streams.pop(self, None)
        self._outgoing.finish()
        self._incoming.cut()

    def abort(self) -> None:
        self._streams.pop(self, None)
        self._outgoing.cut()
        self._incoming.cut()


class SimulatedTransport:
    """`Transport` over a SimulatedNetwork."""

    def __init__(self, network: SimulatedNetwork, peer: str) -> None:
        self._network, self.peer = network, peer
        self._handler: Handler | None = None

    async def open(self, record: PeerRecord) -> SimulatedStream:
        partner = record.peer
        verdict = self._network.verdict(self.peer, partner, "open")
        await asyncio.sleep(verdict.seconds)
        if verdict.action != "pass" or partner not in self._network.handlers:
            raise PartnerUnreachable("nobody answers there", partner=partner)
        there, back = _Pipe(self._network, self.peer, partner), _Pipe(self._network, partner, self.peer)
        served = SimulatedStream(self.peer, back, there, self._network.streams[partner])
        task = asyncio.ensure_future(self._serve(partner, served))
        self._network.tasks.add(task)
        task.add_done_callback(self._network.tasks.discard)
        return SimulatedStream(partner, there, back, self._network.streams[self.peer])

    async def _serve(self, partner: str, stream: SimulatedStream) -> None:
        handlers = self._network.handlers.get(partner)
        try:
            if handlers:
                await handlers[-1](stream)
        finally:
            await stream.close()

    async def serve(self, handler: Handler) -> None:
        self._handler = handler
        self._network.handlers.setdefault(self.peer, []).append(handler)

    async def close(self) -> None:
        """End serving; where this transport never served, that of every process with this peer id."""
        others = [h for h in self._network.handlers.pop(self.peer, []) if self._handler not in (None, h)]
        if others:
            self._network.handlers[self.peer] = others
        for stream in list(self._network.streams.pop(self.peer, {})):
            stream.abort()


class SimulatedDirectory:
    """`Directory` over a SimulatedNetwork: announcements may be lost, and expire."""

    def __init__(self, network: SimulatedNetwork, peer: str, ttl_seconds: float) -> None:
        self._network, self._peer, self._ttl_seconds = network, peer, ttl_seconds
        self._announcing = asyncio.Lock()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def announce(self, record: PeerRecord) -> None:
        if record.peer != self._peer:
            raise DirectoryError(f"{self._peer} cannot announce {record.peer}")
        async with self._announcing:
            verdict = self._network.verdict(self._peer, "*", "announce")
            await asyncio.sleep(verdict.seconds)
            if verdict.action != "pass":
                raise DirectoryError("the announcement was lost")
            self._network.records[self._peer] = record, self._now() + self._ttl_seconds

    async def own(self, run: str) -> PeerRecord | None:
        record, expires = self._network.records.get(self._peer, (None, 0.0))
        return record if record is not None and record.run == run and expires > self._now() else None

    async def withdraw(self) -> None:
        async with self._announcing:
            known = self._network.records.get(self._peer)
            if known is not None:
                goodbye = known[0].model_copy(update={"left": True, "sequence": known[0].sequence + 1})
                self._network.records[self._peer] = goodbye, known[1]

    async def members(self) -> tuple[PeerRecord, ...]:
        now = self._now()
        own = self._network.records.get(self._peer)
        listed = [
            record
            for record, expires in self._network.records.values()
            if expires > now and record.peer != self._peer and (own is None or record.run == own[0].run)
        ]
        return tuple(r for r in listed if self._network.verdict(r.peer, self._peer, "record").action == "pass")
