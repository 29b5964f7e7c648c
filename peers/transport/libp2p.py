"""libp2p through hivemind's p2pd: one daemon process, streams to and from partners.

Everything here runs on one event loop in this process; the daemon ends when its connection to this process does, even
after a SIGKILL. Only this file and three in `discovery` know hivemind, and translate its exceptions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from p2p_elastic.common.addresses import PeerAddress, host_of, is_loopback, listening_host, usable
from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.common.machine import cores
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import NetworkError, NotAdmitted, P2PElasticError, PartnerUnreachable
from p2p_elastic.peers.transport import start_p2pd
from p2p_elastic.peers.transport.everybody import Everybody
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import Access, DirectConnections, Handler, Introducing
from p2p_elastic.peers.transport.lean_import import import_lazily, quiet, untracked_locks
from p2p_elastic.peers.transport.ports import free_port
from p2p_elastic.peers.transport.socket_folder import OURS, SocketFolder
from p2p_elastic.peers.transport.socket_stream import SocketStream
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.records import PeerRecord

with quiet(), untracked_locks():
    import_lazily("hivemind")  # its averager, optimizer and experts need scipy and 70 MB
    from hivemind.p2p import P2P, PeerID
    from hivemind.p2p.p2p_daemon_bindings.utils import (
        P2PDaemonError,
        raise_if_failed,
        read_pbmsg_safe,
        write_pbmsg,
    )
    from hivemind.proto import p2pd_pb2

log = logging.getLogger(__name__)
PROTOCOL = "/p2p-elastic/exchange/1"
NO_RELAY = '{"Relay": {"Enabled": false}}'  # the flags of p2pd alone leave it relaying for whoever asks
START_SECONDS = 30.0
CONNECT_SECONDS = 8.0
REACHED_MAX = 256
RESTARTS_MAX, RESTARTS_SECONDS = 3, 60.0
STOP_SECONDS = 1.0
ORPHAN_SECONDS = 4  # after which a daemon ends that nobody reached, since its peer was killed


class _Daemon(P2P):  # type: ignore[misc]  # hivemind has no types
    """p2pd that outlives what asks its peer to stop, see `start_p2pd`.

    It runs on half of the cores at once, unless GOMAXPROCS says otherwise: training has the rest, and on two cores an
    exchange costs an eighth less CPU.
    """

    _CONFIG = ""  # a file

    @classmethod
    def _make_process_args(cls, *args: object, **kwargs: object) -> list[str]:
        half = str(max(1, cores() // 2))
        return [
            *(sys.executable, "-I", "-S", start_p2pd.__file__, half),
            *P2P._make_process_args(*args, f=cls._CONFIG, **kwargs),
        ]

    def _terminate(self) -> None:
        """End a daemon that did not end with its connection: it ignores hivemind's SIGTERM."""
        with contextlib.suppress(OSError):  # it has just ended; its sockets go with their folder
            if self._child is not None and self._child.returncode is None:
                self._child.kill()
        with contextlib.suppress(OSError):
            super()._terminate()


class Libp2pHost:
    """One p2pd: started, watched, and started again on the same port with the same identity when it dies.

    Args:
        identity: the key of this peer.
        host: the IP address to listen on, or a name of this machine.
        port: the TCP port to listen on; 0 for any free one.
        announce: multiaddrs under which others reach this peer; empty: those that p2pd finds.
        clock: the swarm's, by which requests of others are answered; None: a new one.
    """

    def __init__(
        self,
        identity: Identity,
        host: str,
        port: int,
        announce: Sequence[str] = (),
        *,
        clock: SwarmClock | None = None,
    ) -> None:
        self._identity, self._host, self._port = identity, host, port
        self._announce = tuple(announce)
        self.clock = SwarmClock() if clock is None else clock
        self._p2p: P2P | None = None
        self._folder: SocketFolder
        self._on_start: list[Callable[[], Awaitable[None]]] = []
        self._writers = weakref.WeakSet[asyncio.StreamWriter]()  # of connections to p2pd
        self._streams: dict[asyncio.Task[None], SocketStream] = {}
        self._closing = False
        self.restarts = 0
        self.addresses: tuple[str, ...] = ()

    @property
    def peer(self) -> str:
        """The peer id of this host."""
        return self._identity.peer

    @property
    def port(self) -> int:
        """The TCP port on which it listens."""
        return self._port

    @property
    def p2p(self) -> P2P:
        """hivemind's handle of the daemon. Raises NetworkError while there is none.

        Raises:
            NetworkError: if p2pd is not running.
        """
        if self._p2p is None:
            raise NetworkError("the libp2p daemon is not running")
        return self._p2p

    async def start(self) -> None:
        """Start p2pd.

        Raises:
            ConfigError: if host, port or TMPDIR cannot be used.
            NetworkError: if p2pd does not start.
        """
        self._host = listening_host(self._host)
        self._port = free_port(self._host, self._port)
        family = "ip6" if ":" in self._host else "ip4"
        self._folder = SocketFolder()
        key = self._folder.path / f"{OURS}-identity"  # for p2pd to read at its start
        config = self._folder.path / f"{OURS}-config"
        there = {"_UNIX_SOCKET_PREFIX": f"/unix{self._folder.path}/", "_CONFIG": str(config)}
        daemon: type[P2P] = type("_DaemonThere", (_Daemon,), there)
        try:
            self._identity.write(key)
            config.write_text(NO_RELAY)
            with self.clock.as_current():  # of the task that it begins here, which answers others
                self._p2p = await daemon.create(
                    host_maddrs=[f"/{family}/{self._host}/tcp/{self._port}"],
                    announce_maddrs=list(self._announce) or None,
                    identity_path=str(key),
                    check_if_identity_free=False,
                    nat_port_map=not is_loopback(self._host),
                    use_relay=False,
                    idle_timeout=ORPHAN_SECONDS,
                    startup_timeout=START_SECONDS,
                )
            self._note_connections(self._p2p)
            key.unlink()
            config.unlink()
        except (P2PDaemonError, OSError) as error:
            raise NetworkError(f"libp2p (p2pd) does not start: {error}") from error
        except (EOFError, ValueError) as error:  # it ended before it answered
            raise NetworkError(f"libp2p (p2pd) ended at its start: {error!r}") from error
        finally:
            if self._p2p is None:
                self._folder.close()
        await self.refresh_addresses()

    async def refresh_addresses(self) -> None:
        """Ask p2pd for this peer's addresses: a router's port mapping may add one later.

        Raises:
            NetworkError: if p2pd does not answer.
        """
        try:
            found = await wait_for(self.p2p.get_visible_maddrs(latest=True), CONNECT_SECONDS)
        except (P2PDaemonError, OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
            raise NetworkError(f"libp2p (p2pd) does not tell this peer's addresses: {error!r}") from error
        self.addresses = tuple(sorted(map(str, found), key=lambda address: is_loopback(host_of(address))))

    async def on_start(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do something now and after each restart of p2pd.

        Args:
            action: called without arguments; what it raises now goes to the caller.
        """
        self._on_start.append(action)
        await action()

    async def supervise(self) -> None:
        """Watch p2pd and start it again when it dies; hivemind itself would not notice.

        Raises:
            NetworkError: if it died more than RESTARTS_MAX times within RESTARTS_SECONDS.
        """
        deaths: deque[float] = deque(maxlen=RESTARTS_MAX)
        what = await self._death()
        while not self._closing:
            now = time.monotonic()
            if len(deaths) == RESTARTS_MAX and now - deaths[0] < RESTARTS_SECONDS:
                raise NetworkError(f"libp2p failed {RESTARTS_MAX + 1} times in a row, at last: {what}")
            deaths.append(now)
            log.warning("libp2p: %s; starting it again", what)
            what = await self._restart() or await self._death()

    async def _restart(self) -> str | None:
        """Start anew, with all that is registered. Returns what failed; None if it works."""
        await self._stop()
        try:
            await self.start()
            for action in self._on_start:
                await wait_for(action(), START_SECONDS)
        except (P2PElasticError, P2PDaemonError, OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
            await asyncio.sleep(1.0)
            return f"could not be started again: {type(error).__name__}: {error}"
        self.restarts += 1
        return None

    async def _death(self) -> str:
        """Wait until p2pd, or hivemind's connection to it, ends; says which of them did."""
        control = self.p2p._client.control
        daemon = asyncio.ensure_future(self.p2p._child.wait())
        # A response that meets a call cancelled in the same instant kills the reading task, and with it all DHT calls.
        connection = {control._read_task: "stopped reading", control._write_task: "stopped writing"}
        try:
            done, _ = await asyncio.wait({daemon, *connection}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            daemon.cancel()
        if daemon in done:
            return f"p2pd ended with exit code {daemon.result()}"
        return f"the connection to p2pd {connection[done.pop()]}"

    async def connect(self, peer: str, addresses: Sequence[PeerAddress]) -> None:
        """Connect to a peer by its addresses; nothing happens if it is connected.

        Args:
            peer: the peer id, which the peer there has to prove.
            addresses: where to dial.

        Raises:
            PartnerUnreachable: if none leads to the peer; with libp2p's reason.
        """
        try:
            # Not hivemind's Multiaddr: it writes the peer id of a relay as CIDv1, which p2pd refuses.
            where = p2pd_pb2.ConnectRequest(
                peer=PeerID.from_base58(peer).to_bytes(), addrs=[address.packed for address in addresses]
            )
            request = p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=where)
            _, writer = await wait_for(self._ask(request), CONNECT_SECONDS)
            writer.close()
        except asyncio.TimeoutError as error:
            raise PartnerUnreachable(f"timed out after {CONNECT_SECONDS:g} s", partner=peer) from error
        except (P2PDaemonError, OSError, ValueError, EOFError, NetworkError) as error:
            raise PartnerUnreachable(str(error), partner=peer) from error

    async def _ask(self, request: p2pd_pb2.Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to p2pd and ask for something; after opening a stream the connection is that stream.

        hivemind's calls leave theirs open if p2pd refuses or nobody waits any more: a file number or two each time,
        until the
        garbage collector comes by, and before Python 3.11.5 for ever.
        """
        reader, writer = await self.p2p._client.control.daemon_connector.open_connection()
        try:
            await write_pbmsg(writer, request)
            response = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, response)
            raise_if_failed(response)
        except BaseException:
            writer.close()
            raise
        return reader, writer

    @property
    def pids(self) -> tuple[int, int]:
        """The process ids of this process and of p2pd. Raises NetworkError while there is no p2pd."""
        return os.getpid(), int(self.p2p._child.pid)

    async def open_stream(self, peer: str, protocol: str = PROTOCOL) -> SocketStream:
        """Open a stream to a connected peer's handler.

        Args:
            peer: the peer id.
            protocol: the libp2p protocol that the peer serves.

        Returns:
            The stream.

        Raises:
            PartnerUnreachable: if the peer is not connected, or does not serve that protocol.
        """
        try:
            whose = p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer).to_bytes(), proto=[protocol])
            request = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=whose)
            return await SocketStream.take_over(peer, *await self._ask(request))
        except (P2PDaemonError, OSError, ValueError, EOFError, NetworkError) as error:
            raise PartnerUnreachable(str(error), partner=peer) from error

    async def serve(self, protocol: str, handler: Callable[[SocketStream], Awaitable[None]]) -> None:
        """From now on, and after each restart, call a handler for each stream of a protocol.

        Args:
            protocol: the libp2p protocol that other peers ask for.
            handler: runs as a task of its own for each stream, which closes the stream at its end.
        """

        async def handle(stream: SocketStream) -> None:
            try:
                await handler(stream)
            finally:
                await stream.close()

        async def accept(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                stream = await SocketStream.take_over(str(info.peer_id), reader, writer)
            except OSError:  # it went as it came
                return
            stream.remote = host_of(str(info.addr))
            task = asyncio.ensure_future(handle(stream))
            self._streams[task] = stream
            task.add_done_callback(self._streams.pop)

        await self.on_start(lambda: self.p2p.add_binary_stream_handler(protocol, accept))

    def _note_connections(self, p2p: P2P) -> None:
        """Note what hivemind opens to p2pd: what nobody waits for any more it leaves open, also after the end."""
        connector = p2p._client.control.daemon_connector
        open_one = connector.open_connection

        async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await open_one()
            self._writers.add(writer)
            return reader, writer

        connector.open_connection = opened

    async def cut(self) -> None:
        """End every stream that another peer opened."""
        streams = dict(self._streams)
        for task, stream in streams.items():
            stream.abort()
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def close(self) -> None:
        """Stop p2pd and wait until it is gone."""
        self._closing = True
        await self._stop()

    async def _stop(self) -> None:
        if self._p2p is not None:
            p2p, self._p2p = self._p2p, None
            p2p._client.close()  # p2pd ends with its last connection
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(p2p._child.wait(), STOP_SECONDS)
            await p2p.shutdown()
            for writer in self._writers:
                writer.close()
            await asyncio.sleep(0.0)  # a transport is closed in the next turn of the loop
            self._folder.close()


class Libp2pTransport:
    """`Transport` over a Libp2pHost.

    Args:
        host: the daemon, started; its owner closes it.
        direct: connections beside it.
        introductions: by which this peer and partners let each other in; None: the run is open.
    """

    def __init__(self, host: Libp2pHost, direct: DirectConnections, introductions: Introducing | None = None) -> None:
        self._host, self.direct, self._introductions = host, direct, introductions or Everybody()
        self._handler: Handler | None = None
        self._reached: dict[str, tuple[str, ...]] = {}  # peer id -> the addresses by which a stream opened

    @property
    def peer(self) -> str:
        """The peer id of this end."""
        return self._host.peer

    async def open(self, record: PeerRecord) -> SocketStream:
        """Connect to a peer by its record's own addresses, and open a stream to it.

        Args:
            record: the peer and its addresses.

        Returns:
            The stream.
        """
        stream = None
        if self._reached.pop(record.peer, None) == record.addresses:  # to ask p2pd to connect takes a millisecond
            with contextlib.suppress(PartnerUnreachable):
                stream = await self._open_connected(record.peer)
        if stream is None:
            # By the record's own addresses: libp2p's lookup does not know a peer that was never met.
            await self._host.connect(record.peer, usable(record.peer, record.addresses))
            stream = await self._open_connected(record.peer)
        self._reached[record.peer] = record.addresses
        forget_oldest(self._reached, REACHED_MAX)
        return stream

    async def _open_connected(self, peer: str) -> SocketStream:
        try:
            await self._introductions.ensure(peer)
        except NotAdmitted as error:
            raise PartnerUnreachable(str(error), partner=peer) from error
        return await self._host.open_stream(peer)

    @property
    def access(self) -> Access:
        """Who may take part."""
        return self._introductions.access

    async def serve(self, handler: Handler) -> None:
        """From now on, call a handler for each exchange stream that another peer opens.

        Args:
            handler: gets the stream, which is closed when it returns.
        """
        self._handler = handler
        await self._host.serve(PROTOCOL, self._handle)

    async def _handle(self, stream: SocketStream) -> None:
        if self._handler is not None:
            await self._handler(stream)

    async def close(self) -> None:
        """Stop serving and cut every stream; the host goes on."""
        self._handler = None
        await self._host.cut()
