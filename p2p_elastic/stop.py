"""Ctrl-C and SIGTERM: the first asks to finish, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

SHOW_CURSOR = "\x1b[?25h"


class Stop:
    """Whether the user asked to stop. Signals belong to the command line, so this is used in its main thread only."""

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def __call__(self) -> bool:
        return self.requested

    @contextlib.contextmanager
    def signals(self) -> Iterator[Stop]:
        """Handle SIGINT and SIGTERM for a while; afterwards as before."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part that cannot ask `requested` itself: the signal raises KeyboardInterrupt in it."""
        if self.requested:
            raise KeyboardInterrupt
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
            os._exit(128 + number)  # p2pd ends when its connection to us does
        self.requested = True
        if self._interruptible:
            raise KeyboardInterrupt
