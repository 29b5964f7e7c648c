"""Whether something listens at an address, asked with plain TCP; the only place that looks up a name."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from p2p_elastic.common.addresses import PeerAddress
from p2p_elastic.common.timeouts import wait_for

PROBE_SECONDS = 5.0
HOSTS_MAX = 8  # of one name
Lookup = Callable[[str, socket.AddressFamily], Awaitable[tuple[str, ...]]]
"""The IP addresses of a name, of one family or, with AF_UNSPEC, of any. Raises OSError: there are none."""

FAMILIES = {"ip4": "IPv4", "dns4": "IPv4", "ip6": "IPv6", "dns6": "IPv6"}
NUMBERS = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}


class Probe(NamedTuple):
    """What came of asking; nothing at all where no TCP is dialled there."""

    problem: str | None = None  # as the system says it
    hosts: tuple[str, ...] = ()  # what a name resolves to
    seconds: float | None = None


async def system_lookup(name: str, family: socket.AddressFamily) -> tuple[str, ...]:
    """As this machine knows the name."""
    infos = await asyncio.get_running_loop().getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos))


async def resolve(address: PeerAddress, lookup: Lookup = system_lookup) -> tuple[str, ...]:
    """The IP addresses of an address's host, of the family that it names, as p2pd takes them.

    Raises:
        OSError: there are none; says so where the name has some of the other family.
    """
    host = address.host
    family = FAMILIES.get(host.protocol)
    if family is None:
        return await lookup(host.value, socket.AF_UNSPEC)
    try:
        return await lookup(host.value, NUMBERS[family])
    except OSError as error:
        other = "IPv4" if family == "IPv6" else "IPv6"
        try:
            found = await lookup(host.value, NUMBERS[other])
        except OSError:
            raise error from None
        raise OSError(
            f"{host.value} has no {family} address, only {other} ({', '.join(found)}): write "
            f"/dns{other[-1]}/{host.value} in the place of /{host.protocol}/{host.value}, or /dns/{host.value} for both"
        ) from error


async def probe(address: PeerAddress, seconds: float = PROBE_SECONDS, lookup: Lookup = system_lookup) -> Probe:
    """Look the host up and connect to one of its addresses."""
    port, loop = address.tcp_port, asyncio.get_running_loop()
    if port is None:
        return Probe()
    hosts: tuple[str, ...] = ()
    try:
        hosts = (await wait_for(resolve(address, lookup), seconds))[:HOSTS_MAX]
        began = loop.time()
        await wait_for(_reach_one(hosts, port), seconds)
    except asyncio.TimeoutError:
        return Probe(f"timed out after {seconds:g} s", hosts)
    except OSError as error:
        # asyncio says "Connect call failed" whatever happened; a failed name lookup has a negative number of its own.
        number = error.errno or 0
        return Probe(os.strerror(number) if number > 0 else str(error), hosts)
    return Probe(None, hosts, loop.time() - began)


async def _reach_one(hosts: tuple[str, ...], port: int) -> None:
    """Raises the first problem where none answers."""
    attempts = [asyncio.ensure_future(_reach(host, port)) for host in hosts]
    problem = OSError("no address is known")
    try:
        for number, attempt in enumerate(asyncio.as_completed(attempts)):
            try:
                return await attempt
            except OSError as error:
                problem = error if number == 0 else problem
        raise problem
    finally:
        for attempt in attempts:
            attempt.cancel()


async def _reach(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.transport.abort()
