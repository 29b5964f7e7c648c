"""HEAD as GET without a body, at every address: uptime monitors ask by it, and FastAPI's routes know only GET."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ASKED = "p2p_elastic.head"  # in the scope of such a request: an answer without end must not begin


class Head:
    """Hands each HEAD on as GET, and drops the body of the answer; its headers are those of GET.

    Args:
        app: that answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET", ASKED: True}, receive, without_body)
