"""Answers as JSON."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

from p2p_elastic.api.schemas import Problem


def answer(value: BaseModel, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    # pydantic writes NaN as null; the way through a dict, in older FastAPI, fails on it.
    return Response(value.model_dump_json(), code, headers, media_type="application/json")


def problem(code: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Why a request was not answered, as JSON."""
    return answer(Problem(detail=detail), code, headers)
