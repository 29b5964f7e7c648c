"""Whether something listens at an address, asked with plain TCP; the only place that looks up a name."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from p2p_elastic.common.addresses import PeerAddress
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import PartnerUnreachable

PROBE_SECONDS = 5.0
HOSTS_MAX = 8  # IP addresses of one name that are tried
Lookup = Callable[[str, socket.AddressFamily], Awaitable[tuple[str, ...]]]
"""Looks up the IP addresses of a name, of one family or, with AF_UNSPEC, of any. Raises OSError if there are none."""

FAMILIES = {"ip4": "IPv4", "dns4": "IPv4", "ip6": "IPv6", "dns6": "IPv6"}
NUMBERS = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}


class Probe(NamedTuple):
    """What came of asking an address; all fields are empty if no TCP is dialled there.

    Attributes:
        problem: why nothing answers, as the system says it; None if something does.
        hosts: the IP addresses that the name resolves to, HOSTS_MAX at most.
        seconds: how long it took to connect; None if it did not.
    """

    problem: str | None = None
    hosts: tuple[str, ...] = ()
    seconds: float | None = None


async def system_lookup(name: str, family: socket.AddressFamily) -> tuple[str, ...]:
    """Look a name up as this machine does, its files and its name servers.

    Args:
        name: a host name or an IP address.
        family: AF_INET or AF_INET6 for one kind, AF_UNSPEC for both.

    Returns:
        The IP addresses, each once, in the system's order.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos))


async def resolve(address: PeerAddress, lookup: Lookup = system_lookup) -> tuple[str, ...]:
    """Look up the host of an address, in the family that the address names, as p2pd does.

    Args:
        address: `/dns4/...` gives IPv4 only, `/dns6/...` IPv6 only, `/dns/...` both.
        lookup: asks the name servers.

    Returns:
        The IP addresses, at least one.

    Raises:
        OSError: if there are none; its text says so if the name has some of the other family.
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
    """Look a host up and connect to one of its addresses; what was connected is closed at once.

    Args:
        address: whose TCP port to ask; without one nothing is asked.
        seconds: how long the lookup may take, and then the connecting.
        lookup: asks the name servers.

    Returns:
        What came of it; a failure is a result too, never an exception.
    """
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


async def answering(addresses: Sequence[PeerAddress]) -> tuple[PeerAddress, ...]:
    """Keep the addresses whose TCP port answers, and those that have none.

    Asked before libp2p is. After a failed dial libp2p refuses to try that address again for up to five minutes, and
    then
    says nothing but "dial backoff".

    Args:
        addresses: of one peer.

    Returns:
        Those worth dialling, in the same order; at least one.

    Raises:
        PartnerUnreachable: if none answers; with what the system says of each.
    """
    probes = await asyncio.gather(*map(probe, addresses))
    good = tuple(address for address, found in zip(addresses, probes, strict=True) if found.problem is None)
    if not good:
        raise PartnerUnreachable("; ".join(str(found.problem) for found in probes) or "no usable address is known")
    return good


async def _reach_one(hosts: tuple[str, ...], port: int) -> None:
    """Connect to the first host that answers. Raises the first problem if none does."""
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
