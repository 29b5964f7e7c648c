"""The connections of one exchange that a partner is to open, each once."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

C = TypeVar("C")


class Expected(Generic[C]):
    """What is awaited of one partner.

    Args:
        partner: its peer id.
        certificate: of its process, DER.
        token: what it shows, hexadecimal.
        count: how many connections.
    """

    def __init__(self, partner: str, certificate: bytes, token: str, count: int) -> None:
        self.partner, self.certificate, self.token = partner, certificate, token
        self._count, self._here = count, dict[int, C]()
        self._whole, self._over = asyncio.Event(), False

    def wants(self, number: int, certificate: bytes) -> bool:
        """Whether a connection is one of these, and not here yet.

        Args:
            number: that it shows.
            certificate: that it has proven, DER.

        Returns:
            False for any other one.
        """
        known = certificate == self.certificate and number < self._count
        return known and number not in self._here and not self._over

    def take(self, number: int, connection: C) -> None:
        """Take a connection that is wanted.

        Args:
            number: of it.
            connection: belongs to this until `all_here` or `leave`.
        """
        self._here[number] = connection
        if len(self._here) == self._count:
            self._whole.set()

    async def all_here(self) -> list[C]:
        """Wait for all of them.

        Returns:
            The connections in the order of their numbers; they belong to the caller.
        """
        await self._whole.wait()
        self._over = True
        here, self._here = self._here, {}
        return [here[number] for number in range(self._count)]

    def leave(self) -> list[C]:
        """Want no more.

        Returns:
            Those that came and that nobody took.
        """
        self._over = True
        here, self._here = self._here, {}
        return list(here.values())
