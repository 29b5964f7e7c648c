"""The pages for people: a live view at /, the run as a whole at /swarm, every field at /docs. All is in them."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

from p2p_elastic.api.docs_page import page

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


def _static(name: str) -> HTMLResponse:
    file = resources.files("p2p_elastic.api") / "static" / name
    return HTMLResponse(file.read_text(encoding="utf-8"), headers=HEADERS)


@router.get("/")
async def live() -> HTMLResponse:
    return _static("index.html")


@router.get("/swarm")
async def swarm() -> HTMLResponse:
    return _static("swarm.html")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    app: FastAPI = request.app
    return HTMLResponse(page(app.openapi()), headers=HEADERS)
