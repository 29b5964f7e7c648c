"""Whether this peer can listen, and from where others can reach it: pure functions from facts to findings."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Literal, NamedTuple

from p2p_elastic.common.addresses import host_of, is_loopback
from p2p_elastic.doctor.checks import Finding, failure, ok, warning

Scope = Literal["loopback", "link", "private", "public", "name"]

CARRIER_NAT = ipaddress.ip_network("100.64.0.0/10")
WHERE = {
    "public": "from the internet, unless a firewall blocks it",
    "name": "wherever that name is known",
    "private": "from the same network (private addresses)",
    "link": "from the same cable only (link-local)",
    "loopback": "from this machine only",
}
OUTSIDE = "start the peer, then on a machine elsewhere: p2p-elastic doctor --initial-peer MULTIADDR"


class PortProblem(NamedTuple):
    """Why a port cannot be listened on.

    Attributes:
        kind: whether it is in use, this user may not open it, or the host is none of this machine.
        text: the reason, for people.
    """

    kind: Literal["taken", "port", "host"]
    text: str


def check_port(check: str, option: str, port: int, asked: bool, problem: PortProblem | None) -> Finding:
    """Check a TCP port to listen on.

    Args:
        check: name of the finding.
        option: how a user chooses it.
        port: 0 is any free one.
        asked: whether the user asked for it; if not, any free one would do.
        problem: why it cannot be listened on; None if it can be.

    Returns:
        A failure, or a warning if it is taken and was not asked for.
    """
    if problem is None:
        return ok(check, f"{port} is free" if port else "any free port")
    if problem.kind == "host":
        advice = f"give an address of this machine with {option.replace('port', 'host')}, or leave it out"
        return failure(check, f"cannot listen there: {problem.text}", advice)
    if problem.kind == "port":
        return failure(check, f"{port} cannot be used: {problem.text}", f"choose one above 1023 with {option}")
    if asked:
        return failure(check, f"{port} is taken", f"end what uses it, or choose another with {option}; 0: any free one")
    return warning(
        check,
        f"the usual port {port} is taken, perhaps by another peer on this machine; join would take any free one",
        f"if a firewall or port forward names the port, choose a free one with {option}",
    )


def check_direct_port(port: int, asked: bool, problem: PortProblem | None) -> Finding:
    """Check the TCP port for direct connections, without which exchanges work, too.

    Args:
        port: 0 is any free one.
        asked: whether the user asked for it; if not, any free one will do.
        problem: why it cannot be listened on; None if it can be.

    Returns:
        A failure if it was asked for; otherwise what will happen.
    """
    optional = "optional: if it is not open to others, parameters travel over libp2p, which takes longer"
    if problem is None:
        return ok("direct-port", f"{port if port else 'any free port'}; {optional}")
    if asked:
        return check_port("direct-port", "--direct-port", port, asked, problem)
    return ok("direct-port", f"any free port ({port} is not to be had); {optional}")


def check_http_host(host: str) -> Finding | None:
    """Warn if the status would be shown to the network.

    Args:
        host: address that HTTP listens on.

    Returns:
        A warning; None if it is loopback.
    """
    if is_loopback(host):
        return None
    return warning("http", f"the status would be shown on {host}, without any password", "only in networks you trust")


def scope_of(host: str) -> Scope:
    """Say from where an address can be used at best.

    Args:
        host: IP address, with or without a zone, or a name.

    Returns:
        The scope; addresses behind a provider's NAT (100.64.0.0/10) are private.

    Example:
        >>> scope_of("127.0.0.1"), scope_of("192.168.1.7"), scope_of("8.8.8.8"), scope_of("peer.example")
        ('loopback', 'private', 'public', 'name')
    """
    try:
        ip = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return "name"
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local:
        return "link"
    if ip.is_private or (ip.version == 4 and ip in CARRIER_NAT) or not ip.is_global:
        return "private"
    return "public"


def check_addresses(addresses: Sequence[str], own: frozenset[str], announced: bool) -> list[Finding]:
    """Say from where other peers can reach this one.

    Args:
        addresses: multiaddrs that the others are told.
        own: hosts among them that are interfaces of this machine.
        announced: whether the user gave them with --announce.

    Returns:
        A line for each scope; another for public addresses that are none of this machine.
    """
    if announced:
        return [ok("addresses", f"others are told {', '.join(_without_peer(addresses))}, as --announce says")]
    by_scope = {scope: [a for a in addresses if scope_of(host_of(a)) == scope] for scope in WHERE}
    findings = [
        ok("addresses", f"{WHERE[scope]}: {', '.join(_without_peer(those))}")
        for scope, those in by_scope.items()
        if those
    ]
    mapped = [a for a in by_scope["public"] if host_of(a) not in own]
    if mapped:
        text = f"the router or other peers say that this peer is seen at {', '.join(_without_peer(mapped))}"
        findings.append(ok("addresses", text))
    return findings


def check_reachable(addresses: Sequence[str], announce: Sequence[str], port: int | None) -> Finding:
    """Say whether peers elsewhere can dial this one, as far as is known without asking a third party.

    Args:
        addresses: multiaddrs that the others are told.
        announce: what the user gave with --announce.
        port: what the user gave with --port; None if it was not given.

    Returns:
        A warning: whether a firewall or router is in between is not seen from here.
    """
    if announce:
        return _check_announced(announce, port)
    scopes = {scope_of(host_of(address)) for address in addresses}
    if "public" in scopes:
        return warning(
            "reachable", "it has a public address; whether a firewall blocks it is not seen from here", OUTSIDE
        )
    if "private" in scopes:
        return warning(
            "reachable",
            "only private addresses: peers in the same network can dial this one, others only if the router forwards "
            "the port (by UPnP perhaps; not known here)",
            "enough if this peer joins others, as connections are used both ways, and a member with --relay leads "
            "others to it; to be dialled from elsewhere, forward the port and say so: --port P --announce "
            "/ip4/PUBLIC/tcp/P",
        )
    return warning(
        "reachable",
        "nobody on another machine can dial this peer",
        "on purpose? Otherwise use --host 0.0.0.0, and see that this machine has a network",
    )


def _check_announced(announce: Sequence[str], port: int | None) -> Finding:
    told = ", ".join(announce)
    inside = [a for a in announce if scope_of(host_of(a)) in ("loopback", "link")]
    if inside:
        advice = "announce the address under which others see this machine or its router"
        return warning("reachable", f"no other machine can use {', '.join(inside)}", advice)
    if port is None:
        return warning(
            "reachable",
            f"you announce {told}, but without --port another port is taken when the usual one is in use",
            "give --port too: the one to which the router forwards",
        )
    return warning("reachable", f"whether {told} leads here is not seen from here", OUTSIDE)


def _without_peer(addresses: Sequence[str]) -> list[str]:
    return [address.split("/p2p/")[0] for address in addresses]
