"""The pages for people: a live view at /, the run as a whole at /swarm, every field at /docs. All is in them."""

from __future__ import annotations

import re
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

SHARED = re.compile(r"/\* shared: (\w+) \*/\n(.*?)/\* end \*/\n", re.DOTALL)
HERE = re.compile(r"/\* here: (\w+) \*/\n")

router = APIRouter(include_in_schema=False)


def _text(name: str) -> str:
    return (resources.files("p2p_elastic.api") / "static" / name).read_text(encoding="utf-8")


@router.get("/")
async def live() -> HTMLResponse:
    return HTMLResponse(_text("index.html"), headers=HEADERS)


@router.get("/swarm")
async def swarm() -> HTMLResponse:
    shared = dict(SHARED.findall(_text("index.html")))  # its colours, and what makes links of strangers' addresses
    return HTMLResponse(HERE.sub(lambda found: shared[found[1]], _text("swarm.html")), headers=HEADERS)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    app: FastAPI = request.app
    return HTMLResponse(page(app.openapi()), headers=HEADERS)
