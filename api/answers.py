"""Answers as JSON."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

from p2p_elastic.api.schemas import Problem


def answer(value: BaseModel, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a value as JSON.

    Args:
        value: numbers that are not finite become null.
        code: of HTTP.
        headers: further ones.

    Returns:
        The response.
    """
    # pydantic writes NaN as null; the way through a dict, in older FastAPI, fails on it.
    return Response(value.model_dump_json(), code, headers, media_type="application/json")


def problem(code: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Say as JSON why a request was not answered.

    Args:
        code: of HTTP.
        detail: for people.
        headers: further ones.

    Returns:
        The response.
    """
    return answer(Problem(detail=detail), code, headers)
