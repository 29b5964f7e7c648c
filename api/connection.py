"""One client of the HTTP server. A client that keeps the server waiting is cut, to leave its place to others."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_MAX = 100
REQUEST_SECONDS = 10.0  # for a request to arrive, from when it could be read to the end of its body
ANSWER_SECONDS = 60.0  # for the client to take what was answered, and each part of a stream


class Connection(H11Protocol):
    """A connection with a deadline while the server waits for its client, and with a place only while there is one.

    uvicorn itself waits for ever for a request to be complete and for an answer to be read, and keeps the connections
    that are too many; it takes a class for its connections, and no smaller part.
    """

    _late: asyncio.TimerHandle | None = None
    _seconds: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        """Take a place; if all are taken, cut the client that has kept the server waiting longest.

        Args:
            transport: of the connection.
        """
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `write_paused` is then whether anything is not taken yet
        self._watch()
        if len(self.connections) > CONNECTIONS_MAX:
            others = [one for one in self.connections if isinstance(one, Connection)]
            min(others, key=lambda one: one.waiting_since).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting.

        Args:
            exc: why it was lost; None if it was closed.
        """
        super().connection_lost(exc)
        self._expect(None)

    def data_received(self, data: bytes) -> None:
        """Handle bytes, and set the deadline of what comes next.

        Args:
            data: from the client.
        """
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Set the deadline of the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Set a deadline for the client to take what was answered."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Set the deadline of what comes next."""
        super().resume_writing()
        self._watch()

    @property
    def waiting_since(self) -> float:
        """When the server began to wait for the client, on the loop's clock; infinite while the client waits."""
        if self._late is None or self._seconds is None:
            return float("inf")
        return self._late.when() - self._seconds

    def cut(self) -> None:
        """Close at once, whatever is still to be sent."""
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        if self.flow.write_paused:
            self._expect(ANSWER_SECONDS)
        else:
            self._expect(REQUEST_SECONDS if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) else None)

    def _expect(self, seconds: float | None) -> None:
        """Cut the connection after some seconds, unless something else is expected by then."""
        if seconds == self._seconds:
            return
        if self._late is not None:
            self._late.cancel()
        self._seconds = seconds
        self._late = None if seconds is None else self.loop.call_later(seconds, self.cut)
