"""How a peer asks a member: it opens a stream within a deadline, counts the bytes, and closes the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ExchangeError, ExchangeTimeout, PartnerUnreachable, RemoteProtocolError, SchemaMismatch
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.deadlines import Waits
from p2p_elastic.peers.transport.interfaces import Stream, Transport
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord


class Call:
    """One conversation that this peer begins: `async with` opens a stream to a member for it, and closes the stream.

    Args:
        transport: opens streams.
        partner: the member to ask.
        limits: of the conversation.
        waits: the partner's learnt deadlines, which learn from this conversation; None: those of `limits`.
        gave: called with the bytes sent and received, however a conversation ended.
    """

    def __init__(
        self,
        transport: Transport,
        partner: PeerRecord,
        limits: Limits,
        waits: Waits | None = None,
        gave: Callable[[tuple[int, int]], None] = lambda _traffic: None,
    ) -> None:
        self._transport, self._partner, self._limits, self._waits = transport, partner, limits, waits
        self._gave = gave
        self._conversation: Conversation | None = None

    @property
    def opened(self) -> bool:
        """Whether the conversation began."""
        return self._conversation is not None

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far."""
        return (0, 0) if self._conversation is None else self._conversation.traffic

    async def __aenter__(self) -> Conversation:
        self._conversation = Conversation(await self.open(), self._limits, self._waits)
        return self._conversation

    async def __aexit__(self, *_error: object) -> None:
        assert self._conversation is not None, "a call that was not begun ends"
        self._conversation.carriers.end(whole=False)
        self._gave(self.traffic)
        await self._conversation.stream.close()

    async def open(self) -> Stream:
        """Open a stream within the deadline: that of the conversation, or a further one, which the caller closes.

        Returns:
            The stream.

        Raises:
            PartnerUnreachable: if there is none in time, or if the transport cannot reach the peer.
        """
        loop, waits = asyncio.get_running_loop(), self._waits
        began, seconds = loop.time(), self._limits.idle_seconds if waits is None else waits.opening()
        try:
            stream = await wait_for(self._transport.open(self._partner), seconds)
        except asyncio.TimeoutError as error:
            if waits is not None:
                waits.missed("opening")
            raise PartnerUnreachable(f"no stream within {seconds:.3g} s") from error
        if waits is not None:
            waits.saw("opening", loop.time() - began)
        return stream


def outcome_of(error: ExchangeError) -> Outcome:
    """Classify the error of an exchange whose stream was open.

    Args:
        error: what it raised.

    Returns:
        TIMEOUT, REFUSED (the partner broke the protocol, or has another model) or BROKEN (anything else).

    Example:
        >>> outcome_of(ExchangeTimeout("no answer")).value
        'timeout'
    """
    if isinstance(error, ExchangeTimeout):
        return Outcome.TIMEOUT
    if isinstance(error, (RemoteProtocolError, SchemaMismatch)):
        return Outcome.REFUSED
    return Outcome.BROKEN
