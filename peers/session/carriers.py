"""What the vectors of one exchange travel over: streams of libp2p, or direct connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from p2p_elastic.peers.direct.meeting import PARTNER_OFF
from p2p_elastic.peers.transport.interfaces import Carrier, Meeting, Stream
from p2p_elastic.protocol.messages import Direct
from p2p_elastic.status.schema import Way

Widening = Callable[[int], Awaitable[Stream]]
"""Opens, or awaits, one stream of an exchange that goes over several, by its number; the first one is 0."""


class Carriers:
    """The streams or connections of one exchange, at one end.

    Args:
        stream: the one of the messages, and number 0 if vectors travel over streams.

    Attributes:
        widening: gives the further streams; None: there are none.
        count: over how many the vectors travel.
        way: which they take, for people.
    """

    def __init__(self, stream: Stream) -> None:
        self._streams = [stream]
        self._meeting: Meeting | None = None
        self._direct: Sequence[Carrier] = ()
        self.widening: Widening | None = None
        self.count, self.way = 1, Way()

    def meet(self, meeting: Meeting | str) -> Direct | None:
        """Let vectors travel over direct connections, if both ends come to have them.

        Args:
            meeting: the way to these; or why there is none.

        Returns:
            What the partner is to be told; None if there is none.
        """
        if isinstance(meeting, str):
            self.way = Way(why=meeting)
            return None
        self._meeting, self.way = meeting, Way(why=PARTNER_OFF)  # unless it says how
        return meeting.terms

    async def connect(self, theirs: Direct, count: int) -> None:
        """Connect, as both ends said.

        Args:
            theirs: what the partner said.
            count: how many connections.

        Raises:
            ExchangeError: if there are none; then vectors still travel over streams.
        """
        assert self._meeting is not None, "nobody connects"
        self._direct = await self._meeting.connect(theirs, count)
        self.way, self.count = Way(direct=True), count

    def not_connected(self, why: str) -> None:
        """Note that there are no direct connections.

        Args:
            why: for people, one of a few texts.
        """
        self.way = Way(why=why)

    async def of(self, number: int) -> Carrier:
        """Give one of them.

        Args:
            number: of it, from 0.

        Returns:
            It, open.

        Raises:
            ExchangeError: if it cannot be had.
        """
        if self._direct:
            return self._direct[number]
        if number == 0:
            return self._streams[0]
        assert self.widening is not None, "nobody opens streams"
        stream = await self.widening(number)
        self._streams.append(stream)
        return stream

    def abort(self) -> None:
        """Close all streams at once; connections by `end`."""
        for stream in self._streams:
            stream.abort()

    def end(self, *, whole: bool) -> None:
        """Give connections back; said again, or without any, nothing happens.

        Args:
            whole: whether all that was due came over them.
        """
        if self._meeting is not None:
            self._meeting.end(whole=whole)
            self._meeting = None
