"""What the application knows of the peer, and may ask of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from p2p_elastic.api.events_stream import Streams
from p2p_elastic.health.controls import Controls
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.history import History
from p2p_elastic.status.schema import PeerStatus

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What `create_app` was given: functions and values, never the peer."""

    status: Callable[[], PeerStatus]
    history: History | None
    events: EventLog | None
    controls: Controls | None
    token: str | None
    streams: Streams


def source_of(request: Request) -> Source:
    """What the application that answers this request was given."""
    source: Source = request.app.state.source
    return source


def read(source: Source) -> PeerStatus:
    """The status now. Raises HTTPException where it cannot be read."""
    try:
        return source.status()
    except Exception as exc:
        _log.exception("the status could not be read")
        raise HTTPException(500, "the status of this peer could not be read; its log says why") from exc


async def _source(request: Request) -> Source:
    return source_of(request)


Given = Annotated[Source, Depends(_source)]


async def _now(source: Given) -> PeerStatus:
    return read(source)


Now = Annotated[PeerStatus, Depends(_now)]
