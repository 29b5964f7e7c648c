"""Direct connections between two exchanges: kept for a while, since dialling takes three round trips."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from p2p_elastic.peers.transport.interfaces import Carrier

IDLE_SECONDS = 120.0
IDLE_MAX = 64  # connections of all partners together


class Connection(Carrier, Protocol):
    """A direct connection."""

    name: str
    """The same at both ends, and of no other connection."""
    partner: str
    """The peer id at the other end."""

    @property
    def usable(self) -> bool:
        """Whether it is open still."""

    def close(self) -> None:
        """Close it."""


class IdleConnections:
    """The connections that nobody uses now: IDLE_MAX at most, each for IDLE_SECONDS. Belongs to the network thread."""

    def __init__(self) -> None:
        self._idle: dict[str, tuple[Connection, asyncio.TimerHandle]] = {}  # by name, the latest last

    def __len__(self) -> int:
        return len(self._idle)

    def keep(self, connection: Connection) -> None:
        """Keep one for the next time; the oldest ones make room.

        Args:
            connection: is closed if nobody takes it in time.
        """
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop, connection.name)
        self._idle[connection.name] = connection, timer
        while len(self._idle) > IDLE_MAX:
            self._drop(next(iter(self._idle)))

    def take(self, partner: str, most: int, names: Collection[str] | None = None) -> list[Connection]:
        """Take those to a partner that are open still.

        Args:
            partner: its peer id.
            most: how many at most.
            names: only these, in any order; None: any.

        Returns:
            The connections, by their names; they belong to the caller.
        """
        found = list[Connection]()
        for name in sorted(self._idle):
            connection, timer = self._idle[name]
            if len(found) == most or connection.partner != partner or (names is not None and name not in names):
                continue
            if not connection.usable:
                self._drop(name)
                continue
            del self._idle[name]
            timer.cancel()
            found.append(connection)
        return found

    def close(self) -> None:
        """Close them all."""
        for name in list(self._idle):
            self._drop(name)

    def _drop(self, name: str) -> None:
        connection, timer = self._idle.pop(name)
        timer.cancel()
        connection.close()
