"""Asking a peer over HTTP to change something: with its token, from the machine that it runs on."""

from __future__ import annotations

import http.client
import json
from typing import Any, TypeVar

from pydantic import BaseModel

from p2p_elastic.client.reading import ANSWER_BYTES_MAX, parsed, tame_text, validated
from p2p_elastic.client.status import BaseUrl
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
        timeout_seconds: for each piece of the answer.

    Returns:
        The answer.

    Raises:
        ConfigError: if the peer refuses it; with its reason.
        NetworkError: if it does not answer.
        AskError: if what answers is no peer.
    """
    connection = http.client.HTTPConnection(where.host, where.port, timeout=timeout_seconds)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", where.prefix + path, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        answer = response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        said = tame_text(str(error) or type(error).__name__)
        raise NetworkError(f"{where.url} does not answer: {said}; is the peer running?") from error
    finally:
        connection.close()
    if response.status == 200:
        return validated(model, answer)[0]
    try:
        detail = str(parsed(answer)["detail"])
    except (ValueError, RecursionError, TypeError, KeyError):
        detail = f"HTTP {response.status}"
    raise ConfigError("URL", where.url, f"the peer there says: {detail}")
