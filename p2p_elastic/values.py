"""The base class of every value that is checked when it is built."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast

T = TypeVar("T")
Many = Annotated[tuple[T, ...], FailFast()]
"""A tuple that is refused at its first wrong item: a stranger's status must not fill the memory with error messages."""


class Frozen(BaseModel):
    """A value that is checked when it is built, cannot be changed, and has no unknown fields.

    Example:
        >>> class Point(Frozen):
        ...     x: int
        >>> Point(x=1)
        Point(x=1)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
