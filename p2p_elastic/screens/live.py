"""What a person or a program sees while a peer runs: a live panel, plain lines, or one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from p2p_elastic.health.checks import judge
from p2p_elastic.screens.peer import one_line, panel, there
from p2p_elastic.status.schema import PeerStatus

PANEL_SECONDS = 0.25
TEXT_SECONDS = 5.0
JSON_SECONDS = 1.0
JOURNAL_SECONDS = 60.0  # what is newest is in the status of the service, too
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # of syslog
LEVELS_ALARMING = ("warning", "error", "critical")
REPORTED = (
    "phase",
    "step",
    "steps_total",
    "epoch",
    "steps_per_second",
    "loss",
    "validation_accuracy",
    "metrics",
)

Clock = Callable[[], float]


class Screen(Protocol):
    """Where a peer reports to. `say` may be called from any thread, the others from the training thread."""

    def say(self, event: str, text: str, **facts: object) -> None:
        """Report that something happened.

        Args:
            event: its kind, for programs.
            text: for people; may have several lines.
            facts: for programs; what JSON can hold.
        """

    def progress(self, status: Callable[[], PeerStatus], *, now: bool = False) -> None:
        """Show how far the peer is. Called after each step.

        Args:
            status: called only when the status is shown.
            now: show it even if it was shown a moment ago.
        """

    def close(self) -> None:
        """Leave the terminal as it was."""


def open_screen(log_format: str, stream: TextIO | None = None) -> Screen:
    """Choose the screen for `--log-format`.

    Args:
        log_format: `auto`, `text` or `json`; `auto` is a live panel in a terminal, one line per event with its
            priority in the journal of systemd, and plain lines elsewhere.
        stream: where to write; None is standard output.

    Returns:
        The screen; the caller closes it.
    """
    stream = stream or sys.stdout
    if log_format == "json":
        return JsonScreen(stream)
    if log_format == "auto" and stream.isatty():
        return PanelScreen(Console(file=stream))
    if log_format == "auto" and in_journal(stream, os.environ):
        return JournalScreen(stream)
    return TextScreen(stream)


class Every:
    """True at most once per interval, when called.

    Args:
        seconds: length of the interval.
        clock: a monotonic time in seconds.

    Example:
        >>> times = iter([0.0, 1.0, 2.5])
        >>> due = Every(2.0, clock=lambda: next(times))
        >>> due(), due(), due()
        (True, False, True)
    """

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds, self._clock, self._last = seconds, clock, float("-inf")

    def __call__(self) -> bool:
        now = self._clock()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class LastingScreen:
    """Another screen that never stops training: if its stream is full or gone, what cannot be shown is left out.

    If the reader of a pipe is gone, `gone` is called: a reason to finish, and none to lose what was learnt.

    Args:
        screen: the screen that shows.
        gone: called each time that the reader is found to be gone.

    Attributes:
        unread: whether the reader was found to be gone.
    """

    def __init__(self, screen: Screen, gone: Callable[[], object]) -> None:
        self._screen, self._gone = screen, gone
        self.unread = False

    def say(self, event: str, text: str, **facts: object) -> None:
        """Report that something happened, if that can be shown.

        Args:
            event: its kind, for programs.
            text: for people.
            facts: for programs.
        """
        with self._losses():
            self._screen.say(event, text, **facts)

    def progress(self, status: Callable[[], PeerStatus], *, now: bool = False) -> None:
        """Show how far the peer is, if that can be shown.

        Args:
            status: called only when the status is shown.
            now: show it even if it was shown a moment ago.
        """
        with self._losses():
            self._screen.progress(status, now=now)

    def close(self) -> None:
        """Leave the terminal as it was, if it is still there."""
        with self._losses():
            self._screen.close()

    @contextlib.contextmanager
    def _losses(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.unread = True
            self._gone()
        except OSError:  # a full disk, a terminal that was closed
            pass


class JsonScreen:
    """One JSON object per line, each with `event` and `time` (seconds since the epoch).

    Args:
        stream: where to write.
        clock: seconds since the epoch.
    """

    def __init__(self, stream: TextIO, clock: Clock = time.time) -> None:
        self._stream, self._clock, self._due = stream, clock, Every(JSON_SECONDS)

    def say(self, event: str, text: str, **facts: object) -> None:
        """Write a line with `event`, `time`, `text` and the facts.

        Args:
            event: its kind.
            text: for people.
            facts: what JSON can hold; numbers that are not finite become null.
        """
        self._write({"event": event, "time": round(self._clock(), 3), "text": text, **facts})

    def progress(self, status: Callable[[], PeerStatus], *, now: bool = False) -> None:
        """Write a line `progress`, at most once a second.

        Args:
            status: called only when the line is written.
            now: write it even if the last one is less than a second old.
        """
        if self._due() or now:
            seen = status()
            training = seen.training.model_dump(mode="json", include=set(REPORTED))
            exchanges = seen.exchanges.model_dump(mode="json", exclude={"skipped"})
            self._write(
                {"event": "progress", "time": round(self._clock(), 3), **training}
                | seen.model_dump(mode="json", include={"centre", "leaders", "checkpoint"})
                | {"members": there(seen), "exchanges": exchanges, "health": judge(seen).status}
            )

    def _write(self, line: dict[str, object]) -> None:
        self._stream.write(json.dumps(_finite(line)) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: each line is complete."""
        pass


class TextScreen:
    """Plain lines, for logs and pipes.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._due = stream, Every(TEXT_SECONDS)

    def say(self, event: str, text: str, **facts: object) -> None:
        """Write the text.

        Args:
            event: not shown.
            text: for people.
            facts: not shown.
        """
        self._stream.write(text + "\n")  # in one go: other threads write too
        self._stream.flush()

    def progress(self, status: Callable[[], PeerStatus], *, now: bool = False) -> None:
        """Write the state in a line, at most every 5 s.

        Args:
            status: called only when the line is written.
            now: write it even if the last one is younger.
        """
        if self._due() or now:
            self.say("progress", one_line(status()))

    def close(self) -> None:
        """Do nothing: each line is complete."""
        pass


class JournalScreen(TextScreen):
    """Lines for the journal of systemd: one per event, each with its priority, and the state once a minute.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._due = Every(JOURNAL_SECONDS)

    def say(self, event: str, text: str, **facts: object) -> None:
        """Write the text in one line.

        Args:
            event: not shown.
            text: for people.
            facts: `level` gives the priority.
        """
        line = " | ".join(part.strip() for part in text.splitlines())
        super().say(event, f"<{PRIORITIES.get(str(facts.get('level')), PRIORITIES['info'])}>{line}")


def in_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what is written goes to the journal of systemd.

    Args:
        stream: where to write.
        environment: `JOURNAL_STREAM` names the device and inode of what systemd connected; programs inherit it.

    Returns:
        True if the stream is that one.
    """
    try:
        seen = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return environment.get("JOURNAL_STREAM") == f"{seen.st_dev}:{seen.st_ino}"


class SayScreen(TextScreen):
    """Plain lines of what happens, and no progress: the program that trains shows its own.

    Args:
        stream: where to write; None is standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream or sys.stdout)

    def progress(self, status: Callable[[], PeerStatus], *, now: bool = False) -> None:
        """Show nothing.

        Args:
            status: not called.
            now: has no effect.
        """


class SilentScreen(SayScreen):
    """Shows nothing."""

    def say(self, event: str, text: str, **facts: object) -> None:
        """Show nothing.

        Args:
            event: not shown.
            text: not shown.
            facts: not shown.
        """


class PanelScreen:
    """A panel at the bottom of the terminal that is redrawn in place; texts scroll above it.

    Args:
        console: of the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._due = console, Every(PANEL_SECONDS)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._last: PeerStatus | None = None
        self._started = False

    def say(self, event: str, text: str, **facts: object) -> None:
        """Print the text above the panel.

        Args:
            event: not shown.
            text: for people; yellow if the fact `level` says warning or worse.
            facts: not shown.
        """
        style = "yellow" if facts.get("level") in LEVELS_ALARMING else ""  # stands apart from what --verbose says
        self._console.print(Text(text, style), soft_wrap=True)  # a command that is to be copied stays in one piece

    def progress(self, status: Callable[[], PeerStatus], *, now: bool = False) -> None:
        """Redraw the panel, at most four times a second.

        Args:
            status: called only when the panel is redrawn.
            now: redraw it even if that was done a moment ago.
        """
        if not (self._due() or now):
            return
        if not self._started:
            self._live.start()
            self._started = True
        self._last = status()
        self._live.update(panel(self._last), refresh=True)

    def close(self) -> None:
        """Print the last panel once more, to stay in the terminal."""
        if self._started:
            self._live.stop()
            self._started = False
        if self._last is not None:
            self._console.print(panel(self._last))
            self._last = None


def _finite(value: object) -> object:
    """Replace what JSON has no number for by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
