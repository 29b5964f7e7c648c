"""What the application knows of the peer, and may ask of it, as dependencies of its routes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from p2p_elastic.api.events_stream import Streams
from p2p_elastic.health.controls import Admitting, Controls
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.history import History
from p2p_elastic.status.schema import PeerStatus

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What `create_app` was given: functions and values, never the peer.

    Attributes:
        status: gives the status now.
        history: how training went so far.
        events: what happened lately.
        controls: what may be changed; None: nothing can be.
        door: who may be let in, or no more; None: nobody.
        token: for changes; None: no client may change anything.
        streams: the open streams of events.
    """

    status: Callable[[], PeerStatus]
    history: History | None
    events: EventLog | None
    controls: Controls | None
    door: Admitting | None
    token: str | None
    streams: Streams


def source_of(request: Request) -> Source:
    """Find what the application that answers a request was given.

    Args:
        request: being answered.

    Returns:
        Its source.
    """
    source: Source = request.app.state.source
    return source


def read(source: Source) -> PeerStatus:
    """Read the status now.

    Args:
        source: of the application.

    Returns:
        The status.

    Raises:
        HTTPException: 500, if it cannot be read; the log says why.
    """
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
