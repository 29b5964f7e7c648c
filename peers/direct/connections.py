"""What a peer uses of direct connections: `DirectConnections`, or none at all."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.direct.meeting import (
    BYTES_MIN,
    FAILED,
    OFF,
    PARTNER_OFF,
    RELAYED,
    SMALL,
    Answering,
    Asking,
    Kept,
    S,
    Wire,
)
from p2p_elastic.peers.direct.setbacks import Setback
from p2p_elastic.protocol.messages import Direct
from p2p_elastic.protocol.records import PeerRecord


class Connections:
    """Meets partners directly. Belongs to the network thread.

    Args:
        wire: makes connections.
        rng: for tokens; None: the system's.
        bytes_min: one way; less than that goes over libp2p.
        outside: gives the IP address at which relays see this peer; None: that is not known.
    """

    def __init__(
        self,
        wire: Wire[S],
        rng: random.Random | None = None,
        *,
        bytes_min: int = BYTES_MIN,
        outside: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._kept, self._bytes_min, self._outside = Kept(wire, rng or random.SystemRandom()), bytes_min, outside

    @property
    def port(self) -> int | None:
        """At which this peer is dialled; None: it is not."""
        return self._kept.wire.port

    @property
    def refused(self) -> Mapping[str, int]:
        """Why -> how many connections to that port were turned away."""
        return self._kept.wire.refused

    def ask(self, partner: PeerRecord, streams: int, nbytes: int, *, relayed: bool = False) -> Asking | str:
        """Make ready to ask a partner, as `DirectConnections.ask` says.

        Args:
            partner: the one to ask.
            streams: how many connections at most.
            nbytes: what travels each way.
            relayed: whether a relay leads to the partner.

        Returns:
            The meeting; or why there is none.
        """
        if nbytes < self._bytes_min:
            return SMALL
        if self._failed(partner.peer):
            return FAILED
        outside = self._outside() if relayed else None
        if relayed and (outside is None or streams > 1 or self._failed(partner.peer, "dial")):
            return RELAYED
        return Asking(self._kept, partner, streams, outside)

    def answer(
        self, told: Direct | None, partner: str, record: PeerRecord | None, streams: int, *, relayed: bool = False
    ) -> Answering | str:
        """Make ready to answer a partner, as `DirectConnections.answer` says.

        Args:
            told: what it said.
            partner: its peer id, proven.
            record: says where it can be dialled; None if it is not known.
            streams: how many connections.
            relayed: whether a relay leads to the partner.

        Returns:
            The meeting; or why there is none.
        """
        if told is None:
            return RELAYED if relayed else PARTNER_OFF
        if self._failed(partner):
            return FAILED
        try:
            return Answering(self._kept, told, partner, record, streams, self._outside() if relayed else None)
        except ExchangeError as error:
            return str(error)

    def _failed(self, partner: str, what: Setback = "transfer") -> bool:
        return self._kept.setbacks.lately(partner, what, asyncio.get_running_loop().time())

    def close(self) -> None:
        """Close what is idle."""
        self._kept.idle.close()


class NoConnections:
    """All vectors go over libp2p.

    Args:
        why: shown to people.
    """

    port: int | None = None

    def __init__(self, why: str = OFF) -> None:
        self._why, self.refused = why, Counter[str]()

    def ask(self, _partner: PeerRecord, _streams: int, _nbytes: int, *, relayed: bool = False) -> str:
        """Say why there is none.

        Returns:
            The reason.
        """
        return self._why

    def answer(
        self,
        _told: Direct | None,
        _partner: str,
        _record: PeerRecord | None,
        _streams: int,
        *,
        relayed: bool = False,
    ) -> str:
        """Say why there is none.

        Returns:
            The reason.
        """
        return self._why
