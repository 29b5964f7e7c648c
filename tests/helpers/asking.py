"""Ways to ask the window: without a server, and over a real one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from helpers.statuses import status_of

from p2p_elastic.api import ApiServer, bind, create_app
from p2p_elastic.status.schema import PeerStatus

CLOSE_SECONDS_MAX = 2.0  # one, and another for a busy machine


def ask(
    path: str,
    status: Callable[[], PeerStatus] = status_of,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    json: Any = None,
    content: Any = None,
    **given: Any,
) -> httpx.Response:
    """One request to an application that was `given` all this, without a server."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(status, **given), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers, json=json, content=content)

    # Once, without more: a stream of events never ends on its own.
    if path.split("?")[0] == "/v1/events" and "once" not in path:
        path += ("&" if "?" in path else "?") + "once=true"
    return asyncio.run(send())


@contextmanager
def served(
    status: Callable[[], PeerStatus] = status_of, host: str = "127.0.0.1", port: int = 0, **given: Any
) -> Iterator[str]:
    """A real server in a thread with a loop of its own; checks that it ends quickly and frees its port."""
    loop = asyncio.new_event_loop()
    server = ApiServer(create_app(status, **given), bind(host, port))

    def work() -> None:
        loop.run_until_complete(server.serve())
        # Connections that were cut report so one turn of the loop later.
        loop.run_until_complete(asyncio.sleep(0))
        left.extend(asyncio.all_tasks(loop))
        loop.close()

    left: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield server.url
    finally:
        begin = time.monotonic()
        asyncio.run_coroutine_threadsafe(server.close(), loop)
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert time.monotonic() - begin < CLOSE_SECONDS_MAX
        assert not left
        assert_free(host, int(server.url.rsplit(":", 1)[1]))


def assert_free(host: str, port: int) -> None:
    """Nobody listens there."""
    bind(host, port).close()
