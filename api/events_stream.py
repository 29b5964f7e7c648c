"""Server-sent events: what happens at a peer, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fastapi import HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from p2p_elastic.api.schemas import ProgressEvent
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import PeerStatus

RETRY = "retry: 2000\n\n"  # milliseconds until a browser that was cut off comes back
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass
class Streams:
    """The open streams, and their limits.

    Attributes:
        limit: streams that may be open.
        limit_per_client: of one client; the other half is for others. Through a tunnel or proxy many are one client.
        poll_seconds: between two looks for new events.
        progress_seconds: between two messages of progress.
        by_client: streams that are open, by address.
    """

    limit: int = 16
    limit_per_client: int = 8
    poll_seconds: float = 0.25
    progress_seconds: float = 1.0
    by_client: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        """How many streams are open."""
        return self.by_client.total()

    def why_full(self, client: str) -> str | None:
        """Say why a client may open no other stream.

        Args:
            client: its address.

        Returns:
            The reason; None if it may.
        """
        if self.open >= self.limit:
            return f"{self.limit} streams of events are open, which is all there may be; close one"
        if self.by_client[client] >= self.limit_per_client:
            return (
                f"{self.limit_per_client} streams of events are open from {client}, which is all it may have; close one"
            )
        return None


class EventStream(StreamingResponse):
    """One stream; counted until it ends, however it ends.

    Args:
        content: the messages.
        streams: that count it.
        client: its address.
    """

    media_type = "text/event-stream"

    def __init__(self, content: AsyncGenerator[str, None], streams: Streams, client: str) -> None:
        super().__init__(content, headers=HEADERS)
        self._content, self._streams, self._client = content, streams, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.by_client[self._client] += 1
        try:
            async with contextlib.aclosing(self._content):
                await super().__call__(scope, receive, send)
        finally:
            self._streams.by_client[self._client] -= 1
            self._streams.by_client += Counter()  # forgets clients that have none


class Wanted(NamedTuple):
    """What a client asked for.

    Attributes:
        after: id of an event; only those after it are wanted.
        exchanges: whether events of exchanges are wanted, too.
        once: whether to end after what is there now.
    """

    after: int
    exchanges: bool
    once: bool


async def feed(
    status: Callable[[], PeerStatus], events: EventLog | None, wanted: Wanted, streams: Streams
) -> AsyncGenerator[str, None]:
    """Give progress at once and then regularly, and each event that is wanted, until the client goes.

    Args:
        status: gives the status now; the stream ends if it raises HTTPException.
        events: what happened lately; None: only progress.
        wanted: what the client asked for.
        streams: how often to look and to give progress.

    Yields:
        Messages of server-sent events.
    """
    clock = asyncio.get_running_loop().time
    last, due = _resumed(events, wanted.after), clock()
    yield RETRY
    while True:
        if clock() >= due:
            try:
                now = status()
            except HTTPException:  # logged already; the head of the answer is sent
                return
            due = clock() + streams.progress_seconds
            yield _message("progress", ProgressEvent.of(now))
        for event in events.since(last) if events is not None else ():
            last = event.id
            if wanted.exchanges or event.kind != "exchange":
                yield _message(event.kind, event, f"id: {event.id}\n")
        if wanted.once:
            return
        await asyncio.sleep(streams.poll_seconds)


def _resumed(events: EventLog | None, after: int) -> int:
    """Choose the id to go on after. If the peer was started anew, ids count from 1 again; then all of them are new."""
    kept = events.since(0) if events is not None else ()
    return after if kept and after <= kept[-1].id else 0


def _message(kind: str, value: BaseModel, identifier: str = "") -> str:
    return f"{identifier}event: {kind}\ndata: {value.model_dump_json()}\n\n"
