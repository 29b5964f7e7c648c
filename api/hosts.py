"""Which `Host` header is answered: the defence against DNS rebinding.

A page of another site can let its own name lead to this machine, and is then of the same origin as the answers here.
Its requests still carry that name. An IP address is no name that others could let lead here, so each is answered.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from p2p_elastic.api.answers import problem

_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")
_SHOWN_MAX = 100  # characters of a name that is refused


def host_of(header: str) -> str:
    """Find the host in a `Host` header.

    Args:
        header: with or without a port.

    Returns:
        The host without port, brackets and last dot, in lower case; empty if it has none.

    Example:
        >>> host_of("Peer.Example.:8870"), host_of("[::1]:8870")
        ('peer.example', '::1')
    """
    match = _HOST.fullmatch(header.strip())
    return "" if match is None else (match["v6"] or match["name"] or "").lower().removesuffix(".")


def is_answered(header: str, names: Iterable[str]) -> bool:
    """Say whether the host is an IP address, `localhost`, or one of `names`.

    Args:
        header: an empty one, as of HTTP/1.0, is answered.
        names: in lower case, without a last dot.

    Returns:
        False if the request is to be refused.
    """
    if not header:  # no browser sends a request without
        return True
    host = host_of(header)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host in names
    return True


class Hosts:
    """Refuses requests for the host of another, with 421 (Misdirected Request).

    Args:
        app: that answers the others.
        names: by which it may be asked.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app, self._names = app, frozenset(filter(None, map(host_of, names)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            header = ",".join(Headers(scope=scope).getlist("host"))
            if not is_answered(header, self._names):
                app = _refusal(header)
        await app(scope, receive, send)


def _refusal(header: str) -> Response:
    name = (host_of(header) or header)[:_SHOWN_MAX]
    text = (
        f"this peer does not answer for the host {name!r}: ask by its IP address or localhost, "
        "or start it with --http-allow-host and that name"
    )
    return problem(HTTPStatus.MISDIRECTED_REQUEST, text)
