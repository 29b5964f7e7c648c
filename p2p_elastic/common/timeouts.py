"""Waiting with an end."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import TypeVar

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

T = TypeVar("T")


async def wait_for(awaitable: Awaitable[T], seconds: float) -> T:
    """Wait for something, but no longer than a deadline; then it is cancelled.

    As `asyncio.wait_for` is from Python 3.12 on: it needs no further task, which made every message of an exchange cost
    a
    third more, and it never loses a cancellation that arrives together with the result.

    Args:
        awaitable: what to wait for.
        seconds: how long, from now; `math.inf` for ever.

    Returns:
        Its result.

    Raises:
        asyncio.TimeoutError: if it did not end in time.
    """
    async with timeout(seconds):
        return await awaitable
