"""What a live peer shows over HTTP, put together: its address, its token, its history and events."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from p2p_elastic.api.app import create_app
from p2p_elastic.api.server import ApiServer, bind
from p2p_elastic.api.token import default_path, load_or_create
from p2p_elastic.common.addresses import is_loopback
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.controls import Admitting
from p2p_elastic.health.operator import Condition
from p2p_elastic.health.sensors import Sensors
from p2p_elastic.node.config import HTTP_PORT, JoinConfig
from p2p_elastic.peers.discovery.live_network import NetworkThread
from p2p_elastic.screens.live import Screen
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.history import History
from p2p_elastic.status.schema import PeerStatus

log = logging.getLogger(__name__)
HISTORY_SECONDS = 1.0


class Window:
    """What a peer shows over HTTP and may be asked there, and what happened so far.

    Args:
        config: where to listen, and which token counts.
        sensors: those of this machine.
    """

    def __init__(self, config: JoinConfig, sensors: Sensors) -> None:
        self.events, self.history = EventLog(time.time), History(HISTORY_SECONDS)
        self.condition = Condition(time.monotonic, lambda: sensors.signals(sensors.read()), self.events)
        self._token, self._fresh_token = token_of(config)
        self._hosts = (config.http_host, *config.http_allow_host)
        self._sock = _listen(config)
        self._server: ApiServer | None = None

    @property
    def port(self) -> int:
        """TCP port that is bound, from the beginning."""
        port: int = self._sock.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Address of the page, once it is open."""
        assert self._server is not None, "not open yet"
        return self._server.url

    def open(
        self, thread: NetworkThread, status: Callable[[], PeerStatus], screen: Screen, door: Admitting | None
    ) -> list[Future[Any]]:
        """Serve the status from now on.

        Args:
            thread: runs the server.
            status: called for each request, in that thread.
            screen: told of a token that was just made; never of the token itself.
            door: invites others and revokes that; None: nobody can be.

        Returns:
            What runs in the thread, to be cancelled at the end.
        """
        app = create_app(
            status,
            history=self.history,
            events=self.events,
            controls=self.condition,
            door=door,
            token=self._token,
            hosts=self._hosts,
        )
        self._server = ApiServer(app, self._sock)
        if self._fresh_token is not None:
            screen.say(
                "token",
                f"made a token for PUT, POST and DELETE; only you can read it: {self._fresh_token}",
                file=str(self._fresh_token),  # never the token itself: what is said here may go to a log
            )
        return [thread.spawn(self._server.serve()), thread.spawn(self._remember(status))]

    async def _remember(self, status: Callable[[], PeerStatus]) -> None:
        while True:
            self.history.observe(status())
            await asyncio.sleep(HISTORY_SECONDS)

    def close(self, thread: NetworkThread) -> None:
        """Stop serving.

        Args:
            thread: runs the server.
        """
        if self._server is None:
            self._sock.close()
        else:
            thread.call(self._server.close())


def token_of(config: JoinConfig) -> tuple[str | None, Path | None]:
    """Find the token that allows changes, or make one. Only a peer that listens on loopback makes one unasked.

    Args:
        config: where the peer listens, and the file that its user named.

    Returns:
        The token, None if nobody may change anything; and its file if it was just written.

    Raises:
        ConfigError: if the file that was named cannot be used.
    """
    if config.http_token_file is None and not is_loopback(config.http_host):
        return None, None
    try:
        path = config.http_token_file or default_path()
        token, created = load_or_create(path)
    except ConfigError as error:
        if config.http_token_file is not None:
            raise
        log.warning("nothing can be changed over HTTP: %s", error)  # no reason not to train
        return None, None
    return token, path if created else None


def _listen(config: JoinConfig) -> socket.socket:
    bound: list[socket.socket] = []
    with_preferred_port(config.http_port, HTTP_PORT, lambda port: bound.append(bind(config.http_host, port)))
    return bound[0]


def with_preferred_port(asked: int | None, preferred: int, use: Callable[[int], object]) -> None:
    """Use the port that was asked for; otherwise the preferred one, or any if that one is taken.

    Args:
        asked: port that the user gave; None if there is none.
        preferred: port to try first.
        use: opens a port; raises ConfigError with a key that ends in "port" if it is taken.
    """
    if asked is not None:
        use(asked)
        return
    try:
        use(preferred)
    except ConfigError as error:
        if not error.key.endswith("port"):
            raise
        use(0)
