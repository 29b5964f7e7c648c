"""TCP between two processes: dialling a partner, and a listener that hears only those that are awaited.

A dialler shows the token that it was told, the number of its connection, and that it holds the key; the listener
answers that it does, too. A stranger finds a port that closes at once, unless a partner is awaited at that moment; then
it has one of GREETINGS_MAX places, for GREETING_SECONDS, and costs no cryptography without a token.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from p2p_elastic.common.addresses import is_loopback, usable
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ConfigError, ExchangeError, PartnerUnreachable, RemoteProtocolError
from p2p_elastic.peers.direct.connection import DirectConnection
from p2p_elastic.peers.direct.expected import Expected
from p2p_elastic.peers.direct.sealing import TAG_BYTES, Agreed, Seal
from p2p_elastic.peers.transport.ports import free_port
from p2p_elastic.protocol.limits import LANES_MAX
from p2p_elastic.protocol.records import PeerRecord

log = logging.getLogger(__name__)
GREETING_SECONDS = 1.0
CROSS_AGAIN_SECONDS = 0.1
HOSTS_MAX = 4
GREETINGS_MAX, GREETINGS_PER_HOST = 128, LANES_MAX + 8
TOKEN_BYTES = 16
SHOWN_BYTES = TOKEN_BYTES + 1  # token and number


class DirectPort(NamedTuple):
    """Where a peer listens for direct connections.

    Attributes:
        wanted: the TCP port; 0: any free one; None: the one after libp2p's, or any.
        told: the port that partners are told, if something forwards it; None: the same.
    """

    wanted: int | None = None
    told: int | None = None


class TcpWire:
    """Dials partners, and listens for those that are awaited. Belongs to the network thread.

    Args:
        aes: whether AES is fast here.

    Attributes:
        port: at which it is dialled; None before `listen`.
        own_port: on which it listens, and from which it dials if both ends do; None before `listen`.
        refused: why -> how many strangers were turned away.
    """

    def __init__(self, *, aes: bool = True) -> None:
        self.aes = aes
        self.port: int | None = None
        self.own_port: int | None = None
        self._host = ""
        self.refused: Counter[str] = Counter()
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: dict[asyncio.Task[None], str] = {}  # host
        self._expected: dict[str, Expected[DirectConnection]] = {}

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
        shared = hasattr(socket, "SO_REUSEPORT")
        listening = socket.create_server((host, chosen), family=family, backlog=GREETINGS_MAX, reuse_port=shared)
        listening.setblocking(False)
        self._listening, self.port, self._host = listening, port.told or chosen, host
        self.own_port = chosen if shared else None
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

    def expect(self, partner: str, token: str) -> Expected[DirectConnection]:
        """Await a partner's connections, until `forget`.

        Args:
            partner: its peer id.
            token: what it shows; nobody else is told it.

        Returns:
            What is awaited.
        """
        expected = self._expected[token] = Expected[DirectConnection](partner, token)
        return expected

    def forget(self, expected: Expected[DirectConnection]) -> None:
        """Await these connections no more, and close those that came and were not taken.

        Args:
            expected: as `expect` gave it.
        """
        self._expected.pop(expected.token, None)
        for connected in expected.leave():
            connected.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, address = await loop.sock_accept(listening)
            except OSError as error:  # such as no file number left
                log.info("direct connections: %s", error)
                await asyncio.sleep(GREETING_SECONDS)
                continue
            hosts = Counter(self._greeting.values())
            if not self._expected:
                self._turn_away(connected, "nobody is awaited")
            elif len(self._greeting) >= GREETINGS_MAX or hosts[address[0]] >= GREETINGS_PER_HOST:
                self._turn_away(connected, "too many at once")
            else:
                task = asyncio.ensure_future(self._greet(connected))
                self._greeting[task] = address[0]
                task.add_done_callback(self._greeting.pop)

    def _turn_away(self, connected: socket.socket, why: str) -> None:
        self.refused[why] += 1
        connected.close()

    async def _greet(self, connected: socket.socket) -> None:
        """Hear who a dialler is; whatever it is, this ends within GREETING_SECONDS."""
        try:
            known = await wait_for(self._hear(connected), GREETING_SECONDS)
            if not known:
                self._turn_away(connected, "not awaited")
        except asyncio.CancelledError:
            connected.close()
            raise
        except (OSError, ExchangeError, asyncio.TimeoutError) as error:
            self._turn_away(connected, "no partner")
            log.debug("turned away: %s", error)

    async def _hear(self, connected: socket.socket) -> bool:
        """Whether the connection is one that is awaited; then it is handed over."""
        shown = await _received(connected, SHOWN_BYTES)
        number, expected = shown[TOKEN_BYTES], self._expected.get(shown[:TOKEN_BYTES].hex())
        if expected is None:
            return False
        agreed = await expected.agreed()
        seals = await _checked(connected, agreed, shown)
        if not expected.wants(number):
            return False
        expected.take(number, _answered(connected, expected.partner, agreed, number, seals))
        return True

    # -- dialling -----------------------------------------------------------------------------------------------------

    async def dial(self, partner: str, hosts: Sequence[str], agreed: Agreed, streams: int) -> list[DirectConnection]:
        """Connect to a partner: at all hosts at once, and then at the one that answered first.

        Args:
            partner: its peer id.
            hosts: IP addresses or names.
            agreed: what both ends told; the partner listens.
            streams: how many connections.

        Returns:
            The connections. It does not end by itself: the caller sets a deadline.

        Raises:
            PartnerUnreachable: if there are none; with the last reason.
        """

        async def connect(host: str, number: int) -> DirectConnection:
            return await _greeted(await _connected(host, agreed.listener.port or 0), partner, agreed, number)

        found: list[DirectConnection] = []
        try:
            host, first = await _first(hosts, lambda host: connect(host, 0))
            found.append(first)
            found += await _all([connect(host, number) for number in range(1, streams)])
        except BaseException as error:
            for one in found:
                one.close()
            if isinstance(error, (OSError, ExchangeError)):
                raise PartnerUnreachable(f"not connected directly: {error}", partner=partner) from error
            raise
        return found

    async def cross(
        self, partner: str, there: tuple[str, int], agreed: Agreed, *, dials: bool
    ) -> list[DirectConnection]:
        """Connect to a partner that does the same at this moment, so that each one's router lets the other in.

        Each end dials from the port on which it listens: most routers keep that number. Whichever packet is first only
        opens the way for the other one's (simultaneous open, RFC 9293, section 3.5; hole punching, RFC 5128).

        Args:
            partner: its peer id.
            there: the IP address and port at which its router lets it out.
            agreed: what both ends told.
            dials: whether this end is the dialler of `agreed`.

        Returns:
            The only connection. It does not end by itself: the caller sets a deadline.

        Raises:
            PartnerUnreachable: if there is none.
        """
        try:
            connected = await self._cross(there)
            if dials:
                return [await _greeted(connected, partner, agreed, 0)]
            try:
                seals = await _checked(connected, agreed, await _received(connected, SHOWN_BYTES))
                return [_answered(connected, partner, agreed, 0, seals)]
            except BaseException:
                connected.close()
                raise
        except (OSError, ValueError, ExchangeError) as error:
            raise PartnerUnreachable(f"not connected directly: {error}", partner=partner) from error

    async def _cross(self, there: tuple[str, int]) -> socket.socket:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ipaddress.ip_address(there[0]).version == 6 else socket.AF_INET
        while True:
            connecting = socket.socket(family, socket.SOCK_STREAM)
            try:
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                connecting.bind((self._host, self.own_port))
                connecting.setblocking(False)
                await loop.sock_connect(connecting, there)
                return connecting
            except ConnectionError:  # a router that says no, as the partner's first packet is not out yet
                connecting.close()
                await asyncio.sleep(CROSS_AGAIN_SECONDS)
            except BaseException:
                connecting.close()
                raise


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
    found = [a.host for a in usable(record.peer, record.addresses) if a.host.protocol != "dnsaddr"]
    hosts = dict.fromkeys(host.value for host in found)
    return tuple(sorted(hosts, key=is_loopback)[:HOSTS_MAX])


def _name(token: str, number: int) -> str:
    """The same at both ends."""
    return f"{token[:-2]}{number:02x}"


def _proof(seal: Seal, shown: bytes) -> bytes:
    """That this end holds the key: nothing, sealed."""
    proof = bytearray(TAG_BYTES)
    seal.seal(b"", proof, shown)
    return bytes(proof)


def _ready(connected: socket.socket) -> None:
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _greeted(connected: socket.socket, partner: str, agreed: Agreed, number: int) -> DirectConnection:
    """Show a listener who this is, and see that it is the partner; closed if not."""
    try:
        outgoing, incoming = agreed.seals(number)
        shown = bytes.fromhex(agreed.listener.token) + bytes([number])
        _ready(connected)
        await asyncio.get_running_loop().sock_sendall(connected, shown + _proof(outgoing, shown))
        incoming.open(await _received(connected, TAG_BYTES), bytearray(), shown)
    except BaseException:
        connected.close()
        raise
    return DirectConnection(_name(agreed.listener.token, number), partner, connected, outgoing, incoming)


async def _checked(connected: socket.socket, agreed: Agreed, shown: bytes) -> tuple[Seal, Seal]:
    """See that a dialler that showed something is the partner. The seals of what it sends, and of what it receives."""
    if shown[:TOKEN_BYTES].hex() != agreed.listener.token:
        raise RemoteProtocolError("it shows another token")
    incoming, outgoing = agreed.seals(shown[TOKEN_BYTES])
    incoming.open(await _received(connected, TAG_BYTES), bytearray(), shown)
    return incoming, outgoing


def _answered(
    connected: socket.socket, partner: str, agreed: Agreed, number: int, seals: tuple[Seal, Seal]
) -> DirectConnection:
    """Show a dialler that this is the partner, too."""
    token, (incoming, outgoing) = agreed.listener.token, seals
    _ready(connected)
    connected.send(
        _proof(outgoing, bytes.fromhex(token) + bytes([number]))
    )  # some bytes: the kernel takes them at once
    return DirectConnection(_name(token, number), partner, connected, outgoing, incoming)


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


async def _received(connected: socket.socket, count: int) -> bytes:
    """So many bytes, and none of what comes after them."""
    received = b""
    while len(received) < count:
        more = await asyncio.get_running_loop().sock_recv(connected, count - len(received))
        if not more:
            raise RemoteProtocolError("turned away")
        received += more
    return received


Connecting = Coroutine[Any, Any, DirectConnection]


async def _first(hosts: Sequence[str], connect: Callable[[str], Connecting]) -> tuple[str, DirectConnection]:
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


async def _all(connecting: Sequence[Connecting]) -> list[DirectConnection]:
    """All connections; if one fails, none."""
    tasks = [asyncio.ensure_future(one) for one in connecting]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        await _give_up(tasks)
        raise


async def _give_up(tasks: Iterable[asyncio.Task[DirectConnection]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for came in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(came, DirectConnection):
            came.close()
