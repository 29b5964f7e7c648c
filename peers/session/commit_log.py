"""The exchanges that we answered, so that none is applied twice and a lost last word can be asked for again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple


class Key(NamedTuple):
    """An exchange, as its responder knows it: the initiator's proven peer id and the id that it chose."""

    partner: str
    id: str


class Ledger:
    """Key -> whether it took place; bounded, the oldest are forgotten first.

    Those that we never heard of have a table of their own, so that a stranger's questions push out no real ones.
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
        """Write down that this exchange is under way. False where its id was used before."""
        if key in self._verdicts or key in self._never:
            return False
        while len(self._verdicts) >= self._entries_max:
            self._verdicts.popitem(last=False)  # only the newest is under way
        self._verdicts[key] = asyncio.get_running_loop().create_future()
        return True

    def end(self, key: Key, committed: bool) -> None:
        """Write down how it ended; the first word stands."""
        verdict = self._verdicts.get(key)
        if verdict is not None and not verdict.done():
            verdict.set_result(committed)

    async def verdict(self, key: Key) -> bool:
        """Whether it took place, once it ended. An unknown one never will: that is written down too."""
        if key in self._verdicts:
            return await asyncio.shield(self._verdicts[key])
        while len(self._never) >= self._entries_max:
            self._never.popitem(last=False)
        self._never[key] = None
        return False
