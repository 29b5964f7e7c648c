"""An HTTP server for an event loop that others run: no signals, no logging set up, closed within a second."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from p2p_elastic.api.connection import Connection
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ConfigError

REQUEST_HEAD_BYTES_MAX = 16 * 1024
KEEP_ALIVE_SECONDS = 5
BACKLOG = 64
TICK_SECONDS = 1.0
GRACE_SECONDS = 0.5  # for answers on their way when `close` is called

_PORT_PROBLEMS = {
    errno.EADDRINUSE: "it is in use on {host}; choose another with --http-port, or 0 for any free one",
    errno.EACCES: "this user may not open it on {host}; choose one above 1023 with --http-port, or 0 for any free one",
}


def bind(host: str, port: int) -> socket.socket:
    """Open a socket that listens.

    Args:
        host: address or name of this machine.
        port: 0 is any free one.

    Returns:
        The socket.

    Raises:
        ConfigError: `http-port` if the port is taken, forbidden or no port at all; `http-host` if the host is not an
            address of this machine.
    """
    if not 0 <= port <= 65535:
        raise ConfigError("http-port", port, "give 1 to 65535, or 0 for any free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _listen(socket.socket(family, kind, protocol), address)
    except (OSError, UnicodeError) as exc:
        if isinstance(exc, OSError) and exc.errno in _PORT_PROBLEMS:
            raise ConfigError("http-port", port, _PORT_PROBLEMS[exc.errno].format(host=host)) from exc
        allowed = f"give an address of this machine with --http-host, such as 127.0.0.1, 0.0.0.0 or :: ({exc})"
        raise ConfigError("http-host", host, allowed) from exc


def _listen(sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Only listening finds out that another socket has the port; early requests wait until `serve` runs.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._closing = asyncio.Event()

    async def main_loop(self) -> None:
        """Set the date of answers once a second, until `close`; uvicorn's own looks ten times a second for its end."""
        while not await self.on_tick(0):
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._closing.wait(), TICK_SECONDS)

    def close(self) -> None:
        # force_exit: an idle keep-alive connection is no reason to wait.
        self.should_exit = self.force_exit = True
        self._closing.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the owner of the process; uvicorn offers no other switch for that."""
        yield


class ApiServer:
    """Serves one application on one listening socket, in the running event loop.

        server = ApiServer(create_app(status), bind("127.0.0.1", 0))
        task = asyncio.create_task(server.serve())
        ...
        await server.close()
        await task

    Args:
        app: what answers the requests.
        sock: from `bind`; the server closes it.
    """

    def __init__(self, app: FastAPI, sock: socket.socket) -> None:
        self.url = _url(sock)
        self._sock = sock
        self._server = _Server(_config(app))
        self._idle = asyncio.Event()
        self._idle.set()

    async def serve(self) -> None:
        """Answer requests until `close` is called or this task is cancelled."""
        if self._server.should_exit:
            return
        self._idle.clear()
        try:
            await self._server.serve(sockets=[self._sock])
        finally:
            self._drop()
            await self._end_requests()
            self._idle.set()

    async def close(self) -> None:
        """Stop serving. Connections that are still open after a moment of grace are cut."""
        self._server.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await wait_for(self._idle.wait(), GRACE_SECONDS)
        self._drop()
        await self._idle.wait()

    def _drop(self) -> None:
        # uvicorn leaves listeners and slow clients behind when it is cancelled or forced.
        for listener in getattr(self._server, "servers", ()):
            listener.close()
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        self._sock.close()

    async def _end_requests(self) -> None:
        """Wait until requests whose connection was cut have noticed: a stream of events would go on for ever."""
        # uvicorn's own set shrinks while they end.
        if requests := tuple(self._server.server_state.tasks):
            await asyncio.wait(requests, timeout=GRACE_SECONDS)


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=REQUEST_HEAD_BYTES_MAX,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"http://{host}:{port}"
