"""The base of every value that is checked when it is built."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast

T = TypeVar("T")
Many = Annotated[tuple[T, ...], FailFast()]
"""Refused at its first wrong item: for whoever reads a stranger's status, errors without end are memory without end."""


class Frozen(BaseModel):
    """A value that cannot be changed and has no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
