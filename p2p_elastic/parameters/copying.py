"""A snapshot that is still being made while its first elements are sent."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from p2p_elastic.errors import ExchangeError, ExchangeTimeout

COPYING_SECONDS_MAX = 60.0


class Copying:
    """How much of a snapshot is copied, in order. The training thread copies; any thread waits.

    Args:
        elements: of the snapshot.
        arrive: waits for what is on its way from a GPU.
    """

    def __init__(self, elements: int, arrive: Callable[[], None] = lambda: None) -> None:
        self._elements, self._arrive = elements, arrive
        self._copied: float = 0
        self._failed = False
        self._changed = threading.Condition()
        self.finite = True  # as far as it was sent

    @property
    def done(self) -> bool:
        """Whether all of it is copied; from a GPU it may still have to arrive."""
        return self._copied >= self._elements

    def reached(self, elements: int) -> None:
        """Say how much is copied.

        Args:
            elements: from the first on.
        """
        with self._changed:
            self._copied = elements
            self._changed.notify_all()

    def end(self, *, failed: bool = False) -> None:
        """Say that no more will be copied, and let all go on who wait.

        Args:
            failed: whether that is because it cannot be.
        """
        with self._changed:
            self._copied, self._failed = math.inf, failed
            self._changed.notify_all()

    def wait(self, elements: int | None = None) -> None:
        """Wait until so much is there.

        Args:
            elements: from the first on; None: all.

        Raises:
            ExchangeTimeout: if it is not there in COPYING_SECONDS_MAX: training stands still.
            ExchangeError: if it cannot be copied.
        """
        wanted = self._elements if elements is None else elements
        if self._copied < wanted:
            with self._changed:
                if not self._changed.wait_for(lambda: self._copied >= wanted, COPYING_SECONDS_MAX):
                    raise ExchangeTimeout(f"no snapshot within {COPYING_SECONDS_MAX:g} s")
        if self._failed:
            raise ExchangeError("the model could not be copied")
        self._arrive()
