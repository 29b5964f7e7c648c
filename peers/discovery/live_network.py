"""The live network of one peer: host, DHT and directory together, and the thread that they live in."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import random
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from p2p_elastic.common.addresses import announced, parse_address
from p2p_elastic.common.page_address import page_addresses
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import DirectoryError, NetworkError
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.direct.connections import Connections, NoConnections
from p2p_elastic.peers.direct.sealing import aes_is_fast
from p2p_elastic.peers.direct.tcp_wire import DirectPort, TcpWire
from p2p_elastic.peers.discovery.dht_directory import DHTDirectory, Told
from p2p_elastic.peers.discovery.peer_cache import PeerCache
from p2p_elastic.peers.discovery.peer_cache_sync import Remembering
from p2p_elastic.peers.discovery.signed_dht import SignedDHT
from p2p_elastic.peers.relay.places import Places
from p2p_elastic.peers.relay.service import Relay
from p2p_elastic.peers.relay.transport import RelayedTransport
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import DirectConnections
from p2p_elastic.peers.transport.libp2p import Libp2pHost, Libp2pTransport
from p2p_elastic.peers.transport.ports import port_after
from p2p_elastic.peers.transport.start_p2pd import STOPPING
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.manifest import RunManifest, choose_run
from p2p_elastic.status.schema import NetworkStatus

T = TypeVar("T")
log = logging.getLogger(__name__)
SWITCH_SECONDS = 0.0005  # Python's default of 5 ms lets a training thread starve the network: 36 against 395 MB/s
POLL_SECONDS = 0.1
ADDRESS_SECONDS = 30.0
SAVE_SECONDS = 1.0
FIND_RUN_SECONDS = 15.0  # a manifest is announced every 5
REFUSE_SECONDS = 6.0  # until then a run that can be joined may appear beside one that cannot


class Interrupted(Exception):  # not an error: the user asked to stop
    """The wait was given up because the user asked to stop."""


class _SwitchInterval:
    """Python's switch interval, which is one for the process: short while any network thread runs, then as it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._before = self._shortened = 0.0

    def shorten(self) -> None:
        with self._lock:
            if self._running == 0:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(SWITCH_SECONDS, self._before))
                self._shortened = sys.getswitchinterval()
            self._running += 1

    def restore(self) -> None:
        """To be called once for each `shorten`. What other code has set since then stays."""
        with self._lock:
            self._running -= 1
            if self._running == 0 and sys.getswitchinterval() == self._shortened:
                sys.setswitchinterval(self._before)


_SWITCH_INTERVAL = _SwitchInterval()


class NetworkThread:
    """An event loop in a thread of its own, for everything that talks to others; a context that starts and ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="network", daemon=True)

    def __enter__(self) -> NetworkThread:
        _SWITCH_INTERVAL.shorten()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        _SWITCH_INTERVAL.restore()

    def _main(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # of the main thread; not of a p2pd that starts
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(_log_exception)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_cancel_others())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin a coroutine on the loop; for any thread.

        Args:
            coroutine: what to run.

        Returns:
            Its result, to wait for or to cancel.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, T], interrupted: Callable[[], bool] = lambda: False) -> T:
        """Run a coroutine on the loop and wait for it; for any thread but the loop's own.

        Args:
            coroutine: what to run.
            interrupted: asked every POLL_SECONDS; once it is true the coroutine is cancelled.

        Returns:
            The coroutine's result.

        Raises:
            Interrupted: if `interrupted()` was true before the coroutine ended.
        """
        future = self.spawn(coroutine)
        while True:
            try:
                return future.result(POLL_SECONDS)
            except concurrent.futures.TimeoutError:
                if future.done():  # it ended just now, or with a timeout of its own
                    return future.result()
                if interrupted():
                    future.cancel()
                    raise Interrupted from None


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    with contextlib.suppress(asyncio.TimeoutError):
        await wait_for(asyncio.gather(*others, return_exceptions=True), 1.0)


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # hivemind leaves failed tasks behind on timeouts; nobody waits for them and nothing depends on them.
    log.debug("in the network loop: %s: %r", context.get("message"), context.get("exception"))


class LiveNetwork:
    """libp2p, DHT and directory of one peer. Belongs to the network thread; `status` may be read from any.

    Args:
        identity: of this peer.
        initial_peers: multiaddrs of peers with which to begin, from the command line.
        announce: multiaddrs under which others reach this peer; empty: those that libp2p finds.
        cache: where the peers that are met are remembered; None: nowhere.
        clock: what time it is here, until others are met; None: what this machine says.

    Attributes:
        access: who may take part; to be made private before `open`, if it is to be.
    """

    def __init__(
        self,
        identity: Identity,
        initial_peers: Sequence[str],
        announce: Sequence[str] = (),
        cache: PeerCache | None = None,
        *,
        clock: SwarmClock | None = None,
    ) -> None:
        grouped: dict[str, tuple[str, ...]] = {}
        for address in map(parse_address, initial_peers):
            grouped[address.peer] = (*grouped.get(address.peer, ()), str(address))
        self.identity, self._announce = identity, [announced(text, identity.peer) for text in announce]
        self._initial_peers, self._cache = grouped, cache
        self.access = AccessList(identity, SwarmClock() if clock is None else clock)
        self._page: tuple[str, int] | None = None
        self._remembering: Remembering | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._opened = contextlib.AsyncExitStack()
        self._opening: asyncio.Task[Any] | None = None
        self.failure: str | None = None

    @property
    def clock(self) -> SwarmClock:
        """The swarm's, once others are met."""
        return self.access.clock

    async def open(
        self, host: str, port: int, direct: DirectPort | None = None, *, relay_rate: float | None = None
    ) -> None:
        """Start listening.

        Args:
            host: the IP address to listen on, or a name of this machine.
            port: the TCP port; 0 for any free one.
            direct: where to listen for direct connections; None: there are none.
            relay_rate: bytes per second that this peer passes on for members that nobody can dial; None: nothing.

        Raises:
            ConfigError: if host or port cannot be used.
            NetworkError: if libp2p does not start.
        """
        self._opening = asyncio.current_task()
        try:
            await self._open(host, port, direct, relay_rate)
        finally:
            self._opening = None

    async def _open(self, host: str, port: int, direct: DirectPort | None, relay_rate: float | None) -> None:
        self.host = Libp2pHost(self.identity, host, port, self._announce, clock=self.clock)
        self._opened.push_async_callback(self.host.close)
        await self.host.start()
        introductions = Introductions(self.host, self.access, random.Random(self.identity.peer))
        if self.access.private:
            await introductions.serve()
        self.dht = SignedDHT(self.host, self.identity, introductions)
        await self.dht.start()
        self._opened.push_async_callback(self.dht.close)
        self.directory = DHTDirectory(self.dht, self.identity, self._initial_peers)
        inner = Libp2pTransport(self.host, await self._open_direct(host, direct), introductions)
        self.transport = RelayedTransport(inner, *self._relays(introductions, relay_rate))
        self._opened.push_async_callback(self.transport.close)
        self._tell_addresses()
        self._live(self.host.supervise())
        self._live(self.dht.keep_time())
        if self._cache is not None:
            self._remembering = Remembering(self._cache, self.directory, self._initial_peers)
            self._live(self._remembering.run())
        self._live(self._refresh_addresses())
        await self.transport.relay.serve()
        await self.transport.places.serve()
        self._live(self.transport.places.run())

    def _relays(self, introductions: Introductions, relay_rate: float | None) -> tuple[Places, Relay]:
        directory = self.directory

        def serves(peer: str) -> bool:
            return self.access.allows(peer) and (self.access.private or peer in directory.members_seen)

        places = Places(
            self.host,
            self.identity,
            introductions,
            others=lambda: directory.others,
            own=lambda: self.host.addresses,
            changed=self._tell_addresses,
            rng=random.Random(self.identity.peer),
        )
        return places, Relay(self.host, serves, relay_rate)

    async def _open_direct(self, host: str, port: DirectPort | None) -> DirectConnections:
        if port is None:
            return NoConnections()
        wire = TcpWire(aes=await asyncio.to_thread(aes_is_fast))
        self._opened.push_async_callback(wire.close)
        await wire.listen(host, port, port_after(self.host.port))
        connections = Connections(wire, outside=lambda: self.transport.places.seen_at)
        self._opened.callback(connections.close)
        return connections

    def show_page(self, host: str, port: int) -> None:
        """From the next announcement on, tell the members where this peer's page is, if they can reach it.

        Args:
            host: on which it listens.
            port: TCP port on which it listens.
        """
        self._page = host, port
        self._tell_addresses()

    def _tell_addresses(self) -> None:
        own = self.host.addresses
        pages = page_addresses(*self._page, own) if self._page else ()
        addresses = (*self.transport.places.addresses, *own, *pages)  # a record may have room for few
        self.directory.told = Told(addresses, relay=self.transport.relay.offered)

    async def stay_attached(self) -> None:
        """From now on, look for the way into the swarm whenever it is lost."""
        self._live(self.directory.stay_attached())

    async def find_run(self, wanted: str | None, seconds: float = FIND_RUN_SECONDS) -> RunManifest | None:
        """Wait until the wanted run appears, or the only one there is.

        Args:
            wanted: the run's name; None for the only one there is.
            seconds: how long to look.

        Returns:
            The run; None if it does not appear in time.

        Raises:
            ConfigError: if it cannot be joined, or several may be meant; see `choose_run`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (waited := loop.time() - began) < seconds:
            try:
                manifests = await self.directory.runs()
                found = choose_run(manifests, wanted, self.directory.refused if waited > REFUSE_SECONDS else {})
            except DirectoryError as error:
                log.info("looking for the run: %s", error)
                found = None
            if found is not None:
                return found
            await asyncio.sleep(0.5)
        return None

    async def is_private(self) -> bool:
        """Whether one of the initial peers is in a private run, and this peer was not invited to it.

        Returns:
            False also if none of them is connected.
        """
        if self.access.private:
            return False
        asked = [self.dht.introductions.is_private(peer) for peer in self._initial_peers]
        return any(await asyncio.gather(*asked))

    async def run_before(self, name: str | None) -> str | None:
        """Recall the run that this peer id was seen in last.

        Args:
            name: only a run of that name counts; None: any.

        Returns:
            The run's name; None if nothing is remembered of it.
        """
        if self._cache is None:
            return None
        return await asyncio.to_thread(self._cache.last_run_of, self.identity.peer, name)

    async def recall(self, run: str | None) -> int:
        """From now on look also for peers of a run that were met in an earlier life.

        Args:
            run: the run's name; None for runs that the initial peers led to.

        Returns:
            How many peers they are.
        """
        return 0 if self._remembering is None else await self._remembering.recall(run)

    def _live(self, life: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(life)
        task.add_done_callback(self.report_end)
        self._tasks.append(task)

    def report_end(self, task: asyncio.Task[None] | concurrent.futures.Future[Any]) -> None:
        """Note in the log and the status that something failed which should never end.

        Args:
            task: what ended; nothing happens if it was cancelled or ended well.
        """
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = f"{type(error).__name__}: {error}"
            log.error("the network side failed, training goes on alone: %s", self.failure)

    async def _refresh_addresses(self) -> None:
        while True:
            await asyncio.sleep(ADDRESS_SECONDS)
            try:
                await self.host.refresh_addresses()
            except NetworkError as error:
                log.info("%s", error)
            self._tell_addresses()

    async def close(self) -> None:
        """Stop everything, also what a call of `open` that was given up has begun; p2pd is gone when this returns."""
        tasks = [task for task in (*self._tasks, self._opening) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        if self._remembering is not None:
            with contextlib.suppress(asyncio.TimeoutError):  # a disk that hangs must not hold up the end
                await wait_for(self._remembering.save(), SAVE_SECONDS)
        await self._opened.aclose()

    def status(self, streams_refused: dict[str, int]) -> NetworkStatus:
        """Report the state of the network; for any thread.

        Args:
            streams_refused: reason -> how many streams were refused for it.

        Returns:
            The status, as `/v1/status` shows it.
        """
        return NetworkStatus(
            addresses=self.host.addresses,
            attached=self.directory.attached,
            bootstrap=self.directory.bootstrap(),
            failure=self.failure,
            members_about=self.directory.count,
            reachable=self.transport.places.reachable,
            relays=self.transport.places.relays,
            relay=self.transport.relay.status(),
            restarts=self.host.restarts,
            records_ignored=self.directory.ignored,
            streams_refused=streams_refused,
            direct_port=self.transport.direct.port,
            direct_refused=dict(self.transport.direct.refused),
        )
