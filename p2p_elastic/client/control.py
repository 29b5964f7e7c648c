"""Asking a peer over HTTP to change something: with its token, from the machine that it runs on."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any, TypeVar

from pydantic import BaseModel

from p2p_elastic.client.reading import parsed, tame_text, validated
from p2p_elastic.client.status import BaseUrl, body_of, connection_until
from p2p_elastic.errors import ConfigError, NetworkError

M = TypeVar("M", bound=BaseModel)


def post(where: BaseUrl, path: str, body: dict[str, Any], token: str, model: type[M], timeout_seconds: float) -> M:
    """Ask for a change.

    Args:
        where: the peer.
        path: of the address that changes it.
        body: what is sent as JSON.
        token: of the peer.
        model: of the answer.
        timeout_seconds: for all of it.

    Returns:
        The answer.

    Raises:
        ConfigError: if the peer refuses it; with its reason.
        NetworkError: if it does not answer.
        AskError: if what answers is no peer.
    """
    end = time.monotonic() + timeout_seconds
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        with connection_until(where, end) as connection:
            connection.request("POST", where.prefix + path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            answer = body_of(response, end)
    except (OSError, http.client.HTTPException) as error:
        said = tame_text(str(error) or type(error).__name__)
        raise NetworkError(f"{where.url} does not answer: {said}; is the peer running?") from error
    if response.status == 200:
        return validated(model, answer)[0]
    try:
        detail = str(parsed(answer)["detail"])
    except (ValueError, RecursionError, TypeError, KeyError):
        detail = f"HTTP {response.status}"
    raise ConfigError("URL", where.url, f"the peer there says: {detail}")
