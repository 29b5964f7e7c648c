"""A peer on loopback that exchanges on command: what the benchmarks measure, put together as `join` does."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from p2p_elastic.bench.delay import DelayProxy
from p2p_elastic.bench.figures import forget_peak, peak_bytes, resident_bytes
from p2p_elastic.errors import P2PElasticError
from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.peers.direct.tcp_wire import DirectPort
from p2p_elastic.peers.discovery.live_network import LiveNetwork, NetworkThread
from p2p_elastic.peers.exchange.slot import Phase
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.socket_stream import SocketStream
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.schema import ExchangeRecord

BARE_PROTOCOL = "/p2p-elastic/bench/1"
PIECE_BYTES = 1 << 20
POLL_SECONDS = 0.001
WAKE_SECONDS = 0.05
EXCHANGE_SECONDS_MAX, ENTER_SECONDS_MAX = 300.0, 5.0
RUN = "bench"


@dataclass(frozen=True)
class Setup:
    """One end of a benchmark.

    Attributes:
        megabytes: size of the model in float32, if it has no `width`.
        period: steps between exchanges that it asks for; None only answers.
        codec: how parameters travel.
        fragments: F; an exchange moves one of F parts.
        streams: for the parameters; None lets the peer choose.
        weighting: `dynamic` keeps a second vector.
        initial_peer: multiaddr of the other end; None founds the run.
        port: TCP port for peers; 0 is any free one.
        announce: multiaddrs at which others reach it; if it is empty, they are found.
        width: of the layers of an MLP; 0 is a model of four equal parameters.
        direct: whether vectors may travel over direct connections.
        direct_port: TCP port for these; 0 is any free one.
        direct_told: that port as others reach it; None is the same.
    """

    megabytes: float
    period: int | None = None
    codec: str = "none"
    fragments: int = 1
    streams: int | None = None
    weighting: Literal["fixed", "dynamic"] = "fixed"
    initial_peer: str | None = None
    port: int = 0
    announce: tuple[str, ...] = ()
    width: int = 0
    direct: bool = True
    direct_port: int = 0
    direct_told: int | None = None

    def over(self, proxy: DelayProxy, direct: DelayProxy) -> Setup:
        """Put proxies before this end.

        Args:
            proxy: forwards to it.
            direct: forwards direct connections to it.

        Returns:
            The changed setup.
        """
        announce = (f"/ip4/127.0.0.1/tcp/{proxy.port}",)
        changed = replace(self, port=proxy.target, announce=announce)
        return replace(changed, direct_port=direct.target, direct_told=direct.port)

    def joining(self, address: str) -> Setup:
        """Join the run of another end.

        Args:
            address: multiaddr of the other end.

        Returns:
            The changed setup.
        """
        return replace(self, initial_peer=address)

    def model(self, value: float) -> nn.Module:
        """Build the model.

        Args:
            value: of all parameters, if it has no `width`.

        Returns:
            The model.
        """
        return mlp(self.width) if self.width else model_of(self.megabytes, value)


def mlp(width: int) -> nn.Module:
    """Build three layers with ReLU.

    Args:
        width: inputs and outputs of each layer.

    Returns:
        The model.
    """
    return nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())))


def model_of(megabytes: float, value: float) -> nn.Module:
    """Build a model of four equal parameters.

    Args:
        megabytes: of all parameters in float32, in millions of bytes.
        value: of all parameters.

    Returns:
        The model.

    Example:
        >>> sum(p.nbytes for p in model_of(4.0, 1.0).parameters())
        4000000
    """
    size = max(1, round(megabytes * 1e6 / 16))
    return nn.ParameterList([nn.Parameter(torch.full((size,), value)) for _ in range(4)])


class _Watched(ParameterVector):
    """A vector that notes when a move was added."""

    added_at: float | None = None

    def add_(self, move: Tensor, part: Part | None = None, share: float = 1.0) -> None:
        super().add_(move, part, share)
        self.added_at = time.perf_counter()


class Took(NamedTuple):
    """Seconds of one exchange.

    Attributes:
        seconds: from the call that takes the snapshot until the move is added.
        asking: those of them that the peer's own journal counts, from asking until the move is handed over.
    """

    seconds: float
    asking: float


class LivePeer:
    """A peer of the run `bench`, on a network thread of its own. A context manager; nothing is left behind.

    Args:
        setup: of this end.
        model: its parameters; moves are added to them.
    """

    def __init__(self, setup: Setup, model: nn.Module) -> None:
        self._setup, self.model = setup, model
        self.thread = NetworkThread()

    def __enter__(self) -> LivePeer:
        setup = self._setup
        self.thread.__enter__()
        try:
            self.network = LiveNetwork(
                Identity.generate(), [setup.initial_peer] if setup.initial_peer else [], setup.announce
            )
            direct = DirectPort(setup.direct_port, setup.direct_told) if setup.direct else None
            self.thread.call(self.network.open("127.0.0.1", setup.port, direct))
            self.bare = BareStream(self)
            self.resident_before = resident_bytes()
            self.peer = self._peer()
            self.thread.call(self.network.stay_attached())
            self._life = self.thread.spawn(self.peer.run())
        except BaseException:
            self.thread.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_life"):
            self._life.cancel()
        self.thread.call(self.network.close())
        self.thread.__exit__()

    def _peer(self) -> Peer:
        setup = self._setup
        schedule = Schedule(probability=0.0) if setup.period is None else Schedule(period=setup.period)
        self._vector = _Watched(self.model)
        return Peer(
            vector=self._vector,
            policy=Policy(elastic(0.5), schedule, weighting=setup.weighting),
            transport=self.network.transport,
            directory=self.network.directory,
            context=RunContext(
                run=RUN,
                codec=setup.codec,
                fragments=setup.fragments,
                streams=setup.streams,
                addresses=tuple(self.network.host.addresses),
                announce_seconds=1.0,
                refresh_seconds=0.5,
            ),
        )

    @property
    def pids(self) -> tuple[int, int]:
        """Process ids of this process and of its p2pd."""
        return self.network.host.pids

    def wait_for_partner(self, seconds: float = 30.0) -> None:
        """Wait until another member is there.

        Args:
            seconds: to wait at most.

        Raises:
            P2PElasticError: if none comes.
        """
        end = time.monotonic() + seconds
        while not self.peer.members():
            if time.monotonic() > end:
                raise P2PElasticError(f"no partner appeared within {seconds:g} s")
            time.sleep(0.05)

    def exchange(self) -> Took:
        """Ask for one exchange, and wait until its move is added. A partner that declines is asked again.

        Returns:
            How long that took.

        Raises:
            P2PElasticError: if it fails, or takes too long.
        """
        peer, vector = self.peer, self._vector
        vector.added_at, last = None, self._last()
        first = last
        began = looked_at = time.perf_counter()
        peer.after_step()
        while vector.added_at is None:
            peer.wait(WAKE_SECONDS)
            peer.settle()
            now = time.perf_counter()
            if now - looked_at > WAKE_SECONDS:
                looked_at, before, last = now, last, self._last()
                if last is not None and (before is None or last.id != before.id):
                    self._ask_again(last)
                elif peer.exchange_state.phase is Phase.IDLE:  # what is due waits for a partner that is busy
                    peer.after_step()
            if now - began > EXCHANGE_SECONDS_MAX:
                raise P2PElasticError(f"no exchange came about within {EXCHANGE_SECONDS_MAX:g} s")
        return Took(vector.added_at - began, self._entered(first).seconds)

    def _entered(self, before: ExchangeRecord | None) -> ExchangeRecord:
        """Find the journal's entry of the exchange that just ended; it may be written after the move is added."""
        end = time.monotonic() + ENTER_SECONDS_MAX
        while time.monotonic() < end:
            last = self._last()
            if last is not None and last.outcome is Outcome.COMPLETED and (before is None or last.id != before.id):
                return last
            time.sleep(POLL_SECONDS)
        raise P2PElasticError("an exchange ended, and the peer's journal does not know of it")

    def _last(self) -> ExchangeRecord | None:
        return next(iter(self.peer.last_exchanges()), None)

    def _ask_again(self, last: ExchangeRecord) -> None:
        """Ask again if the partner declined, still adding the last move. Raises P2PElasticError if it failed."""
        if last.outcome is Outcome.DECLINED:
            self.peer.after_step()
        elif last.outcome is not Outcome.COMPLETED:
            raise P2PElasticError(f"the exchange failed: {last.outcome.value}: {last.reason}")

    def settle(self) -> None:
        """Let an exchange that is under way end, and add its move: 2 s."""
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            self.peer.settle()
            self.peer.wait(WAKE_SECONDS)

    def answer_until(self, over: Callable[[], bool]) -> None:
        """Answer a partner's exchanges.

        Args:
            over: says whether to stop.
        """
        self.peer.report_loss(1.0)
        self.peer.after_step()
        while not over():
            self.peer.settle()
            self.peer.wait(WAKE_SECONDS)

    def extra_bytes(self) -> int | None:
        """Measure the peak of memory beyond what the process had, model included, before the peer was built.

        Returns:
            Bytes; None if the system does not say.
        """
        peak = peak_bytes()
        return None if peak is None or self.resident_before is None else peak - self.resident_before

    def forget_peak(self) -> None:
        """Let the peak count from now on."""
        forget_peak()


class BareStream:
    """The same bytes both ways over a libp2p stream, and nothing else: no messages, no checks, no move.

    Two threads on the socket, one sends and one receives, pieces of 1 MiB: the fastest way that is known.

    Args:
        live: its network carries the stream.
    """

    def __init__(self, live: LivePeer) -> None:
        self._live = live
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="bare")
        self._buffers = memoryview(b""), memoryview(bytearray())  # made once: fresh memory costs time
        live.thread.call(live.network.host.serve(BARE_PROTOCOL, self._answer))

    async def _answer(self, stream: SocketStream) -> None:
        """Swap once for each stream, with the number of bytes that the partner names."""
        asked = bytearray(8)
        await stream.receive_into(memoryview(asked))
        await self._swap(stream.socket, int.from_bytes(asked, "big"))
        await stream.receive_into(memoryview(bytearray(1)))  # until it has all

    async def _swap(self, connected: socket.socket, nbytes: int) -> None:
        if len(self._buffers[0]) != nbytes:
            # Written to: memory that never was is one page of zeros, which the cache holds.
            self._buffers = memoryview(bytearray(b"\x01") * nbytes), memoryview(bytearray(nbytes))
        mine, theirs = self._buffers
        loop = asyncio.get_running_loop()
        connected.settimeout(60.0)
        try:
            await asyncio.gather(
                loop.run_in_executor(self._threads, _send, connected, mine),
                loop.run_in_executor(self._threads, _fill, connected, theirs),
            )
        finally:
            connected.setblocking(False)

    def swap(self, partner: str, nbytes: int) -> float:
        """Send bytes each way.

        Args:
            partner: peer id.
            nbytes: each way.

        Returns:
            Seconds, without making room for the bytes.
        """
        return self._live.thread.call(self._ask(partner, nbytes))

    async def _ask(self, partner: str, nbytes: int) -> float:
        stream = await self._live.network.host.open_stream(partner, BARE_PROTOCOL)
        try:
            began = time.perf_counter()
            await stream.send(nbytes.to_bytes(8, "big"))
            await self._swap(stream.socket, nbytes)
            seconds = time.perf_counter() - began
            await stream.send(b".")
        finally:
            await stream.close()
        return seconds


def _send(connected: socket.socket, data: memoryview) -> None:
    for start in range(0, len(data), PIECE_BYTES):
        connected.sendall(data[start : start + PIECE_BYTES])


def _fill(connected: socket.socket, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        count = connected.recv_into(buffer[filled : filled + PIECE_BYTES])
        if not count:
            raise P2PElasticError("the bare stream ended early")
        filled += count


def in_background(work: Callable[[], None]) -> threading.Thread:
    """Run something in a thread of its own, which does not keep the process alive.

    Args:
        work: what to run.

    Returns:
        The thread, started.
    """
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
