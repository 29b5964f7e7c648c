"""The doctor's libp2p part: a host for a few seconds, the initial peers, and the runs that they know."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from p2p_elastic.common.addresses import parse_address, read_address
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.doctor.checks import Finding, failure, ok, warning
from p2p_elastic.errors import ConfigError, DirectoryError, NetworkError, PartnerUnreachable
from p2p_elastic.node.admission import visiting
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.peers.discovery.dht_keys import members_key
from p2p_elastic.peers.discovery.explain_address import explain
from p2p_elastic.peers.discovery.live_network import Interrupted, LiveNetwork, NetworkThread
from p2p_elastic.peers.transport.probing import probe
from p2p_elastic.protocol.manifest import RunManifest, check_against, choose_run
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import find_method
from p2p_elastic.tasks import initial_model, named_task

T = TypeVar("T")
RUNS_SECONDS = 7.0  # a manifest is announced every 5
MEET_SECONDS = 30.0  # each step below has a shorter deadline of its own


class Invited(NamedTuple):
    """How this peer was let into a private run.

    Attributes:
        line: the invite.
        identity: key file that its user named; None: none.
    """

    line: str
    identity: Path | None


class Session:
    """This side of libp2p while the doctor looks around. Its methods raise KeyboardInterrupt on the wish to stop.

    Args:
        thread: runs the network.
        network: open.
        stop: the user's wish to stop.
    """

    def __init__(self, thread: NetworkThread, network: LiveNetwork, stop: Callable[[], bool]) -> None:
        self._thread, self._network, self._stop = thread, network, stop

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs that other peers are told."""
        return self._network.host.addresses

    def refresh_addresses(self) -> None:
        """Ask again: a router's port mapping, or what others see, may have come meanwhile."""
        with contextlib.suppress(NetworkError):
            self._call(self._network.host.refresh_addresses())

    def reach(self, addresses: Sequence[str]) -> list[Reach]:
        """Try every address: all peers at the same time, the addresses of one peer one after the other.

        Args:
            addresses: multiaddrs with peer ids.

        Returns:
            What came of each; those of one peer are together.
        """
        by_peer: dict[str, list[str]] = {}
        for address in addresses:
            by_peer.setdefault(parse_address(address).peer, []).append(address)

        async def all_peers() -> list[Reach]:
            found = await asyncio.gather(*(_reach_peer(self._network, p, those) for p, those in by_peer.items()))
            return [reach for reaches in found for reach in reaches]

        return self._call(all_peers())

    @property
    def clock_ahead(self) -> float:
        """Seconds by which the swarm's clock is ahead of this machine's; 0 before a peer was met."""
        return self._network.clock.ahead_of_machine

    def runs(self) -> tuple[RunManifest, ...]:
        """Ask the initial peers for the runs that they know.

        Returns:
            Manifests; empty if none was announced within RUNS_SECONDS.
        """
        return self._call(_runs(self._network))

    @property
    def refused(self) -> Mapping[str, ConfigError]:
        """Of these runs, the ones that no peer can join, and why."""
        return self._network.directory.refused

    def is_private(self) -> bool:
        """Ask the initial peers whether they are in a private run to which this peer was not invited.

        Returns:
            False also if none of them was met.
        """
        return self._call(self._network.is_private())

    def members(self, run: str) -> int | None:
        """Count the members of a run.

        Args:
            run: its name.

        Returns:
            How many there are; None if the DHT does not say.
        """
        return self._call(_members(self._network, run))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return self._thread.call(coroutine, self._stop)
        except Interrupted:
            raise KeyboardInterrupt from None


@contextlib.contextmanager
def open_session(
    host: str,
    port: int,
    initial_peers: Sequence[str],
    announce: Sequence[str],
    stop: Callable[[], bool],
    invited: Invited | None = None,
) -> Iterator[Session]:
    """Start p2pd for a while; it is gone at the end.

    Args:
        host: IP address to listen on.
        port: TCP port to listen on; 0 is any free one.
        initial_peers: multiaddrs with peer ids.
        announce: multiaddrs that other peers are told; if it is empty, they are found.
        stop: the user's wish to stop.
        invited: to a private run; None: to none.

    Yields:
        The session.

    Raises:
        ConfigError: if it cannot listen there, or the invite cannot be used.
        NetworkError: if p2pd does not start.
    """
    line, identity = (None, None) if invited is None else invited
    network = visiting(line, identity, initial_peers, announce)
    with NetworkThread() as thread:
        thread.call(network.open(host, port))
        try:
            yield Session(thread, network, stop)
        finally:
            thread.call(network.close())


# -- initial peers -----------------------------------------------------------------------------------------------------


class Reach(NamedTuple):
    """What came of one address.

    Attributes:
        address: multiaddr with a peer id.
        problem: why the peer was not met there; None if it was, or if it was met at another address.
        hosts: IP addresses to which a name resolves.
        tcp_seconds: until the TCP connection was there; None if there was none.
        handshake_seconds: until the peer's identity was proved; None also if the peer was met at another address.
    """

    address: str
    problem: str | None = None
    hosts: tuple[str, ...] = ()
    tcp_seconds: float | None = None
    handshake_seconds: float | None = None


def valid_addresses(addresses: Sequence[str], key: str) -> tuple[list[str], list[Finding]]:
    """Part the addresses that can be used from the others.

    Args:
        addresses: as the user gave them.
        key: option that they were given with: `initial-peer` needs peer ids.

    Returns:
        The good ones in their usual spelling, and a failure for each of the others.
    """
    good, findings = [], []
    for address in addresses:
        try:
            good.append(str(parse_address(address)) if key == "initial-peer" else read_address(address, key).where)
        except ConfigError as error:
            findings.append(failure(key, f"{address}: not usable", error.allowed))
    return good, findings


async def _reach_peer(network: LiveNetwork, peer: str, addresses: Sequence[str]) -> list[Reach]:
    found: list[Reach] = []
    met = False
    for address in addresses:
        reach = await _tcp(address)
        if reach.problem is None and not met:  # libp2p would not dial a second time while it is connected
            reach = await _handshake(network, peer, reach)
            met = reach.problem is None
        found.append(reach)
    return found


async def _tcp(address: str) -> Reach:
    found = await probe(parse_address(address))
    return Reach(address, found.problem and explain(address, found.problem), found.hosts, found.seconds)


async def _handshake(network: LiveNetwork, peer: str, reach: Reach) -> Reach:
    began = time.monotonic()
    try:
        await wait_for(network.dht.meet(peer, (reach.address,)), MEET_SECONDS)
    except (PartnerUnreachable, DirectoryError) as error:
        return reach._replace(problem=explain(reach.address, str(error)))
    except asyncio.TimeoutError:
        return reach._replace(problem="connected, but no handshake: is it another kind of program?")
    return reach._replace(handshake_seconds=time.monotonic() - began)


def check_reaches(reaches: Sequence[Reach], clock_ahead: float = 0.0) -> list[Finding]:
    """Say what came of each address.

    Args:
        reaches: of the initial peers.
        clock_ahead: seconds by which the swarm's clock is ahead of this machine's.

    Returns:
        A finding for each; one that works is enough, so problems of the others are warnings then.
    """
    works = any(reach.handshake_seconds is not None for reach in reaches)
    findings = [_check_reach(reach, works) for reach in reaches]
    if works:
        text = (
            f"the initial peer's is {clock_ahead:+.1f} s from this machine's; whatever it is, peers go by the swarm's"
        )
        findings.append(ok("clock", text))
    return findings


def _check_reach(reach: Reach, another_works: bool) -> Finding:
    name, where = "initial-peer", reach.address
    shown = ", ".join(reach.hosts)
    if shown and f"/{shown}/" not in where:
        where += f" ({shown})"
    if reach.problem is not None:
        enough = "another address works, which is enough; leave this one out or correct it"
        if another_works:
            return warning(name, f"{where}: {reach.problem}", enough)
        return failure(name, f"{where}: {reach.problem}", "see that it runs, and copy the address from its screen")
    tcp = "" if reach.tcp_seconds is None else f"TCP in {_milliseconds(reach.tcp_seconds)}, "
    if reach.handshake_seconds is None:
        return ok(name, f"{where}: {tcp}not tried further, as the same peer was met at another address")
    return ok(name, f"{where}: {tcp}handshake in {_milliseconds(reach.handshake_seconds)}, it is that peer")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


# -- runs --------------------------------------------------------------------------------------------------------------


async def _runs(network: LiveNetwork) -> tuple[RunManifest, ...]:
    loop = asyncio.get_running_loop()
    end = loop.time() + RUNS_SECONDS
    with contextlib.suppress(DirectoryError):
        await network.dht.explore()
    while True:
        with contextlib.suppress(DirectoryError):
            if found := await network.directory.runs():
                return found
        if loop.time() >= end:
            return ()
        await asyncio.sleep(0.5)


async def _members(network: LiveNetwork, run: str) -> int | None:
    try:
        entries = await network.dht.get(members_key(run))
    except DirectoryError:
        return None
    return sum(_is_member(body) for body in entries.values())


def _is_member(body: bytes) -> bool:
    try:
        return not PeerRecord.model_validate_json(body).left
    except ValidationError:
        return False


def choose(
    manifests: tuple[RunManifest, ...], wanted: str | None, refused: Mapping[str, ConfigError] = MappingProxyType({})
) -> tuple[RunManifest | None, list[Finding]]:
    """Choose the run that would be joined.

    Args:
        manifests: of the runs that the initial peers know.
        wanted: name that the user gave; None if any is wanted.
        refused: runs that no peer can join, and why.

    Returns:
        The manifest and no finding; or None and why there is none.
    """
    try:
        manifest = choose_run(manifests, wanted, refused)
    except ConfigError as error:
        if error in refused.values():
            return None, [failure("run", str(error), "found it anew with what is allowed, or update both ends")]
        return None, [failure("run", error.allowed, "name one that is meant with --run, or end the others")]
    if manifest is not None:
        return manifest, []
    if manifests:
        names = ", ".join(sorted({m.run for m in manifests}))
        return None, [
            failure("run", f"the initial peers do not know run {wanted!r}; they know {names}", "correct --run")
        ]
    text = f"the initial peers answer, but none announced a run within {RUNS_SECONDS:.0f} s"
    return None, [failure("run", text, "wait until one of them says that it founded or joined a run")]


def check_run(manifest: RunManifest, members: int | None, config: JoinConfig) -> list[Finding]:
    """Check that this peer could take part in a run with these options.

    Args:
        manifest: of the run.
        members: how many there are; None if that is not known.
        config: options of `join`.

    Returns:
        Findings about the run, the options and the task.
    """
    count = "" if members is None else f"; {members} member{'' if members == 1 else 's'}"
    findings = [ok("run", f"{manifest.describe()}{count}")]
    try:
        check_against(manifest, config.binding())
        manifest.policy()
        config.check_against(find_method(manifest.rule))
    except ConfigError as error:
        findings.append(failure("run", f"cannot be joined like this: {error}", "leave that option out, or update"))
    return [*findings, _check_task(manifest, config.task)]


def _check_task(manifest: RunManifest, given: str | None) -> Finding:
    update = "install the same version of p2p-elastic as the founder's, or give the founder's task with --task"
    try:
        task = named_task(manifest.task, given)
    except ConfigError as error:
        return failure("task", f"the run trains {manifest.task!r}, not installed here; {error.allowed}", update)
    ours = task.vector(initial_model(task, 0)).schema_hash
    if ours != manifest.schema_hash:
        text = f"{manifest.task}: the run has another model (schema {manifest.schema_hash}, here {ours})"
        return failure("task", text, update)
    return ok("task", f"{manifest.task} is installed here, with the same model (schema {ours[:8]}...)")
