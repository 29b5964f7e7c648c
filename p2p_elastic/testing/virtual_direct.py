"""Simulated direct connections: `Wire` (`peers/direct/meeting.py`) over the pipes of the simulated network."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.direct.expected import Expected
from p2p_elastic.peers.direct.sealing import Agreed
from p2p_elastic.protocol.chunks import Incoming, Outgoing
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.testing.faults import Judging, Kind, Verdict
from p2p_elastic.testing.virtual_stream import Pipe, SimulatedStream

PORT = 1


class SimulatedConnection:
    """A direct connection in virtual time.

    Args:
        name: the same at both ends.
        stream: carries it.
    """

    def __init__(self, name: str, stream: SimulatedStream) -> None:
        self.name, self.partner, self._stream = name, stream.partner, stream

    @property
    def usable(self) -> bool:
        """Whether it is open still."""
        return self._stream.open

    async def transfer(self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float) -> float:
        """Send and fill vectors, as `Carrier.transfer` says.

        Args:
            outgoing: what to send; None if nothing travels that way.
            incoming: what to fill; None if nothing travels that way.
            gap_seconds: how long one piece may take.

        Returns:
            The longest time that a piece took, in virtual seconds.
        """
        return await self._stream.transfer(outgoing, incoming, gap_seconds, headers=False)

    def close(self) -> None:
        """Close it."""
        self._stream.abort()

    def abort(self) -> None:
        """Close it at once."""
        self._stream.abort()


class Network(Judging, Protocol):
    """What is between the peers."""

    wires: dict[str, SimulatedWire]
    """Peer id -> what dials and listens there."""
    streams: defaultdict[str, dict[SimulatedStream, None]]
    """Peer id -> its open ends."""


class _Sealed:
    """The network as sealed chunks see it: what was changed on its way ends a connection."""

    def __init__(self, network: Judging) -> None:
        self._network = network

    def verdict(self, source: str, target: str, kind: Kind, **about: int) -> Verdict:
        verdict = self._network.verdict(source, target, kind, **about)
        return verdict._replace(action="cut") if verdict.action == "corrupt" else verdict


class SimulatedWire:
    """`Wire` in virtual time.

    Args:
        network: judges each dialling, as an event `connect`, and each piece.
        peer: the id of this end.
    """

    def __init__(self, network: Network, peer: str) -> None:
        self._network, self._peer = network, peer
        self.aes = True
        self.port: int | None = PORT
        self.own_port: int | None = None
        self.refused = Counter[str]()
        self._expected: dict[str, Expected[SimulatedConnection]] = {}
        network.wires[peer] = self

    def hosts_of(self, record: PeerRecord) -> Sequence[str]:
        """Find where a peer may be dialled.

        Args:
            record: the peer's.

        Returns:
            Its id: addresses do not matter here.
        """
        return (record.peer,)

    def expect(self, partner: str, token: str) -> Expected[SimulatedConnection]:
        """Await a partner's connections.

        Args:
            partner: its peer id.
            token: what it shows.

        Returns:
            What is awaited.
        """
        expected = self._expected[token] = Expected[SimulatedConnection](partner, token)
        return expected

    def forget(self, expected: Expected[SimulatedConnection]) -> None:
        """Await these connections no more.

        Args:
            expected: as `expect` gave it.
        """
        self._expected.pop(expected.token, None)
        for one in expected.leave():
            one.close()

    async def dial(
        self, partner: str, _hosts: Sequence[str], agreed: Agreed, streams: int
    ) -> Sequence[SimulatedConnection]:
        """Connect to a partner.

        Args:
            partner: its peer id.
            agreed: what both ends told.
            streams: how many.

        Returns:
            The connections.

        Raises:
            PartnerUnreachable: if the verdict is not pass, or nobody awaits this end there. With silence: never.
        """
        verdict = self._network.verdict(self._peer, partner, "connect")
        await asyncio.sleep(verdict.seconds)
        if verdict.action == "silence":
            await asyncio.get_running_loop().create_future()
        wire = self._network.wires.get(partner)
        expected = None if wire is None else wire._expected.get(agreed.listener.token)
        if verdict.action != "pass" or expected is None:
            raise PartnerUnreachable("nobody awaits this peer there", partner=partner)
        await expected.agreed()
        return [self._pair(partner, expected, number) for number in range(streams)]

    async def cross(
        self, partner: str, _there: tuple[str, int], _agreed: Agreed, *, dials: bool
    ) -> list[SimulatedConnection]:
        """Nobody is behind a router here.

        Args:
            partner: its peer id.
            dials: whether this end is the dialler.

        Raises:
            PartnerUnreachable: always.
        """
        raise PartnerUnreachable(f"there are no routers ({dials=})", partner=partner)

    def _pair(self, partner: str, expected: Expected[SimulatedConnection], number: int) -> SimulatedConnection:
        sealed, name = _Sealed(self._network), f"{expected.token[:-2]}{number:02x}"
        there, back = Pipe(sealed, self._peer, partner), Pipe(sealed, partner, self._peer)
        if expected.wants(number):
            theirs = SimulatedStream(self._peer, back, there, self._network.streams[partner])
            expected.take(number, SimulatedConnection(name, theirs))
        return SimulatedConnection(name, SimulatedStream(partner, there, back, self._network.streams[self._peer]))
