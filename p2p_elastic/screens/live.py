"""What a person or a program sees while a peer runs: a live panel, plain lines, or one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from p2p_elastic.health.causes import FAILURES
from p2p_elastic.health.checks import judge
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.schema import FAILED_LATELY_SECONDS, ExchangeRecord, ExchangeTotals, PeerStatus, TrainingStatus

PANEL_SECONDS = 0.25
TEXT_SECONDS = 5.0
JSON_SECONDS = 1.0
LEVELS_ALARMING = ("warning", "error", "critical")
PLAIN_MAX = 1e7  # a loss that diverges may have hundreds of digits
REPORTED = (
    "phase",
    "step",
    "steps_total",
    "epoch",
    "steps_per_second",
    "loss",
    "validation_accuracy",
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
        log_format: `auto`, `text` or `json`; `auto` is a live panel in a terminal and plain lines elsewhere.
        stream: where to write; None is standard output.

    Returns:
        The screen; the caller closes it.
    """
    stream = stream or sys.stdout
    if log_format == "json":
        return JsonScreen(stream)
    if log_format == "auto" and stream.isatty():
        return PanelScreen(Console(file=stream))
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
                | {"members": _there(seen), "exchanges": exchanges, "health": judge(seen).status}
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


def percent(share: float | None) -> str:
    """Show a share in percent.

    Args:
        share: 0 to 1; None if it is not known.

    Returns:
        A text with two decimals, or a dash.

    Example:
        >>> percent(0.9375), percent(None)
        ('93.75 %', '-')
    """
    return "-" if share is None else f"{100 * share:.2f} %"


def size(nbytes: float) -> str:
    """Show bytes for people, in decimal units.

    Args:
        nbytes: 0 or more.

    Returns:
        A text such as `12.3 MB`.

    Example:
        >>> size(999), size(12_345_678), size(999_960)
        ('999 B', '12.3 MB', '1.0 MB')
    """
    for unit in ("B", "kB", "MB"):
        if nbytes < (999.5 if unit == "B" else 999.95):  # what rounds up to 1000 has the next unit
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def short(peer: str) -> str:
    """Shorten a peer id to its end: all Ed25519 ids begin alike.

    Args:
        peer: peer id in base58.

    Returns:
        Its last 8 characters.
    """
    return peer[-8:]


def number(value: float | None, form: str) -> str:
    """Show a number for people.

    Args:
        value: None if it is not known.
        form: format such as `.4f`; if the number would be long, three digits are shown instead.

    Returns:
        A text; a dash for None.

    Example:
        >>> number(0.25, ".4f"), number(1e9, ".4f"), number(None, ".4f")
        ('0.2500', '1e+09', '-')
    """
    return "-" if value is None else format(value, form if abs(value) < PLAIN_MAX else ".3g")


def one_line(status: PeerStatus) -> str:
    """Show the state of a peer in one line.

    Args:
        status: of the peer.

    Returns:
        Steps, loss, accuracy, members, exchanges, traffic and health.
    """
    training, exchanges = status.training, status.exchanges
    done = (
        f"step {training.step}/{training.steps_total or '?'} epoch {training.epoch:.1f} "
        f"{number(training.steps_per_second, '.1f')} steps/s loss {number(training.loss, '.4f')}"
    )
    return (
        f"{at_centre(status) or done} "
        f"accuracy {percent(training.validation_accuracy)} members {_there(status)} "
        f"exchanges {exchanges.by_outcome.get(Outcome.COMPLETED, 0)} ok "
        f"{exchanges.by_outcome.get(Outcome.DECLINED, 0)} declined {failures(exchanges)} failed "
        f"sent {size(exchanges.bytes_sent)} received {size(exchanges.bytes_received)} "
        + (f"{standing(status)} " if standing(status) else "")
        + (f"{parted(status)} " if status.partition is not None else "")
        + f"health {judge(status).status}"
    )


def failures(totals: ExchangeTotals) -> int:
    """Count the exchanges that failed since the peer started.

    Args:
        totals: of the peer.

    Returns:
        Their number; declined ones are no failures.
    """
    return sum(totals.by_outcome.get(outcome, 0) for outcome in FAILURES)


def lately(totals: ExchangeTotals) -> str:
    """Say how many exchanges failed in the last minutes.

    Args:
        totals: of the peer.

    Returns:
        A text; empty if none did.
    """
    count = totals.failed_lately
    return f"{count} failed in the last {duration(FAILED_LATELY_SECONDS)}" if count else ""


def parted(status: PeerStatus) -> str:
    """Say that many members vanished at once, as in a partition of the network.

    Args:
        status: of the peer.

    Returns:
        How many are away and left, and since when; empty if there is no partition.
    """
    split = status.partition
    if split is None:
        return ""
    return f"partition: {split.away} away, {split.left} left for {split.seconds:.0f} s, {split.steps} steps"


def at_centre(status: PeerStatus) -> str:
    """Say what a peer does that does not train.

    Args:
        status: of the peer.

    Returns:
        Whether it holds the centre variable or stands by; empty if it trains.
    """
    if status.training.phase != "holding":
        return ""
    here = status.centre is not None and status.centre.here
    return f"does not train, {'holds' if here else 'stands by for'} the centre variable"


def duration(seconds: float) -> str:
    """Show seconds for people.

    Args:
        seconds: 0 or more.

    Returns:
        Seconds, minutes or hours.

    Example:
        >>> duration(90), duration(600), duration(9000)
        ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def time_left(training: TrainingStatus) -> str:
    """Estimate how long training still takes at its present speed.

    Args:
        training: of the peer.

    Returns:
        A text; empty if it does not train, or if its length or speed is not known.
    """
    left, speed = (training.steps_total or 0) - training.step, training.steps_per_second
    if training.phase != "training" or left <= 0 or not speed or not math.isfinite(left / speed):
        return ""
    return f"about {duration(left / speed)} left"


def standing(status: PeerStatus) -> str:
    """Say which peer holds the centre variable, or which one this peer follows.

    Args:
        status: of the peer.

    Returns:
        A text; empty in runs that have neither centre nor leader.
    """
    if status.centre is not None:
        centre = status.centre
        where = "here" if centre.here else "vacant" if centre.holder is None else short(centre.holder)
        return f"centre {where}, term {centre.term}, {centre.exchanges} exchanges"
    if status.leaders is None:
        return ""
    leaders = status.leaders
    named = [f"leader {_leader(leaders.leader, status.peer)}"]
    if leaders.leader_of_all is not None:
        named.append(f"of all groups {_leader(leaders.leader_of_all, status.peer)}")
    named += [f"{short(peer)} not believed: {reason}" for peer, reason in leaders.disbelieved.items()]
    return ", ".join(named)


def _leader(peer: str | None, own: str) -> str:
    return "none yet" if peer is None else "this peer" if peer == own else short(peer)


def panel(status: PeerStatus) -> Panel:
    """Draw the state of a peer as a panel of a dozen lines.

    Args:
        status: of the peer.

    Returns:
        The panel; 80 columns are enough for it.
    """
    training, exchanges, health = status.training, status.exchanges, judge(status)
    facts = Table.grid(padding=(0, 2))  # 80 columns are enough
    facts.add_row(
        f"step [b]{training.step}[/b]/{training.steps_total or '?'}",
        f"epoch [b]{training.epoch:.1f}[/b]",
        f"[b]{number(training.steps_per_second, '.1f')}[/b] steps/s",
        f"loss [b]{number(training.loss, '.4f')}[/b]",
        f"accuracy [b]{percent(training.validation_accuracy)}[/b]",
    )
    counts = "  ".join(f"{outcome.value} [b]{n}[/b]" for outcome, n in sorted(exchanges.by_outcome.items()))
    traffic = f"sent [b]{size(exchanges.bytes_sent)}[/b]  received [b]{size(exchanges.bytes_received)}[/b]"
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_row(ProgressBar(total=training.steps_total or 1, completed=training.step), time_left(training))
    done = [Text(at_centre(status))] if at_centre(status) else [bar, facts]
    rows: list[object] = [
        *done,
        Text.from_markup(f"exchanges: {counts or 'none yet'}   {traffic}"),
        *([Text(lately(exchanges), style="red")] if exchanges.failed_lately else []),
        _partners(status),
    ]
    if standing(status):
        rows.insert(3, Text(standing(status)))
    if status.partition is not None:
        rows.insert(3, Text(parted(status), style="yellow"))
    rows += [Text(f"{reason.code}: {reason.text}", style="yellow") for reason in health.reasons]
    title = f"{status.run} · {status.task} · {short(status.peer)} · {training.phase}"
    colour = "green" if health.status == "ok" else "yellow"
    return Panel(Group(*rows), title=title, border_style=colour)  # type: ignore[arg-type]


def _there(status: PeerStatus) -> int:
    return sum(member.state != "dead" for member in status.members)


def _partners(status: PeerStatus) -> Table:
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for heading in ("partner", "state", "step", "loss", "last exchange"):
        table.add_column(heading, no_wrap=True)
    last: dict[str, ExchangeRecord] = {}
    for record in status.last_exchanges:
        last.setdefault(record.partner, record)
    for member in sorted(status.members, key=lambda member: member.state == "dead")[:8]:
        newest = last.get(member.peer)
        what = "-" if newest is None else f"{newest.outcome.value} {newest.age_seconds:.0f} s ago"
        state = "drained" if member.drained else member.state
        table.add_row(short(member.peer), state, str(member.step), number(member.loss, ".4f"), what)
    if len(status.members) > 8:
        table.add_row(f"and {len(status.members) - 8} more")
    if not status.members:
        table.add_row("nobody else yet")
    return table
