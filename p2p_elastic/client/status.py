"""Asking peers over HTTP how they are: where to ask, one request with a deadline, and many peers at the same time."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field

from p2p_elastic.client.reading import ANSWER_BYTES_MAX, AskError, Problem, parsed, read_status, tame_text, validated
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.checks import judge
from p2p_elastic.status.schema import Health, PeerStatus
from p2p_elastic.values import Frozen

PORT = 8870  # config.HTTP_PORT, without what config needs: PyTorch. A test keeps them equal
DEFAULT_URL = f"http://127.0.0.1:{PORT}"
ENDPOINTS = (
    *("/v1/status", "/v1/peers", "/v1/swarm", "/v1/why", "/v1/history", "/v1/events", "/health", "/ready", "/metrics"),
    *("/swarm", "/docs", "/openapi.json"),
)
PIECE_BYTES = 64 * 1024
GRACE_SECONDS = 0.25  # for the thread that asks to report its own timeout


class Answer(Frozen):
    """What came of asking one peer.

    Attributes:
        url: where it was asked.
        state: `ok` and `degraded` as its health says; `unreachable` if there is no status.
        health: its judgement of itself, or this program's if it gave none; None if it is unreachable.
        status: everything about it; None if it is unreachable.
    """

    url: str
    state: Literal["ok", "degraded", "unreachable"]
    problem: Problem | None = Field(default=None, description="only if it is unreachable")
    notes: tuple[str, ...] = Field(default=(), description="what could not be shown, and why")
    seconds: float = Field(description="until the answer was there")
    health: Health | None = None
    status: PeerStatus | None = None


class BaseUrl(NamedTuple):
    """Where to ask.

    Attributes:
        host: IP address without brackets, or a name.
        port: of its HTTP server.
        prefix: path before `/v1/status`, for a peer behind a proxy.
    """

    host: str
    port: int
    prefix: str = ""

    @property
    def url(self) -> str:
        """The address for people, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.prefix}"


# -- where -------------------------------------------------------------------------------------------------------------


def parse_url(text: str) -> BaseUrl:
    """Read where a peer can be asked.

    Args:
        text: `http://host:port`, `host:port`, `host` or `port`, with or without the path of an endpoint.

    Returns:
        The place to ask.

    Raises:
        ConfigError: if it is none of them.

    Example:
        >>> parse_url("8871").url, parse_url("peer.example/v1/status").url
        ('http://127.0.0.1:8871', 'http://peer.example:8870')
    """
    try:
        parts = urlsplit(_with_scheme(text))
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad_url(text, str(error)) from error
    if parts.scheme != "http":
        raise _bad_url(text, "the status is plain HTTP")
    if not host or not tame_text(text) == text or " " in text or parts.username is not None or port == 0:
        raise _bad_url(text, "no host and port")
    path = parts.path.rstrip("/")
    endpoint = next((e for e in ENDPOINTS if path.endswith(e)), "")
    return BaseUrl(host, PORT if port is None else port, path.removesuffix(endpoint))


def _with_scheme(text: str) -> str:
    if text.startswith("/"):  # a multiaddr, perhaps
        raise ValueError("this looks like an address for peers; the status is on the HTTP port")
    if text.isdecimal():
        return f"http://127.0.0.1:{text}"
    return text if "://" in text else f"http://{text}"


def _bad_url(text: str, reason: str) -> ConfigError:
    return ConfigError("URL", text, f"give host:port or http://host:port, such as {DEFAULT_URL} ({reason})")


# -- asking ------------------------------------------------------------------------------------------------------------


def ask(where: BaseUrl, timeout_seconds: float) -> Answer:
    """Ask one peer how it is. Never raises what the network or the peer does.

    Args:
        where: the place to ask.
        timeout_seconds: for both requests together.

    Returns:
        Its answer, or what was in the way of one.
    """
    began = time.monotonic()
    end = began + timeout_seconds
    try:
        status, notes = read_status(_get(where, "/v1/status", end, timeout_seconds))
        health, more = _health(where, end, timeout_seconds, status)
    except AskError as failed:
        seconds = time.monotonic() - began
        return Answer(url=where.url, state="unreachable", problem=failed.problem, seconds=seconds)
    seconds = time.monotonic() - began
    return Answer(
        url=where.url, state=health.status, notes=(*notes, *more), seconds=seconds, health=health, status=status
    )


def _health(where: BaseUrl, end: float, timeout_seconds: float, status: PeerStatus) -> tuple[Health, tuple[str, ...]]:
    """Fetch the peer's own judgement; without one, judge by its status."""
    try:
        return validated(Health, _get(where, "/health", end, timeout_seconds))[0], ()
    except AskError as failed:
        return judge(status), (f"health as judged here, /health said nothing usable: {failed.problem.text}",)


def ask_all(asked: Sequence[BaseUrl], timeout_seconds: float) -> tuple[Answer, ...]:
    """Ask all peers at the same time.

    Args:
        asked: the places to ask.
        timeout_seconds: for each.

    Returns:
        An answer for each, in their order.
    """
    answers: dict[int, Answer] = {}

    def work(index: int) -> None:
        answers[index] = ask(asked[index], timeout_seconds)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout_seconds + GRACE_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    # Looking up a name cannot be interrupted; such a thread is left to itself.
    return tuple(answers.get(i) or _silent(where, timeout_seconds) for i, where in enumerate(asked))


def _silent(where: BaseUrl, timeout_seconds: float) -> Answer:
    return _unanswered(where, f"no answer within {timeout_seconds:g} s, not even to the name lookup", timeout_seconds)


def _unanswered(where: BaseUrl, text: str, seconds: float) -> Answer:
    return Answer(url=where.url, state="unreachable", problem=Problem(kind="timed_out", text=text), seconds=seconds)


class Watch:
    """Asks each peer again and again, each in a thread of its own, so that a dead one does not delay the others.

    Args:
        asked: the places to ask.
        timeout_seconds: for each.
        every_seconds: pause after each answer.
    """

    def __init__(self, asked: Sequence[BaseUrl], timeout_seconds: float, every_seconds: float) -> None:
        self._asked, self._timeout, self._every = tuple(asked), timeout_seconds, every_seconds
        self._latest: dict[int, Answer] = {}
        self._began: dict[int, float] = {}  # when those were asked that are being asked now
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        for index in range(len(self._asked)):
            threading.Thread(target=self._work, args=(index,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _work(self, index: int) -> None:
        while not self._ended.is_set():
            self._began[index] = time.monotonic()
            self._latest[index] = ask(self._asked[index], self._timeout)
            del self._began[index]
            self._ended.wait(self._every)

    @property
    def complete(self) -> bool:
        """Whether there is something to show of each peer: its answer, or that there was none in time."""
        return all(index in self._latest or self._late(index) for index in range(len(self._asked)))

    def latest(self) -> tuple[Answer, ...]:
        """Give what is known of each peer now.

        Returns:
            An answer for each, in their order; a peer that has not answered yet is unreachable.
        """
        return tuple(self._answer(index) for index in range(len(self._asked)))

    def _answer(self, index: int) -> Answer:
        if self._late(index):
            return _silent(self._asked[index], self._timeout)
        return self._latest.get(index) or _unanswered(self._asked[index], "no answer yet", self._waited(index))

    def _late(self, index: int) -> bool:
        return self._waited(index) > self._timeout + GRACE_SECONDS

    def _waited(self, index: int) -> float:
        now = time.monotonic()
        return now - self._began.get(index, now)


# -- one request -------------------------------------------------------------------------------------------------------


def _get(where: BaseUrl, path: str, end: float, timeout_seconds: float) -> bytes:
    """Fetch the body of one GET before `end`. Raises AskError."""
    connected = False
    late = f"within {timeout_seconds:g} s"
    try:
        with connection_until(where, end) as connection:
            connected = True
            connection.request("GET", where.prefix + path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            body = body_of(response, end)
            _check_code(response, body)
            return body
    except TimeoutError as error:
        raise _timed_out(late, connected) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connected and time.monotonic() >= end:  # the deadline cut the connection
            raise _timed_out(late, connected) from error
        raise _explained(where, error, connected) from error


@contextlib.contextmanager
def connection_until(where: BaseUrl, end: float) -> Iterator[http.client.HTTPConnection]:
    """Connect, and cut the connection in the end: timeouts of sockets are for each piece, and pieces can be small.

    Args:
        where: the peer.
        end: in monotonic seconds.

    Yields:
        The connection, closed afterwards.

    Raises:
        OSError: if it cannot be had in time.
    """
    connection = http.client.HTTPConnection(where.host, where.port, timeout=_left(end))
    connection.connect()
    sock: socket.socket = connection.sock

    def cut() -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(_left(end), cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield connection
    finally:
        watchdog.cancel()
        connection.close()


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def body_of(response: http.client.HTTPResponse, end: float) -> bytes:
    """Receive the body of an answer.

    Args:
        response: of which the head was received.
        end: by when, in monotonic seconds.

    Returns:
        All of it.

    Raises:
        AskError: if it is longer than any honest one.
        OSError: if it is not here in time.
        HTTPException: if it ended early.
    """
    pieces, size = [], 0
    while piece := response.read1(PIECE_BYTES):
        size += len(piece)
        if size > ANSWER_BYTES_MAX:
            limit = ANSWER_BYTES_MAX // 2**20
            raise AskError("not_a_peer", f"its answer is longer than {limit} MiB: not a p2p-elastic peer")
        _left(end)
        pieces.append(piece)
    _left(end)  # an answer that the deadline cut looks like one that ended
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(pieces)


def _check_code(response: http.client.HTTPResponse, body: bytes) -> None:
    code = response.status
    if code == 200:
        return
    if 300 <= code < 400:
        target = tame_text(response.getheader("Location") or "nowhere")[:200]
        raise AskError("not_a_peer", f"not a p2p-elastic peer: it redirects to {target}")
    if code == 503:
        raise AskError("failing", "too busy to answer (HTTP 503); try again")
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        if code in (421, 500) and isinstance(detail := parsed(body)["detail"], str):
            raise AskError("failing", f"the peer answers, but says: {detail}")
    raise AskError("not_a_peer", f"not a p2p-elastic peer: it answers HTTP {code} to /v1/status")


def _timed_out(late: str, connected: bool) -> AskError:
    if connected:
        what = "is the peer stopped or very busy, or is it another kind of server?"
        return AskError("timed_out", f"timed out: connected, but no whole answer {late}; {what}")
    return AskError("timed_out", f"timed out: no answer {late}; wrong address, machine off, or a firewall in between")


def _explained(where: BaseUrl, error: Exception, connected: bool) -> AskError:
    if isinstance(error, ConnectionRefusedError):
        hint = "is the peer running? It prints its status address at its start"
        if where.host not in ("127.0.0.1", "localhost", "::1"):
            hint += "; others see it only with --http-host 0.0.0.0"
        return AskError("refused", f"refused: nothing listens there; {hint}")
    if isinstance(error, socket.gaierror | UnicodeError):  # the idna codec refuses some labels
        return AskError("unreachable", f"the host name {where.host!r} is not known here")
    if isinstance(error, http.client.BadStatusLine) and "multistream" in str(error):
        return AskError(
            "not_a_peer", f"that is a port for peers (libp2p); the status is on the peer's HTTP port, usually {PORT}"
        )
    said = tame_text(str(error) or type(error).__name__)[:200]
    if connected:
        return AskError("not_a_peer", f"not a p2p-elastic peer: it does not speak HTTP properly ({said})")
    return AskError("unreachable", f"cannot be reached: {said}")


def exit_code(answers: Sequence[Answer]) -> int:
    """Choose the exit code of `p2p-elastic status`.

    Args:
        answers: of all peers.

    Returns:
        0: all are ok; 1: at least one is degraded; 2: at least one could not be asked.
    """
    states = {answer.state for answer in answers}
    return 2 if "unreachable" in states else 1 if "degraded" in states else 0
