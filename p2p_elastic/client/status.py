"""What peers say about themselves, asked over HTTP. Nothing that comes back is trusted: sizes and times have bounds,
values are checked, and text loses its control characters.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from p2p_elastic import __version__
from p2p_elastic.errors import ConfigError, P2PElasticError
from p2p_elastic.health.checks import judge
from p2p_elastic.status.schema import Frozen, Health, PeerStatus

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PORT = 8870  # config.HTTP_PORT, without what config needs: PyTorch. A test keeps them equal
DEFAULT_URL = f"http://127.0.0.1:{PORT}"
ENDPOINTS = (
    *("/v1/status", "/v1/peers", "/v1/why", "/v1/history", "/v1/events", "/health", "/ready", "/metrics"),
    *("/docs", "/openapi.json"),
)
# A directory has room for some 17,000 members, of 23 values and usually less than 900 bytes each: more is no honest
# answer. A value takes up to 200 bytes once it is read.
ANSWER_BYTES_MAX = 16 * 2**20
VALUES_MAX = 500_000
KEYS_MAX = 2000  # of one object, and each may be an error; a peer that disbelieves the most others has 1,000
ERRORS_MAX = 1000  # that are looked at
ROUNDS_MAX = 5  # of leaving out what is unknown: a list shows only that of its first item that has any
PIECE_BYTES = 64 * 1024
TEXT_MAX = 2000
NUMBER_MAX = 2**63
UNKNOWN_FIELDS_NAMED = 5
GRACE_SECONDS = 0.25  # for the thread that asks to report its own timeout
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format (also right-to-left), surrogates, breaks

Kind = Literal["refused", "timed_out", "unreachable", "not_a_peer", "other_version", "failing"]
Json = Any
Place = tuple[str, ...]  # the names on the way to a field; which item of a list it is in does not matter
M = TypeVar("M", bound=BaseModel)


class Problem(Frozen):
    """Why a peer could not be shown."""

    kind: Kind
    text: str


class Answer(Frozen):
    """What came of asking one peer."""

    url: str
    state: Literal["ok", "degraded", "unreachable"]
    problem: Problem | None = Field(default=None, description="only where it is unreachable")
    notes: tuple[str, ...] = Field(default=(), description="what could not be shown, and why")
    seconds: float = Field(description="until the answer was there")
    health: Health | None = None
    status: PeerStatus | None = None


class BaseUrl(NamedTuple):
    """Where to ask."""

    host: str
    port: int
    prefix: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.prefix}"


class _Failed(P2PElasticError):
    """The peer could not be asked, or what it said is no status."""

    def __init__(self, kind: Kind, text: str) -> None:
        self.problem = Problem(kind=kind, text=text)
        super().__init__(text)


# -- where -------------------------------------------------------------------------------------------------------------


def parse_url(text: str) -> BaseUrl:
    """The peer meant by `http://host:port`, `host:port`, `host` or `port`, with or without the path of an endpoint.

    Raises:
        ConfigError: it is none of them.
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
    """Ask one peer how it is. Never raises what the network or the peer does."""
    began = time.monotonic()
    end = began + timeout_seconds
    try:
        status, notes = _read_status(_get(where, "/v1/status", end, timeout_seconds))
        health, more = _health(where, end, timeout_seconds, status)
    except _Failed as failed:
        seconds = time.monotonic() - began
        return Answer(url=where.url, state="unreachable", problem=failed.problem, seconds=seconds)
    seconds = time.monotonic() - began
    return Answer(
        url=where.url, state=health.status, notes=(*notes, *more), seconds=seconds, health=health, status=status
    )


def _health(where: BaseUrl, end: float, timeout_seconds: float, status: PeerStatus) -> tuple[Health, tuple[str, ...]]:
    """The peer's own judgement; ours where it gives none."""
    try:
        return _validated(Health, _get(where, "/health", end, timeout_seconds))[0], ()
    except _Failed as failed:
        return judge(status), (f"health as judged here, /health said nothing usable: {failed.problem.text}",)


def ask_all(asked: Sequence[BaseUrl], timeout_seconds: float) -> tuple[Answer, ...]:
    """Ask all at the same time; an answer for each, in their order."""
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
    """Asks each peer again and again, each in a thread of its own, so that a dead one does not hold up the others."""

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
        """Whether there is something to say of each peer: its answer, or that there was none in time."""
        return all(index in self._latest or self._late(index) for index in range(len(self._asked)))

    def latest(self) -> tuple[Answer, ...]:
        """What is known of each peer now; one that has not answered yet is unreachable."""
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
    """The body of one GET before `end`. Raises _Failed."""
    connected = False
    late = f"within {timeout_seconds:g} s"
    try:
        with _connection(where, end) as connection:
            connected = True
            connection.request("GET", where.prefix + path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            body = _body(response, end)
            _check_code(response, body)
            return body
    except TimeoutError as error:
        raise _timed_out(late, connected) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connected and time.monotonic() >= end:  # the deadline cut the connection
            raise _timed_out(late, connected) from error
        raise _explained(where, error, connected) from error


@contextlib.contextmanager
def _connection(where: BaseUrl, end: float) -> Iterator[http.client.HTTPConnection]:
    """A connection that is cut at `end`: timeouts of sockets are for each piece, and pieces can be many and small."""
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


def _body(response: http.client.HTTPResponse, end: float) -> bytes:
    pieces, size = [], 0
    while piece := response.read1(PIECE_BYTES):
        size += len(piece)
        if size > ANSWER_BYTES_MAX:
            limit = ANSWER_BYTES_MAX // 2**20
            raise _Failed("not_a_peer", f"its answer is longer than {limit} MiB: not a p2p-elastic peer")
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
        raise _Failed("not_a_peer", f"not a p2p-elastic peer: it redirects to {target}")
    if code == 503:
        raise _Failed("failing", "too busy to answer (HTTP 503); try again")
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        if code in (421, 500) and isinstance(detail := _parsed(body)["detail"], str):
            raise _Failed("failing", f"the peer answers, but says: {detail}")
    raise _Failed("not_a_peer", f"not a p2p-elastic peer: it answers HTTP {code} to /v1/status")


def _timed_out(late: str, connected: bool) -> _Failed:
    if connected:
        what = "is the peer stopped or very busy, or is it another kind of server?"
        return _Failed("timed_out", f"timed out: connected, but no whole answer {late}; {what}")
    return _Failed("timed_out", f"timed out: no answer {late}; wrong address, machine off, or a firewall in between")


def _explained(where: BaseUrl, error: Exception, connected: bool) -> _Failed:
    if isinstance(error, ConnectionRefusedError):
        hint = "is the peer running? It prints its status address at its start"
        if where.host not in ("127.0.0.1", "localhost", "::1"):
            hint += "; others see it only with --http-host 0.0.0.0"
        return _Failed("refused", f"refused: nothing listens there; {hint}")
    if isinstance(error, socket.gaierror | UnicodeError):  # the idna codec refuses some labels
        return _Failed("unreachable", f"the host name {where.host!r} is not known here")
    if isinstance(error, http.client.BadStatusLine) and "multistream" in str(error):
        return _Failed(
            "not_a_peer", f"that is a port for peers (libp2p); the status is on the peer's HTTP port, usually {PORT}"
        )
    said = tame_text(str(error) or type(error).__name__)[:200]
    if connected:
        return _Failed("not_a_peer", f"not a p2p-elastic peer: it does not speak HTTP properly ({said})")
    return _Failed("unreachable", f"cannot be reached: {said}")


# -- reading what came -------------------------------------------------------------------------------------------------


def _read_status(body: bytes) -> tuple[PeerStatus, tuple[str, ...]]:
    status, unknown = _validated(PeerStatus, body)
    if status.version == __version__:
        return status, ()
    note = f"runs p2p-elastic {status.version}, this is {__version__}"
    if unknown:
        more = f" and {len(unknown) - UNKNOWN_FIELDS_NAMED} more" if len(unknown) > UNKNOWN_FIELDS_NAMED else ""
        note += f"; not shown: {', '.join(unknown[:UNKNOWN_FIELDS_NAMED])}{more}"
    return status, (note,)


def _validated(model: type[M], body: bytes) -> tuple[M, list[str]]:
    """The value in `body`, and the names of the fields that are unknown here. Raises _Failed."""
    try:
        content = _parsed(body)
    except (ValueError, RecursionError) as error:
        raise _Failed("not_a_peer", "not a p2p-elastic peer: what it answers is no JSON of the kind") from error
    unknown: set[Place] = set()
    rounds = 0
    while True:
        try:
            # Not model_validate_json: there pydantic keeps 4 KB for each small object.
            return model.model_validate(content), sorted(map(_dotted, unknown))
        except ValidationError as error:
            new = _unknown(error)
            if not new or rounds == ROUNDS_MAX:
                raise _unreadable(content, error) from error
        content = _without(content, new)
        unknown |= new
        rounds += 1


def _parsed(body: bytes) -> Json:
    """The JSON in `body`, tamed. Raises ValueError or RecursionError."""
    # Each value but the first comes after one of these; counting them costs no memory, reading the values does.
    if sum(map(body.count, (b",", b"[", b"{"))) > VALUES_MAX:
        raise ValueError("too many values")
    return tame(json.loads(body))


def _unknown(error: ValidationError) -> set[Place]:
    return {_place(e["loc"]) for e in _errors(error) if e["type"] == "extra_forbidden"}


def _errors(error: ValidationError) -> list[ErrorDetails]:
    """What is wrong; nothing where that is too much to be told."""
    if error.error_count() > ERRORS_MAX:
        return []
    return error.errors(include_url=False, include_context=False, include_input=False)  # the input may be all of it


def _unreadable(content: Json, error: ValidationError) -> _Failed:
    errors = _errors(error)
    first = next((e for e in errors if e["type"] != "extra_forbidden"), errors[0] if errors else None)
    where = f"{error.error_count()} of its values are not as they should be"
    if first is not None:
        where = f"{_dotted(_place(first['loc'])) or 'the whole'}: {tame_text(first['msg'][:200])}"
    theirs = content.get("version") if isinstance(content, dict) else None
    if not isinstance(theirs, str) or "peer" not in content:
        return _Failed("not_a_peer", f"not a p2p-elastic peer: its JSON is another ({where})")
    advice = "update the older of the two" if theirs != __version__ else "is that really a p2p-elastic peer?"
    return _Failed("other_version", f"runs p2p-elastic {theirs}, this is {__version__}: {where}; {advice}")


def _place(location: tuple[int | str, ...]) -> Place:
    return tuple(part for part in location if isinstance(part, str))


def _dotted(place: Place) -> str:
    return ".".join(place)[:100]


def _without(value: Json, places: set[Place], here: Place = ()) -> Json:
    """`value` without the fields at `places`, in every item of a list."""
    if isinstance(value, dict):
        inner = {key: (*here, key) for key in value}
        return {key: _without(value[key], places, place) for key, place in inner.items() if place not in places}
    if isinstance(value, list):
        return [_without(item, places, here) for item in value]
    return value


def tame(value: Json) -> Json:
    """A JSON value with short printable texts, whole numbers of 64 bits and objects of few keys.

    Raises:
        ValueError: a number or an object does not.
    """
    if isinstance(value, str):
        return tame_text(value[:TEXT_MAX])
    if isinstance(value, dict):
        if len(value) > KEYS_MAX:
            raise ValueError("too many keys")
        return {tame(key): tame(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [tame(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) >= NUMBER_MAX:  # a loss may be as large as floats are
        raise ValueError("a number out of range")
    return value


def tame_text(text: str) -> str:
    """`text` with every character that could move the cursor, colour or reorder the line replaced."""
    return "".join("\ufffd" if unicodedata.category(c) in UNPRINTABLE else c for c in text)


def exit_code(answers: Sequence[Answer]) -> int:
    """0: all are ok; 1: one at least is degraded; 2: one at least could not be asked."""
    states = {answer.state for answer in answers}
    return 2 if "unreachable" in states else 1 if "degraded" in states else 0
