"""The further streams of an exchange that goes over several: opened by the initiator, awaited by the responder."""

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
    """The further streams that the initiator opens.

    Args:
        opening: opens one stream to the partner.
        exchange_id: the exchange that they are for.
    """

    def __init__(self, opening: Callable[[], Awaitable[Stream]], exchange_id: str) -> None:
        self._opening, self._exchange_id = opening, exchange_id
        self._streams: list[Stream] = []

    async def open(self, number: int) -> Stream:
        """Open one stream and say what it is for.

        Args:
            number: of the stream in its exchange, from 1 on.

        Returns:
            The stream; `close` closes it.

        Raises:
            ExchangeError: if it cannot be had.
        """
        stream = await self._opening()
        self._streams.append(stream)
        await stream.send(pack(Lane(id=self._exchange_id, number=number)))
        return stream

    async def close(self) -> None:
        """Close all streams that were opened."""
        for stream in self._streams:
            await stream.close()


class _Expected:
    """The lanes of one exchange that this peer answers, by number."""

    def __init__(self, streams: int) -> None:
        loop = asyncio.get_running_loop()
        self.here: dict[int, asyncio.Future[Stream]] = {number: loop.create_future() for number in range(1, streams)}
        self.over = asyncio.Event()


class AwaitedLanes:
    """The further streams that partners open. A partner that opens one that is not awaited is refused.

    Args:
        seconds: how long a stream is awaited.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expected: dict[Key, _Expected] = {}

    @contextlib.contextmanager
    def expect(self, key: Key, streams: int) -> Iterator[Callable[[int], Awaitable[Stream]]]:
        """Await the streams of an exchange while it is under way.

        Args:
            key: the exchange.
            streams: how many it has, the first one included.

        Yields:
            A function that waits for the stream of a number and raises ExchangeTimeout if it does not come.
        """
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
        """Hand a stream to its exchange; returns when the exchange is over.

        Args:
            key: the exchange.
            number: of the stream in it.
            stream: the stream.

        Raises:
            RemoteProtocolError: if no such stream is awaited.
        """
        expected = self._expected.get(key)
        awaited = None if expected is None else expected.here.get(number)
        if expected is None or awaited is None or awaited.done():
            raise RemoteProtocolError(f"a stream for exchange {key.id} that is not awaited", partner=key.partner)
        awaited.set_result(stream)
        await expected.over.wait()
