"""The further streams of an exchange whose vectors travel over several: opened by who asks, awaited by who answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ExchangeTimeout, RemoteProtocolError
from p2p_elastic.peers.session.commit_log import Key
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.framing import pack
from p2p_elastic.protocol.messages import Lane


class Lanes:
    """Those that we open, by calling `opening`, for the exchange `exchange_id`."""

    def __init__(self, opening: Callable[[], Awaitable[Stream]], exchange_id: str) -> None:
        self._opening, self._exchange_id = opening, exchange_id
        self._streams: list[Stream] = []

    async def open(self, number: int) -> Stream:
        """The one of that number. Raises ExchangeError where it cannot be had."""
        stream = await self._opening()
        self._streams.append(stream)
        await stream.send(pack(Lane(id=self._exchange_id, number=number)))
        return stream

    async def close(self) -> None:
        """Close all of them."""
        for stream in self._streams:
            await stream.close()


class _Expected:
    """The lanes of one exchange that we answer, by number."""

    def __init__(self, streams: int) -> None:
        loop = asyncio.get_running_loop()
        self.here: dict[int, asyncio.Future[Stream]] = {number: loop.create_future() for number in range(1, streams)}
        self.over = asyncio.Event()


class AwaitedLanes:
    """Those that partners open to us. Whoever opens one that is not awaited is refused."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expected: dict[Key, _Expected] = {}

    @contextlib.contextmanager
    def expect(self, key: Key, streams: int) -> Iterator[Callable[[int], Awaitable[Stream]]]:
        """While an exchange is under way that has so many streams; gives what waits for one of them."""
        expected = self._expected[key] = _Expected(streams)

        async def lane(number: int) -> Stream:
            try:
                return await wait_for(asyncio.shield(expected.here[number]), self._seconds)
            except asyncio.TimeoutError as error:
                raise ExchangeTimeout(f"stream {number} of {streams} did not come in {self._seconds:.3g} s") from error

        try:
            yield lane
        finally:
            del self._expected[key]
            expected.over.set()

    async def join(self, key: Key, number: int, stream: Stream) -> None:
        """This stream is a lane of that exchange; returns when the exchange is over.

        Raises:
            RemoteProtocolError: no such lane is awaited.
        """
        expected = self._expected.get(key)
        awaited = None if expected is None else expected.here.get(number)
        if expected is None or awaited is None or awaited.done():
            raise RemoteProtocolError(f"a stream for exchange {key.id} that is not awaited", partner=key.partner)
        awaited.set_result(stream)
        await expected.over.wait()
