"""The connections of one exchange that a partner is to open, each once."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from p2p_elastic.peers.direct.sealing import Agreed

C = TypeVar("C")


class Expected(Generic[C]):
    """What is awaited of one partner.

    It may dial before this end has heard its answer: then it waits for `agree`.

    Args:
        partner: its peer id.
        token: what it shows, hexadecimal.
    """

    def __init__(self, partner: str, token: str) -> None:
        self.partner, self.token = partner, token
        self._count, self._here = 0, dict[int, C]()
        self._agreed: Agreed | None = None
        self._told, self._whole, self._over = asyncio.Event(), asyncio.Event(), False

    def agree(self, agreed: Agreed, count: int) -> None:
        """Take in what both ends have told.

        Args:
            agreed: of both.
            count: how many connections.
        """
        self._agreed, self._count = agreed, count
        self._told.set()

    async def agreed(self) -> Agreed:
        """Wait until both ends have told it.

        Returns:
            It.
        """
        await self._told.wait()
        assert self._agreed is not None, "said together"
        return self._agreed

    def wants(self, number: int) -> bool:
        """Whether a connection is one of these, and not here yet.

        Args:
            number: that it shows.

        Returns:
            False for any other one.
        """
        return number < self._count and number not in self._here and not self._over

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
