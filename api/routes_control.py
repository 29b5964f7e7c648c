"""The addresses that change something: only for clients that send the token, and only small JSON.

A page in a browser can send neither the bearer header nor JSON to another site without asking that site first, and
this one never agrees.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from p2p_elastic.api.answers import answer
from p2p_elastic.api.dependencies import Given, read, source_of
from p2p_elastic.api.schemas import InviteLine, NewWeight, Problem, Standing
from p2p_elastic.health.controls import Admitting, Controls, Invited, Report, Revoked, SignalName
from p2p_elastic.status.schema import AdmissionStatus

BODY_BYTES_MAX = 4096
WRITING_OFF = (
    "writing is off: this address is not loopback and no token was given, or the token could not be kept; "
    "start the peer with --http-token-file"
)
UNAUTHORIZED = "the token is missing or wrong; send the header 'Authorization: Bearer TOKEN' with this peer's token"
TOO_LARGE = f"the body is larger than {BODY_BYTES_MAX} bytes"
NO_JSON = "the body must be JSON; send the header 'Content-Type: application/json'"
NOT_BEGUN = "the peer has not begun; try again once /v1/status says another phase than starting"
NOTHING_TO_CHANGE = "there is nothing here that could be changed"

_bearer = HTTPBearer(auto_error=False, description="what the token file of this peer contains")


class _SmallJson(Request):
    """A request whose body is JSON of a bounded size."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        size = 0
        async for piece in super().stream():
            size += len(piece)
            if size > BODY_BYTES_MAX:
                raise HTTPException(413, TOO_LARGE)
            yield piece

    async def json(self) -> Any:
        try:
            return await super().json()
        except (ValueError, RecursionError) as error:  # also not UTF-8, or nested without end
            raise HTTPException(422, "the body is no JSON") from error


class _Guarded(APIRoute):
    """A route that checks the client before anything of the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        reads_body = self.body_field is not None

        async def guarded(request: Request) -> Response:
            await _check_token(request)
            _check_head(request, reads_body)
            return await handle(_SmallJson(request.scope, request.receive))

        return guarded


async def _check_token(request: Request) -> None:
    token = source_of(request).token
    if token is None:
        raise HTTPException(403, WRITING_OFF)
    sent = await _bearer(request)
    if sent is None or not secrets.compare_digest(sent.credentials.encode(), token.encode()):
        raise HTTPException(401, UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})


def _check_head(request: Request, reads_body: bool) -> None:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
        raise HTTPException(413, TOO_LARGE)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if reads_body and kind != "application/json":
        raise HTTPException(415, NO_JSON)


async def _begun(source: Given) -> Controls:
    if source.controls is None:
        raise HTTPException(409, NOTHING_TO_CHANGE)
    if read(source).training.phase == "starting":
        raise HTTPException(409, NOT_BEGUN)
    return source.controls


Begun = Annotated[Controls, Depends(_begun)]
Name = Annotated[SignalName, Path(description="what is reported, such as `temperature`")]


def _problems(more: dict[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    texts = {
        401: "the token is missing or wrong",
        403: "no token is known here, so nobody may write",
        409: "the peer has not begun",
        413: "the body is too large",
        500: "the status could not be read",
        **(more or {}),
    }
    return {code: {"model": Problem, "description": texts[code]} for code in sorted(texts)}


_BODY_PROBLEMS = _problems({415: "the body is not said to be JSON", 422: "something in the body or the name cannot be"})

router = APIRouter(
    route_class=_Guarded,
    dependencies=[Depends(_bearer)],  # tells the documentation
    generate_unique_id_function=lambda route: route.name,
    tags=["control"],
)


@router.put("/v1/signals/{name}", summary="Report a signal", response_model=Standing, responses=_BODY_PROBLEMS)
async def report(name: Name, signal: Report, controls: Begun, source: Given) -> Response:
    """Say something about this machine that the peer cannot measure itself; it is forgotten after `ttl_seconds`."""
    controls.report(name, signal)
    return _standing(source)


@router.delete(
    "/v1/signals/{name}",
    summary="Forget a reported signal",
    response_model=Standing,
    responses=_problems({404: "no such signal was reported", 422: "that can be no signal's name"}),
)
async def forget(name: Name, controls: Begun, source: Given) -> Response:
    """End what was reported under this name; what the peer measures itself stays."""
    if not controls.forget(name):
        raise HTTPException(404, f"no signal {name!r} was reported, or it has expired")
    return _standing(source)


@router.put("/v1/weight", summary="Set the weight", response_model=Standing, responses=_BODY_PROBLEMS)
async def override(new: NewWeight, controls: Begun, source: Given) -> Response:
    """Count for this weight whatever the signals say, but never while the loss is not finite."""
    controls.override_weight(new.weight)
    return _standing(source)


@router.delete("/v1/weight", summary="Let the signals decide", response_model=Standing, responses=_problems())
async def end_override(controls: Begun, source: Given) -> Response:
    """End a weight that was set."""
    controls.override_weight(None)
    return _standing(source)


@router.post("/v1/drain", summary="Stop exchanging", response_model=Standing, responses=_problems())
async def drain(controls: Begun, source: Given) -> Response:
    """End the exchange under way, then begin and answer none; training goes on."""
    controls.drain()
    return _standing(source)


@router.post("/v1/resume", name="resume", summary="Exchange again", response_model=Standing, responses=_problems())
async def undrain(controls: Begun, source: Given) -> Response:
    """End a drain."""
    controls.undrain()
    return _standing(source)


@router.post("/v1/invites", name="invite", summary="Invite a peer", response_model=InviteLine, responses=_BODY_PROBLEMS)
async def invite(invited: Invited, source: Given) -> Response:
    """Make the line by which another peer joins this private run."""
    return answer(InviteLine(line=_door(source).invite(invited.role, invited.seconds, invited.peer)))


@router.post(
    "/v1/revocations",
    name="revoke",
    summary="Revoke a ticket",
    response_model=AdmissionStatus,
    responses=_BODY_PROBLEMS,
)
async def revoke(revoked: Revoked, source: Given) -> Response:
    """Let a peer, or whoever has a ticket, take part no more; the members hear it within two announcements."""
    _door(source).revoke(revoked.what)
    admission = read(source).admission
    assert admission is not None, "nothing is revoked in an open run"
    return answer(admission)


def _door(source: Given) -> Admitting:
    if source.door is None:
        raise HTTPException(409, NOTHING_TO_CHANGE)
    return source.door


def _standing(source: Given) -> Response:
    return answer(Standing.of(read(source)))
