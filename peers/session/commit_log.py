"""The exchanges that this peer answered, so that none is applied twice and a lost last word can be asked for again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple


class Key(NamedTuple):
    """An exchange, as its responder knows it.

    Attributes:
        partner: the initiator's peer id, proven by the transport.
        id: the id that the initiator chose.
    """

    partner: str
    id: str


class Ledger:
    """Key -> whether the exchange took place; bounded, the oldest are forgotten first.

    Exchanges that were only asked about have a table of their own, so that a stranger's questions push out no real
    ones.

    Args:
        entries_max: how many exchanges each of the two tables holds.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._verdicts: OrderedDict[Key, asyncio.Future[bool]] = OrderedDict()
        self._never: OrderedDict[Key, None] = OrderedDict()

    @property
    def entries(self) -> int:
        """How many exchanges the fuller one of its two tables has, `entries_max` at most."""
        return max(len(self._verdicts), len(self._never))

    def begin(self, key: Key) -> bool:
        """Write down that an exchange is under way.

        Args:
            key: the exchange.

        Returns:
            False if its id was used, or asked about, before: then it must not begin.
        """
        if key in self._verdicts or key in self._never:
            return False
        while len(self._verdicts) >= self._entries_max:
            self._verdicts.popitem(last=False)  # only the newest is under way
        self._verdicts[key] = asyncio.get_running_loop().create_future()
        return True

    def end(self, key: Key, committed: bool) -> None:
        """Write down how an exchange ended; the first word stands.

        Args:
            key: the exchange; one that is forgotten stays so.
            committed: whether it took place.
        """
        verdict = self._verdicts.get(key)
        if verdict is not None and not verdict.done():
            verdict.set_result(committed)

    async def verdict(self, key: Key) -> bool:
        """Tell whether an exchange took place, once it ended.

        Args:
            key: the exchange. An unknown one never will take place: that is written down too.

        Returns:
            True if it took place.
        """
        if key in self._verdicts:
            return await asyncio.shield(self._verdicts[key])
        while len(self._never) >= self._entries_max:
            self._never.popitem(last=False)
        self._never[key] = None
        return False
