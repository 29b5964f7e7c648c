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
    """The open streams: how many there may be, of one client too, and how often each looks for something to say."""

    limit: int = 16
    limit_per_client: int = 8  # the other half is for others; through a tunnel or proxy many are one client
    poll_seconds: float = 0.25
    progress_seconds: float = 1.0
    by_client: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        return self.by_client.total()

    def why_full(self, client: str) -> str | None:
        """Why this client may open no other stream; None where it may."""
        if self.open >= self.limit:
            return f"{self.limit} streams of events are open, which is all there may be; close one"
        if self.by_client[client] >= self.limit_per_client:
            return (
                f"{self.limit_per_client} streams of events are open from {client}, which is all it may have; close one"
            )
        return None


class EventStream(StreamingResponse):
    """One stream; counted until it ends, however it ends."""

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
            self._streams.by_client += Counter()  # forgets who has none


class Wanted(NamedTuple):
    """What a client asked for: events after the one with that id, with or without those of exchanges; `once`: to end
    after what is there now."""

    after: int
    exchanges: bool
    once: bool


async def feed(
    status: Callable[[], PeerStatus], events: EventLog | None, wanted: Wanted, streams: Streams
) -> AsyncGenerator[str, None]:
    """Progress at once and then regularly, and each event that is wanted, until the client goes.

    Args:
        status: says what the peer is doing now; the stream ends where it raises HTTPException.
    """
    clock = asyncio.get_running_loop().time
    last, due = _resumed(events, wanted.after), clock()
    yield RETRY
    while True:
        if clock() >= due:
            try:
                now = status()
            except HTTPException:  # logged already; the head of our answer is sent
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
    """Where to go on. Ids count from 1 again where the peer was started anew; then nothing is to be missed."""
    kept = events.since(0) if events is not None else ()
    return after if kept and after <= kept[-1].id else 0


def _message(kind: str, value: BaseModel, identifier: str = "") -> str:
    return f"{identifier}event: {kind}\ndata: {value.model_dump_json()}\n\n"
