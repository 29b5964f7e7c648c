"""Ctrl-C and SIGTERM in a program whose loop is somebody else's."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from p2p_elastic.common.stop import Stop


class LoopStop(Stop):
    """The first signal asks to finish if the loop looks at `watched`; otherwise it interrupts, as Python's own does.

    Nothing is handled outside of the main thread.

    Attributes:
        looked: whether the loop ever looked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.looked = False

    def watched(self) -> bool:
        """Whether to finish, for the loop: from now on it is trusted to look.

        Returns:
            True from the first signal on.
        """
        self.looked = True
        return self.requested

    @contextlib.contextmanager
    def signals(self) -> Iterator[Stop]:
        """Handle SIGINT and SIGTERM for a while; afterwards as before. Other threads are left alone.

        Yields:
            This object.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        graceful = self.looked and not self.requested
        self.requested = True
        if not graceful:
            raise KeyboardInterrupt
