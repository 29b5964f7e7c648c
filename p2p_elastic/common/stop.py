"""Ctrl-C, SIGTERM and a closed terminal: the first asks to finish, another Ctrl-C or SIGTERM ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

SHOW_CURSOR = "\x1b[?25h"


class Stop:
    """Whether the user asked to stop. Signals belong to the command line, so this is used in its main thread only.

    Attributes:
        requested: true from the first signal on; calling the object gives the same.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def __call__(self) -> bool:
        return self.requested

    def ask(self) -> None:
        """Behave as if the user had asked to stop, without interrupting what is `interruptible` now."""
        self.requested = True

    @contextlib.contextmanager
    def signals(self) -> Iterator[Stop]:
        """Handle SIGINT, SIGTERM and, unless `nohup` has it ignored, SIGHUP for a while; afterwards as before.

        Yields:
            This object.
        """
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM, *hangup)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Run a part that cannot look at `requested` itself: the signal raises KeyboardInterrupt in it.

        Yields:
            None.

        Raises:
            KeyboardInterrupt: if a signal comes meanwhile, or came before.
        """
        if self.requested:
            raise KeyboardInterrupt
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGHUP:
            return  # the terminal and its shell each send one
        if self.requested:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
            os._exit(128 + number)  # p2pd ends when its connection to this process does
        self.requested = True
        if self._interruptible:
            raise KeyboardInterrupt
