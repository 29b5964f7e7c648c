"""Saves checkpoints when they are due, so that training does not wait for the disk."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from p2p_elastic.checkpoint.loop_state import MODEL
from p2p_elastic.checkpoint.store import Content
from p2p_elastic.errors import ConfigError, P2PElasticError
from p2p_elastic.status.schema import CheckpointStatus

log = logging.getLogger(__name__)
WAIT_SECONDS = 0.1
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
DEFAULT_INTERVAL = "5m"  # a crash loses at most this; what takes seconds is saved at its end only


class Interval(NamedTuple):
    """When checkpoints are due; with neither field none are wanted.

    Attributes:
        steps: after how many; None: not by steps.
        seconds: after how many; None: not by time.
    """

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read an interval.

        Args:
            text: such as "500" (steps), "90s", "5m", "1h" or "0" (none).

        Returns:
            The interval.

        Raises:
            ConfigError: for any other text.

        Example:
            >>> Interval.parse("5m"), Interval.parse("500"), Interval.parse("0").off
            (Interval(steps=None, seconds=300.0), Interval(steps=500, seconds=None), True)
        """
        match = re.fullmatch(r"([0-9]{1,9})([smh]?)", text)
        if match is None:
            raise ConfigError("checkpoint-every", text, "steps (500), a time (90s, 5m, 1h), or 0 for none")
        number, unit = int(match[1]), match[2]
        if number == 0:
            return cls()
        return cls(seconds=number * UNITS[unit]) if unit else cls(steps=number)

    @property
    def off(self) -> bool:
        """Whether no checkpoints are wanted."""
        return self == Interval()


class Writes(Protocol):
    """What the saver needs of a store."""

    def write(self, content: Content) -> Path:
        """Write a checkpoint. Raises OSError if it cannot be written.

        Args:
            content: all of it.

        Returns:
            Its folder.
        """


class Saver:
    """Copies between two steps and writes in a thread of its own. Belongs to the training thread, but for `status`.

    Args:
        store: where checkpoints go.
        interval: when one is due.
        clock: monotonic seconds.
        gather: a copy of everything, taken by the training thread.
    """

    def __init__(
        self, store: Writes, interval: Interval, clock: Callable[[], float], gather: Callable[[], Content]
    ) -> None:
        self._store, self._interval, self._clock, self._gather = store, interval, clock, gather
        self._due_since = clock()
        self._done: int | None = None  # steps, when last asked
        self._thread: threading.Thread | None = None
        self._written: tuple[int, float] | None = None  # step, when; replaced whole: other threads read it
        self._failures = self._skipped = self._broken = 0
        self._problem: str | None = None

    def between_steps(self, done: int) -> None:
        """Begin a checkpoint if one is due; not while the one before is being written.

        Args:
            done: steps done. They may jump: one is due if a multiple of the interval was passed since the last call.
        """
        if not self._due(done):
            return
        self._due_since = self._clock()
        if self._thread is not None and self._thread.is_alive():
            self._skipped += 1
            log.info("no checkpoint after %d steps: the one before is still being written", done)
            return
        self._write_behind(None)

    def _due(self, done: int) -> bool:
        steps, seconds = self._interval
        if steps is not None:
            before, self._done = max(0, done - 1) if self._done is None else self._done, done
            return before // steps < done // steps
        return seconds is not None and self._clock() - self._due_since >= seconds

    @contextlib.contextmanager
    def last(self, stop: Callable[[], bool], *, seconds: float, grace_seconds: float) -> Iterator[None]:
        """Write the last checkpoint beside what is done meanwhile, and `finish` it also if that fails.

        Args:
            stop: asked while waiting.
            seconds: the longest wait at the end.
            grace_seconds: the longest wait after `stop`.

        Yields:
            Nothing.
        """
        self.begin_last()
        try:
            yield
        finally:
            self.finish(stop, seconds=seconds, grace_seconds=grace_seconds)

    def save_first(self) -> None:
        """Write a checkpoint, and wait for it.

        Raises:
            ConfigError: if it cannot be written.
        """
        self._write(self._gather(), None)
        if self._problem is not None:
            raise ConfigError("output", self._problem, "a folder that takes a checkpoint")

    def begin_last(self) -> None:
        """Begin to write the last checkpoint, after training."""
        if not self._interval.off:
            self._write_behind(self._thread)

    def finish(self, stop: Callable[[], bool], *, seconds: float, grace_seconds: float) -> None:
        """Wait for what is being written. What is not finished in that time is not there.

        Args:
            stop: asked while waiting.
            seconds: the longest wait.
            grace_seconds: the longest wait after `stop`.
        """
        end, stopped = self._clock() + seconds, False
        while self._thread is not None and self._thread.is_alive() and self._clock() < end:
            if stop() and not stopped:
                stopped, end = True, min(end, self._clock() + grace_seconds)
            self._thread.join(WAIT_SECONDS)
        if self._thread is not None and self._thread.is_alive():
            log.warning("the last checkpoint was not written in time; the one before it stays")

    def _write_behind(self, before: threading.Thread | None) -> None:
        content = self._gather()
        self._thread = threading.Thread(
            target=self._write, args=(content, before), name="checkpoint", daemon=True
        )  # so that a disk that hangs does not keep the process
        self._thread.start()

    def _write(self, content: Content, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        if not _finite(content):
            self._broken += 1
            log.warning("no checkpoint at step %d: the model is not finite; the one before stays", content.step)
            return
        try:
            folder = self._store.write(content)
        except (OSError, P2PElasticError) as error:
            self._failures += 1
            self._problem = str(error)
            log.warning("no checkpoint at step %d; training goes on, and it is tried again: %s", content.step, error)
            return
        self._written, self._problem = (content.step, self._clock()), None
        log.info("checkpoint %s", folder)

    def status(self) -> CheckpointStatus:
        """What came of it so far; from any thread.

        Returns:
            Step and age of the last checkpoint, and what failed.
        """
        step, at = self._written or (None, None)
        return CheckpointStatus(
            step=step,
            age_seconds=None if at is None else self._clock() - at,
            interval_seconds=self._interval.seconds,
            failures=self._failures,
            skipped=self._skipped + self._broken,
            problem=self._problem,
        )


def _finite(content: Content) -> bool:
    """Whether the model is worth keeping: one that diverged would soon have taken the place of all that had not."""
    model = content.tensors.get(MODEL, {})
    return all(bool(torch.isfinite(model[name]).all()) for name in content.learnt if name in model)
