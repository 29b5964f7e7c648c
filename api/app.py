"""The HTTP application: a few addresses, all of them only read.

It gets one function that says what the peer is doing right now, and nothing that could change the peer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel

from p2p_elastic.api.docs import page
from p2p_elastic.api.schemas import NotReady, Peers, Problem, Ready
from p2p_elastic.health import judge, why_not_ready
from p2p_elastic.status import Health, PeerStatus

DESCRIPTION = "What one peer says about itself. Every address is read-only; numbers that are not finite are null."

_log = logging.getLogger(__name__)


def create_app(status: Callable[[], PeerStatus]) -> FastAPI:
    """The application that answers with what `status` returns.

    Args:
        status: called once per request, on the event loop that serves; it must not block.
    """
    # FastAPI's own pages load their scripts from a CDN, and training machines are often offline.
    app = FastAPI(title="p2p-elastic", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None)
    app.state.status = status
    app.include_router(_router)
    return app


async def _now(request: Request) -> PeerStatus:
    read: Callable[[], PeerStatus] = request.app.state.status
    try:
        return read()
    except Exception as exc:
        _log.exception("the status could not be read")
        raise HTTPException(500, "the status of this peer could not be read; its log says why") from exc


Now = Annotated[PeerStatus, Depends(_now)]

_router = APIRouter(
    responses={500: {"model": Problem, "description": "the status could not be read"}},
    generate_unique_id_function=lambda route: route.name,
)


def _answer(value: BaseModel, code: int = 200) -> Response:
    # pydantic writes NaN as null; the way through a dict, in older FastAPI, fails on it.
    return Response(value.model_dump_json(), status_code=code, media_type="application/json")


@_router.get("/health", summary="Is the peer well?", response_model=Health, tags=["probes"])
async def health(now: Now) -> Response:
    """200 whenever the process is alive, be it ok or degraded; the reasons say what is wrong and what to do."""
    return _answer(judge(now))


@_router.get(
    "/ready",
    summary="Does the peer train, and can it be reached?",
    response_model=Ready,
    responses={503: {"model": NotReady, "description": "not ready, with the reason"}},
    tags=["probes"],
)
async def ready(now: Now) -> Response:
    """200 while the phase is training, holding or finishing and the peer has addresses, 503 otherwise."""
    reason = why_not_ready(now)
    return _answer(Ready()) if reason is None else _answer(NotReady(reason=reason), 503)


@_router.get("/v1/status", summary="All about the peer", response_model=PeerStatus, tags=["status"])
async def status(now: Now) -> Response:
    """Training, exchanges, members and network of this peer at one moment."""
    return _answer(now)


@_router.get("/v1/peers", summary="The other peers", response_model=Peers, tags=["status"])
async def peers(now: Now) -> Response:
    """The members of the run as this peer knows them, and how the last exchanges with each partner ended."""
    return _answer(Peers.of(now))


@_router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    app: FastAPI = request.app
    return HTMLResponse(page(app.openapi()))


@_router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    return RedirectResponse("docs")
