"""The HTTP application: what one peer says about itself, and the few things that may be changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.routing import Match, Route

from p2p_elastic.api import pages
from p2p_elastic.api import routes_control as writing
from p2p_elastic.api import routes_read as reading
from p2p_elastic.api.answers import problem
from p2p_elastic.api.dependencies import Source
from p2p_elastic.api.events_stream import Streams
from p2p_elastic.api.head import Head
from p2p_elastic.api.hosts import Hosts
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.controls import Admitting, Controls
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.history import History
from p2p_elastic.status.schema import PeerStatus

TITLE, VERSION = "p2p-elastic", "1"
DESCRIPTION = (
    "What one peer says about itself, and, with its token, the few things that may be changed. "
    "Numbers that are not finite are null."
)

# Built once, at import. FastAPI builds the routes of a router that is included, and its OpenAPI document, at the first
# request that needs them, and changes the process-wide warning filters meanwhile: servers in two threads disturb each
# other.
_ROUTES = [route for router in (reading.router, writing.router, pages.router) for route in router.routes]
_DOCUMENT = get_openapi(title=TITLE, version=VERSION, description=DESCRIPTION, routes=_ROUTES)


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return _DOCUMENT


def create_app(
    status: Callable[[], PeerStatus],
    *,
    history: History | None = None,
    events: EventLog | None = None,
    controls: Controls | None = None,
    door: Admitting | None = None,
    token: str | None = None,
    streams: Streams | None = None,
    hosts: Iterable[str] = (),
) -> FastAPI:
    """Build the application that answers with what `status` returns.

    Args:
        status: called once per request, on the event loop that serves; it must not block.
        history: how training went so far.
        events: what happened lately.
        controls: what may be changed; None: nothing can be.
        door: who may be let in, or no more; None: nobody.
        token: clients that send it may change something; None: no client may.
        streams: how many may follow the events at once, and how often they hear something.
        hosts: names by which it may be asked, beside IP addresses and `localhost`.

    Returns:
        The application.
    """
    # FastAPI's own pages load their scripts from a CDN, and training machines are often offline.
    app = _App(title=TITLE, version=VERSION, description=DESCRIPTION, docs_url=None, redoc_url=None)
    app.state.source = Source(status, history, events, controls, door, token, streams or Streams())
    app.router.routes.extend(_ROUTES)
    app.add_middleware(Hosts, names=hosts)
    app.add_middleware(Head)  # the outermost: a refusal, too, has no body then
    app.add_exception_handler(405, _other_method)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ConfigError, _not_allowed)
    app.add_exception_handler(Exception, _failed)
    return app


async def _other_method(request: Request, _error: Exception) -> Response:
    # Starlette names only the methods of the first route with this path.
    routes = (route for route in request.app.routes if isinstance(route, Route))
    methods = {m for route in routes if route.matches(request.scope)[0] is not Match.NONE for m in route.methods or ()}
    allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    return problem(405, f"this address answers to {allowed}", {"Allow": allowed})


async def _invalid(_request: Request, error: Exception) -> Response:
    # FastAPI's own answer repeats what was sent; this one says what is wrong with it.
    assert isinstance(error, RequestValidationError)
    problems = (f"{'.'.join(map(str, one['loc'][1:])) or one['loc'][0]}: {one['msg']}" for one in error.errors())
    return problem(422, "; ".join(problems))


async def _not_allowed(_request: Request, error: Exception) -> Response:
    return problem(422, str(error))


async def _failed(_request: Request, _error: Exception) -> Response:
    return problem(500, "a bug of p2p-elastic; the log of this peer has it")
