"""Imports without looking for garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from what is made meanwhile, now and later: imported modules are not garbage.

    PyTorch and all else that a peer imports are a million objects. To go through them again and again takes a sixth of
    the time of the imports, and 0.1 s at each full collection later.

    Yields:
        Nothing.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()
