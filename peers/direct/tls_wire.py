"""TLS between two processes: dialling a partner, and a listener that hears only those that are awaited.

A connection begins with a token and its number, which the dialler shows, and one byte, by which the listener agrees. A
stranger finds a port that closes at once, unless a partner is awaited at that moment; then it has one of HANDSHAKES_MAX
places, for HANDSHAKE_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from p2p_elastic.common.addresses import is_loopback, usable
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ConfigError, ExchangeError, PartnerUnreachable, RemoteProtocolError
from p2p_elastic.peers.direct.certificate import Certificate, decoded
from p2p_elastic.peers.direct.connection import TlsConnection
from p2p_elastic.peers.direct.expected import Expected
from p2p_elastic.peers.transport.ports import free_port
from p2p_elastic.peers.transport.transfer_threads import THREADS
from p2p_elastic.protocol.limits import LANES_MAX
from p2p_elastic.protocol.messages import Direct
from p2p_elastic.protocol.records import PeerRecord

T = TypeVar("T")
log = logging.getLogger(__name__)
HANDSHAKE_SECONDS = 1.0
HOSTS_MAX = 4
HANDSHAKES_MAX, HANDSHAKES_PER_HOST = 128, 2 * LANES_MAX + 8
TOKEN_BYTES = 16
AGREED = b"\x01"
SENDS, RECEIVES = 0, 1  # what the dialler does on a connection; its number is twice the stream's plus this


class DirectPort(NamedTuple):
    """Where a peer listens for direct connections.

    Attributes:
        wanted: the TCP port; 0: any free one; None: the one after libp2p's, or any.
        told: the port that partners are told, if something forwards it; None: the same.
    """

    wanted: int | None = None
    told: int | None = None


class Shown(NamedTuple):
    """What a dialler shows first on a connection.

    Attributes:
        token: hexadecimal.
        number: of the connection.
        certificate: that TLS has proven, DER.
    """

    token: str
    number: int
    certificate: bytes


class TlsWire:
    """Dials partners, and listens for those that are awaited. Belongs to the network thread.

    Attributes:
        certificate: of this process, as partners are told it.
        port: on which it listens; None before `listen`.
        refused: why -> how many strangers were turned away.
    """

    def __init__(self) -> None:
        self._certificate = Certificate()
        self.certificate = self._certificate.text
        self.port: int | None = None
        self.refused: Counter[str] = Counter()
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: dict[asyncio.Task[None], str] = {}  # host
        self._expected: dict[str, Expected[ssl.SSLSocket]] = {}
        self._context: tuple[frozenset[bytes], ssl.SSLContext] | None = None

    async def listen(self, host: str, port: DirectPort, preferred: int = 0) -> None:
        """Begin to listen.

        Args:
            host: the IP address.
            port: the TCP port.
            preferred: one to be taken if it is free and no other one is wanted.

        Raises:
            ConfigError: if the port is taken or not allowed.
        """
        try:
            chosen = free_port(host, preferred if port.wanted is None else port.wanted)
        except ConfigError as error:
            if port.wanted is not None:
                raise ConfigError("direct-port", port.wanted, error.allowed) from error
            chosen = free_port(host, 0)
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        listening = socket.create_server((host, chosen), family=family, backlog=HANDSHAKES_MAX)
        listening.setblocking(False)
        self._listening, self.port = listening, port.told or chosen
        self._accepting = asyncio.ensure_future(self._accept(listening))

    async def close(self) -> None:
        """Listen no more, and turn away who is at the door."""
        tasks = [*self._greeting, *([] if self._accepting is None else [self._accepting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()

    def hosts_of(self, record: PeerRecord) -> Sequence[str]:
        """Find where a peer may be dialled.

        Args:
            record: the peer's.

        Returns:
            IP addresses and names.
        """
        return hosts_of(record)

    # -- being dialled ------------------------------------------------------------------------------------------------

    def expect(self, partner: str, theirs: Direct, token: str, streams: int) -> Expected[ssl.SSLSocket]:
        """Await a partner's connections, until `forget`.

        Args:
            partner: its peer id.
            theirs: says its certificate.
            token: what it shows; nobody else is told it.
            streams: how many streams, of two connections each.

        Returns:
            What is awaited.

        Raises:
            RemoteProtocolError: if it told no certificate.
        """
        expected = Expected[ssl.SSLSocket](partner, decoded(theirs.certificate), token, 2 * streams)
        self._expected[token] = expected
        return expected

    def forget(self, expected: Expected[ssl.SSLSocket]) -> None:
        """Await these connections no more, and close those that came and were not taken.

        Args:
            expected: as `expect` gave it.
        """
        self._expected.pop(expected.token, None)
        for connected in expected.leave():
            connected.close()

    async def arrived(self, expected: Expected[ssl.SSLSocket]) -> list[TlsConnection]:
        """Wait until all connections are there. It does not end by itself.

        Args:
            expected: as `expect` gave it.

        Returns:
            The connections.
        """
        sockets = await expected.all_here()
        pairs = zip(sockets[RECEIVES::2], sockets[SENDS::2], strict=True)
        return _named(expected.partner, expected.token, pairs)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, address = await loop.sock_accept(listening)
            except OSError as error:  # such as no file number left
                log.info("direct connections: %s", error)
                await asyncio.sleep(HANDSHAKE_SECONDS)
                continue
            hosts = Counter(self._greeting.values())
            if not self._expected:
                self._turn_away(connected, "nobody is awaited")
            elif len(self._greeting) >= HANDSHAKES_MAX or hosts[address[0]] >= HANDSHAKES_PER_HOST:
                self._turn_away(connected, "too many at once")
            else:
                task = asyncio.ensure_future(self._greet(connected))
                self._greeting[task] = address[0]
                task.add_done_callback(self._greeting.pop)

    def _turn_away(self, connected: socket.socket, why: str) -> None:
        self.refused[why] += 1
        connected.close()

    async def _greet(self, connected: socket.socket) -> None:
        """Hear who a dialler is; whatever it is, this ends within HANDSHAKE_SECONDS."""
        tls: ssl.SSLSocket | None = None
        try:
            tls = _wrapped(connected, self._listening_context(), server=True)
            shown = await wait_for(_in_thread(tls, functools.partial(_hear, tls)), HANDSHAKE_SECONDS)
            expected = self._expected.get(shown.token)
            if expected is None or not expected.wants(shown.number, shown.certificate):
                self._turn_away(tls, "not awaited")
                return
            tls.send(AGREED)  # one byte, which the kernel takes at once
            expected.take(shown.number, tls)
        except asyncio.CancelledError:
            (tls or connected).close()
            raise
        except (OSError, ExchangeError, asyncio.TimeoutError) as error:
            self._turn_away(tls or connected, "no partner")
            log.debug("turned away: %s", error)

    def _listening_context(self) -> ssl.SSLContext:
        """For all that are awaited: which of them it is, its certificate says."""
        partners = frozenset(expected.certificate for expected in self._expected.values())
        if self._context is None or self._context[0] != partners:
            self._context = partners, self._certificate.listening(partners)
        return self._context[1]

    # -- dialling -----------------------------------------------------------------------------------------------------

    async def dial(self, partner: str, hosts: Sequence[str], theirs: Direct, streams: int) -> list[TlsConnection]:
        """Connect to a partner: at all hosts at once, and then at the one that answered first.

        Args:
            partner: its peer id.
            hosts: IP addresses or names.
            theirs: says its port, certificate and token.
            streams: how many streams, of two connections each.

        Returns:
            The connections. It does not end by itself: the caller sets a deadline.

        Raises:
            PartnerUnreachable: if there are none; with the last reason.
            RemoteProtocolError: if it told no certificate.
        """
        certificate = decoded(theirs.certificate)
        context = self._certificate.dialling(certificate)
        assert theirs.port is not None, "a partner without a port is dialled"

        async def connect(host: str, number: int) -> ssl.SSLSocket:
            connected = await _connected(host, theirs.port or 0)
            tls = _wrapped(connected, context, server=False)
            try:
                await _in_thread(tls, functools.partial(_show, tls, bytes.fromhex(theirs.token), number, certificate))
            except BaseException:
                tls.close()
                raise
            return tls

        sockets: list[ssl.SSLSocket] = []
        try:
            host, first = await _first(hosts, lambda host: connect(host, 0))
            sockets.append(first)
            sockets += await _all([connect(host, number) for number in range(1, 2 * streams)])
        except (OSError, ExchangeError) as error:
            for one in sockets:
                one.close()
            raise PartnerUnreachable(f"not connected directly: {error}", partner=partner) from error
        except BaseException:
            for one in sockets:
                one.close()
            raise
        pairs = zip(sockets[SENDS::2], sockets[RECEIVES::2], strict=True)
        return _named(partner, theirs.token, pairs)


def hosts_of(record: PeerRecord) -> tuple[str, ...]:
    """Find the hosts at which a peer may be dialled.

    Args:
        record: the peer's.

    Returns:
        IP addresses and names, HOSTS_MAX at most, those that only this machine reaches last; no relays.

    Example:
        >>> record = PeerRecord(
        ...     peer="12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp", run="r", schema_hash="0" * 32, sequence=1,
        ...     addresses=("/ip4/127.0.0.1/tcp/4001", "/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/udp/4001/quic-v1"),
        ... )
        >>> hosts_of(record)
        ('192.0.2.1', '127.0.0.1')
    """
    found = [a.host for a in usable(record.peer, record.addresses) if not a.relayed and a.host.protocol != "dnsaddr"]
    hosts = dict.fromkeys(host.value for host in found)
    return tuple(sorted(hosts, key=is_loopback)[:HOSTS_MAX])


def _named(partner: str, token: str, pairs: zip[tuple[ssl.SSLSocket, ssl.SSLSocket]]) -> list[TlsConnection]:
    """Connections of what each end sends and receives on, with the same name at both ends."""
    return [
        TlsConnection(f"{token[:-2]}{number:02x}", partner, outgoing, incoming)
        for number, (outgoing, incoming) in enumerate(pairs)
    ]


def _wrapped(connected: socket.socket, context: ssl.SSLContext, *, server: bool) -> ssl.SSLSocket:
    connected.settimeout(HANDSHAKE_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(connected, server_side=server, do_handshake_on_connect=False)


def _hear(tls: ssl.SSLSocket) -> Shown:
    """In a thread, at the end that is dialled."""
    tls.do_handshake()
    shown = bytearray()
    while len(shown) < TOKEN_BYTES + 1:
        more = tls.recv(TOKEN_BYTES + 1 - len(shown))
        if not more:
            raise RemoteProtocolError("the dialler left")
        shown += more
    return Shown(shown[:TOKEN_BYTES].hex(), shown[TOKEN_BYTES], tls.getpeercert(binary_form=True) or b"")


def _show(tls: ssl.SSLSocket, token: bytes, number: int, certificate: bytes) -> None:
    """In a thread, at the end that dials. If its own certificate is refused, that shows when it waits for an answer."""
    tls.do_handshake()
    if tls.getpeercert(binary_form=True) != certificate:
        raise RemoteProtocolError("another certificate")
    tls.sendall(token + bytes([number]))
    if tls.recv(1) != AGREED:
        raise RemoteProtocolError("turned away")


async def _connected(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    connecting = socket.socket(family, kind, protocol)
    try:
        connecting.setblocking(False)
        await loop.sock_connect(connecting, address)
    except BaseException:
        connecting.close()
        raise
    return connecting


async def _in_thread(tls: ssl.SSLSocket, work: Callable[[], T]) -> T:
    """Run what may block in a thread; if that is given up, the thread ends first."""
    future = asyncio.get_running_loop().run_in_executor(THREADS, work)
    try:
        await asyncio.wait({future})
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(tls, socket.SHUT_RDWR)
        await asyncio.wait({future})
        future.exception()  # nobody else asks
        raise
    return future.result()


Connecting = Coroutine[Any, Any, ssl.SSLSocket]


async def _first(hosts: Sequence[str], connect: Callable[[str], Connecting]) -> tuple[str, ssl.SSLSocket]:
    """The first host that answers as it should, and its connection; the others are given up."""
    left = {asyncio.ensure_future(connect(host)): host for host in hosts}
    error: BaseException = PartnerUnreachable("it has no address")
    try:
        while left:
            done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                host = left.pop(task)
                if (failed := task.exception()) is None:
                    return host, task.result()
                error = failed
        raise error
    finally:
        await _give_up(left)


async def _all(connecting: Sequence[Connecting]) -> list[ssl.SSLSocket]:
    """All connections; if one fails, none."""
    tasks = [asyncio.ensure_future(one) for one in connecting]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        await _give_up(tasks)
        raise


async def _give_up(tasks: Iterable[asyncio.Task[ssl.SSLSocket]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for came in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(came, ssl.SSLSocket):
            came.close()
