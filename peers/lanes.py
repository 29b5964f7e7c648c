"""The further streams of an exchange whose vectors travel over several: opened by who asks, awaited by who answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from p2p_elastic.errors import ExchangeTimeout, RemoteProtocolError
from p2p_elastic.messages import Lane
from p2p_elastic.peers.ledger import Key
from p2p_elastic.peers.transport import Stream
from p2p_elastic.peers.wire import pack


class Lanes:
    """Those that we open, by calling `opening`, for the exchange `exchange_id`."""

    def __init__(self, opening: Callable[[], Awaitable[Stream]], exchange_id: str) -> None:
        self._opening, self._exchange_id = opening, exchange_id
        self._streams: list[Stream] = []

    async def open(self, streams: int) -> list[Stream]:
        """Those beside the first, in order. Raises ExchangeError where one cannot be had."""
        await asyncio.gather(*(self._open() for _ in range(1, streams)))
        for number, stream in enumerate(self._streams, 1):
            await stream.send(pack(Lane(id=self._exchange_id, number=number)))
        return self._streams

    async def _open(self) -> None:
        self._streams.append(await self._opening())

    async def close(self) -> None:
        """Close all of them."""
        for stream in self._streams:
            await stream.close()


class _Expected:
    """The lanes of one exchange that we answer, by number."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.here: dict[int, Stream] = {}
        self.changed, self.over = asyncio.Event(), asyncio.Event()


class AwaitedLanes:
    """Those that partners open to us. Whoever opens one that is not awaited is refused."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expected: dict[Key, _Expected] = {}

    @contextlib.contextmanager
    def expect(self, key: Key, streams: int) -> Iterator[Callable[[int], Awaitable[list[Stream]]]]:
        """While an exchange is under way that may have so many streams; gives what waits for them."""
        expected = self._expected[key] = _Expected(streams)

        async def lanes(agreed: int) -> list[Stream]:
            try:
                await asyncio.wait_for(self._all_here(expected, agreed - 1), self._seconds)
            except asyncio.TimeoutError as error:
                raise ExchangeTimeout(f"not all {agreed} streams within {self._seconds:.3g} s") from error
            return [expected.here[number] for number in range(1, agreed)]

        try:
            yield lanes
        finally:
            del self._expected[key]
            expected.over.set()

    async def _all_here(self, expected: _Expected, count: int) -> None:
        while len(expected.here) < count:
            expected.changed.clear()
            await expected.changed.wait()

    async def join(self, key: Key, number: int, stream: Stream) -> None:
        """This stream is a lane of that exchange; returns when the exchange is over.

        Raises:
            RemoteProtocolError: no such lane is awaited.
        """
        expected = self._expected.get(key)
        if expected is None or number >= expected.most or number in expected.here:
            raise RemoteProtocolError(f"a stream for exchange {key.id} that is not awaited", partner=key.partner)
        expected.here[number] = stream
        expected.changed.set()
        await expected.over.wait()
