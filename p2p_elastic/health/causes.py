"""Why exchanges take long or fail, and what helps: this machine, the partners, or the link. Pure functions.

A machine whose CPU is overloaded measures everything as slow, its network too: it is looked at first.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, NamedTuple

from p2p_elastic.common.addresses import read_address
from p2p_elastic.common.page_address import is_page
from p2p_elastic.errors import ConfigError
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.software import is_software
from p2p_elastic.status.schema import LinkStatus, SignalStatus

LOAD_BUSY = 1.5  # threads that want each core, mean of a minute: training alone keeps each core busy with one
NAMED = 3  # partners in one sentence

# A decline is an answer, not a failure.
FAILURES = frozenset({Outcome.UNREACHABLE, Outcome.TIMEOUT, Outcome.BROKEN, Outcome.REFUSED, Outcome.HALF})
OF_FAILURES = (
    (
        "unreachable",
        frozenset({Outcome.UNREACHABLE}),
        "no stream could be opened",
        "see whether they run, and whether a firewall or NAT is between this peer and their addresses in /v1/peers",
    ),
    (
        "timeouts",
        frozenset({Outcome.TIMEOUT}),
        "the partner went silent",
        "see whether it hangs, is suspended or overloaded, or whether the network loses much",
    ),
    (
        "broken",
        frozenset({Outcome.BROKEN, Outcome.REFUSED, Outcome.HALF}),
        "it broke in the middle",
        "see the logs of both ends, and whether they run the same version",
    ),
)
"""Code, outcomes, what happened, what to do."""

Cause = Literal["machine", "partners", "link"]


class Ended(NamedTuple):
    """One of the last exchanges. A plain tuple: all of them are looked at anew after each one.

    Attributes:
        partner: peer id.
        outcome: how it ended.
        seconds: how long it took.
        bytes_sent: parameters and headers.
        bytes_received: parameters and headers.
        staleness: this peer's steps between snapshot and move; None if it did not move.
        age_seconds: since it ended.
    """

    partner: str
    outcome: Outcome
    seconds: float
    bytes_sent: int
    bytes_received: int
    staleness: int | None
    age_seconds: float


class Timing(NamedTuple):
    """What takes the time of an exchange; None: not known.

    Attributes:
        load: threads that want each core of this machine, mean of a minute.
        answer_seconds: until a partner answers an offer: it may be busy, or in a long step.
        transfer_seconds: of the parameters, both ways.
        one_machine: whether all partners run on this machine: there is no link.
    """

    load: float | None = None
    answer_seconds: float | None = None
    transfer_seconds: float | None = None
    one_machine: bool = False

    @property
    def overloaded(self) -> bool:
        """Whether more threads want each core than LOAD_BUSY."""
        return self.load is not None and self.load > LOAD_BUSY

    @property
    def cause(self) -> Cause | None:
        """What takes most of the time; None if that is not known."""
        if self.overloaded:
            return "machine"
        if self.answer_seconds is None or self.transfer_seconds is None:
            return "machine" if self.one_machine else None
        if self.answer_seconds > self.transfer_seconds:
            return "partners"
        return "machine" if self.one_machine else "link"


def advice(timing: Timing) -> str:
    """What makes exchanges quicker, by what takes most of their time.

    Args:
        timing: what is known.

    Returns:
        A sentence without a full stop, for people.
    """
    if timing.cause is None:
        return "see whether this machine or its partners are busy, or the network is slow"
    if timing.cause == "machine":
        return overload(timing.load) if timing.overloaded else _ONE_MACHINE
    said = f"a partner takes {timing.answer_seconds:.2g} s to answer, the transfer {timing.transfer_seconds:.2g} s"
    if timing.cause == "partners":
        return f"{said}: partners are busy or slow; exchange less often, or see what keeps them busy"
    return f"{said}: use a faster network, a smaller --codec, or exchange less often"


def limit_of(link: LinkStatus) -> str:
    """Say that the link is the limit, and what was chosen by it.

    Args:
        link: what was measured.

    Returns:
        A sentence without a full stop, for people.
    """
    part = f"1/{link.fragments} of the parameters" if link.fragments > 1 else "all parameters"
    return (
        f"the link is the limit: it moves {_rate(link.bytes_per_second)}, both ways together, so an exchange moves "
        f"{part} by codec {link.codec}, {link.exchange_seconds:.2g} s; all of them in float32 would take "
        f"{link.whole_seconds:.3g} s. A faster link or a longer --period lets it move more"
    )


def _rate(bytes_per_second: float) -> str:
    megabytes = bytes_per_second / 1e6
    return f"{megabytes:.2g} MB/s" if megabytes >= 1.0 else f"{1000.0 * megabytes:.3g} kB/s"


def overload(load: float | None) -> str:
    """What to do if this machine's CPU is the cause.

    Args:
        load: threads that want each core.

    Returns:
        A sentence without a full stop, for people.
    """
    return (
        f"this machine's CPU is overloaded: {load or 0.0:.2g} threads want each core; "
        "end other programs, run fewer peers here, or give this one fewer --threads"
    )


_ONE_MACHINE = "all partners run on this machine, so it is no network: run fewer peers here, or exchange less often"


def advice_on_silence(records: Sequence[Ended], timing: Timing) -> str:
    """What to do about exchanges that timed out.

    Args:
        records: the last exchanges, those that went well too.
        timing: what is known.

    Returns:
        A sentence without a full stop, for people.
    """
    late = {record.partner for record in records if record.outcome is Outcome.TIMEOUT}
    well = {record.partner for record in records if record.outcome is Outcome.COMPLETED}
    if timing.overloaded:
        return overload(timing.load)
    if well and not late & well:
        return f"others answer in time: see whether {names(sorted(late))} hang, are overloaded, or have a slow link"
    if timing.one_machine:
        return _ONE_MACHINE
    return "see whether partners are overloaded, or the network of this machine loses much"


def advice_on_failures(outcomes: Iterable[Outcome], load: float | None) -> str:
    """What to do about exchanges that failed.

    Args:
        outcomes: how they ended.
        load: threads that want each core; None if not known.

    Returns:
        Sentences for people, with semicolons between; empty if none failed.
    """
    found = set(outcomes)
    overloaded = Timing(load).overloaded
    return "; ".join(
        overload(load) if overloaded and code == "timeouts" else what_to_do
        for code, kinds, _, what_to_do in OF_FAILURES
        if kinds & found
    )


def on_one_machine(own: Iterable[str], others: Sequence[Iterable[str]]) -> bool:
    """Whether all the others run on this peer's machine.

    That is so if they have loopback addresses only, or no other private ones than this peer has. A public address says
    nothing: several machines behind one router share it.

    Args:
        own: this peer's multiaddrs.
        others: the multiaddrs of each other peer.

    Returns:
        False if there are no others, or one of them cannot be told.

    Example:
        >>> own = ["/ip4/192.168.1.10/tcp/31330"]
        >>> on_one_machine(own, [["/ip4/192.168.1.10/tcp/31331"]]), on_one_machine(own, [["/ip4/192.168.1.11/tcp/1"]])
        (True, False)
    """
    ours = _hosts(tuple(own))
    theirs = (_hosts(tuple(addresses)) for addresses in others)
    return bool(others) and all(hosts and (hosts <= ours or all(one.is_loopback for one in hosts)) for hosts in theirs)


@functools.lru_cache(maxsize=1024)  # asked after each exchange, of all members
def _hosts(addresses: tuple[str, ...]) -> frozenset[IPv4Address | IPv6Address]:
    """The hosts in multiaddrs that are reached directly, without loopback if there is another; empty if one of them
    is a name or public, or cannot be read."""
    hosts = set()
    for text in (each for each in addresses if not is_page(each) and not is_software(each)):
        try:
            address = read_address(text, "address")
            if not address.relayed:
                hosts.add(ip_address(address.host.value))
        except (ConfigError, ValueError):
            return frozenset()
    if any(host.is_global for host in hosts):
        return frozenset()
    return frozenset(host for host in hosts if not host.is_loopback) or frozenset(hosts)


def load_of(signals: Iterable[SignalStatus]) -> float | None:
    """Find the load among a peer's signals.

    Args:
        signals: in any order.

    Returns:
        Threads that want each core; None if it is not among them.
    """
    return next((signal.value for signal in signals if signal.name == "load"), None)


def names(peers: Iterable[str]) -> str:
    """Name a few of the peers, and count the others.

    Args:
        peers: peer ids; repeated ones count once.

    Returns:
        Text for people.

    Example:
        >>> names(["a", "b", "a"]), names("abcde")
        ('a, b', 'a, b, c and 2 more')
    """
    known = list(dict.fromkeys(peers))
    return ", ".join(known[:NAMED]) + (f" and {len(known) - NAMED} more" if len(known) > NAMED else "")
