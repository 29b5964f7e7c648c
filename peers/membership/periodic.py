"""What a peer does again and again, whatever the directory says to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from p2p_elastic.errors import DirectoryError

log = logging.getLogger(__name__)


async def every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    """Do something at once, and again after a pause, until cancelled.

    Args:
        seconds: from the end of one time to the begin of the next.
        action: what to do; a DirectoryError of it is logged.
    """
    while True:
        await attempt(action)
        await asyncio.sleep(seconds)


async def attempt(action: Callable[[], Awaitable[None]]) -> None:
    """Do something once; a directory that fails is logged, and no reason to end.

    Args:
        action: what to do.
    """
    try:
        await action()
    except DirectoryError as error:
        log.info("directory: %s", error)
