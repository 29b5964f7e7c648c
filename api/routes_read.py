"""The addresses that only read."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from p2p_elastic.api.answers import answer
from p2p_elastic.api.dependencies import Given, Now, read
from p2p_elastic.api.events_stream import EventStream, Wanted, feed
from p2p_elastic.api.head import ASKED
from p2p_elastic.api.metrics import CONTENT_TYPE, exposition
from p2p_elastic.api.schemas import Curve, NotReady, Peers, Problem, Ready
from p2p_elastic.health.checks import judge, why_not_ready
from p2p_elastic.health.diagnose import Why, why
from p2p_elastic.status.events import KINDS
from p2p_elastic.status.schema import Health, PeerStatus
from p2p_elastic.status.swarm import SwarmStatus, swarm_of

ID_MAX = 2**53
UNREADABLE: dict[int | str, dict[str, Any]] = {500: {"model": Problem, "description": "the status could not be read"}}

router = APIRouter(responses=UNREADABLE, generate_unique_id_function=lambda route: route.name)


@router.get("/health", summary="Is the peer well?", response_model=Health, tags=["probes"])
async def health(now: Now) -> Response:
    """200 whenever the process is alive, be it ok or degraded; the reasons say what is wrong and what to do."""
    return answer(judge(now))


@router.get(
    "/ready",
    summary="Does the peer train, and can it be reached?",
    response_model=Ready,
    responses={503: {"model": NotReady, "description": "not ready, with the reason"}},
    tags=["probes"],
)
async def ready(now: Now) -> Response:
    """200 while the phase is training, holding or finishing and the peer has addresses, 503 otherwise."""
    reason = why_not_ready(now)
    return answer(Ready()) if reason is None else answer(NotReady(reason=reason), 503)


@router.get("/v1/status", summary="All about the peer", response_model=PeerStatus, tags=["status"])
async def status(now: Now) -> Response:
    """Training, exchanges, members and network of this peer at one moment."""
    return answer(now)


@router.get("/v1/peers", summary="The other peers", response_model=Peers, tags=["status"])
async def peers(now: Now) -> Response:
    """The members of the run as this peer knows them, and what came of exchanges with each partner."""
    return answer(Peers(members=now.members, partners=now.partners))


@router.get("/v1/swarm", summary="The run as a whole", response_model=SwarmStatus, tags=["status"])
async def swarm(now: Now) -> Response:
    """How the members that this peer sees differ, and which of them somebody may have to look at."""
    return answer(swarm_of([now]))


@router.get("/v1/why", summary="Why does the peer not progress?", response_model=Why, tags=["status"])
async def explain(now: Now) -> Response:
    """Whether it trains and exchanges, and what is in the way, each with a code and a sentence that says what to do."""
    return answer(why(now))


@router.get("/v1/history", summary="How training went so far", response_model=Curve, tags=["status"])
async def history(source: Given) -> Response:
    """Loss, accuracy, weight and speed since the peer started."""
    return answer(Curve(points=source.history.points if source.history is not None else ()))


@router.get(
    "/v1/events",
    summary="What happens, as it happens",
    description="A stream that stays open: at once and every second `progress`, which has no id, and, as soon as they "
    f"happen, {', '.join(KINDS[:-1])} and {KINDS[-1]}; first those that are kept. Each `data` is one line of JSON.",
    response_class=StreamingResponse,
    responses={
        200: {"description": "server-sent events", "content": {"text/event-stream": {}}},
        422: {"model": Problem, "description": "a parameter cannot be"},
        503: {"model": Problem, "description": "too many streams are open"},
    },
    tags=["status"],
)
async def events(
    source: Given,
    request: Request,
    after: Annotated[int, Query(ge=0, le=ID_MAX, description="only events after the one with this id")] = 0,
    once: Annotated[bool, Query(description="end after what is there now")] = False,
    exchanges: Annotated[bool, Query(description="also each exchange; they are many")] = True,
    last_event_id: Annotated[
        int, Header(ge=0, le=ID_MAX, description="the same, and goes before it: browsers that come back send it")
    ] = 0,
) -> Response:
    streams, client = source.streams, request.client.host if request.client else ""
    if (full := streams.why_full(client)) is not None:
        raise HTTPException(503, full)
    status_now = functools.partial(read, source)
    status_now()  # a stream that would end at once is better not begun
    wanted = Wanted(last_event_id or after, exchanges=exchanges, once=once or ASKED in request.scope)
    return EventStream(feed(status_now, source.events, wanted, streams), streams, client)


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=PlainTextResponse,
    responses={200: {"description": "the text format of Prometheus"}},
    tags=["probes"],
)
async def metrics(now: Now) -> Response:
    """All numbers of the status under names that begin with p2p_elastic_; those that are not finite are NaN."""
    return Response(exposition(now), media_type=CONTENT_TYPE)
