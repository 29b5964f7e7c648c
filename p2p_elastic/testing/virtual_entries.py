"""What the nodes of a simulated DHT hold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Mapping


class Entries:
    """What a DHT would hold under one key.

    Attributes:
        bodies: peer id -> its record as JSON; until `alive` is called also those that expired.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self._expires: dict[str, float] = {}
        self._earliest = math.inf  # no entry expires before

    def put(self, peer: str, body: bytes, expires: float) -> None:
        """Store an entry.

        Args:
            peer: whose.
            body: its record, as JSON.
            expires: in virtual seconds.
        """
        self.bodies[peer], self._expires[peer] = body, expires
        self._earliest = min(self._earliest, expires)

    def take(self, other: Entries, peers: Container[str]) -> None:
        """Store what another DHT holds.

        Args:
            other: its entries.
            peers: whose of them.
        """
        for peer, body in other.bodies.items():
            if peer in peers:
                self.put(peer, body, other._expires[peer])

    def alive(self, now: float) -> Mapping[str, bytes]:
        """Drop what has expired.

        Args:
            now: in virtual seconds.

        Returns:
            Peer id -> body, of the others.
        """
        if now >= self._earliest:
            for peer in [peer for peer, expires in self._expires.items() if expires <= now]:
                del self.bodies[peer], self._expires[peer]
            self._earliest = min(self._expires.values(), default=math.inf)
        return self.bodies


Table = defaultdict[str, Entries]
