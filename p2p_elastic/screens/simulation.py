"""What a person sees of a simulation: a progress bar or plain lines while it runs, tables at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from p2p_elastic.screens.live import Every
from p2p_elastic.screens.units import percent, size
from p2p_elastic.simulator.config import Point, SimulationResult
from p2p_elastic.simulator.options import dashed, shown, value_of
from p2p_elastic.simulator.report import Headline, headline
from p2p_elastic.simulator.sweep import digest

BAR_SECONDS, LINE_SECONDS = 0.1, 5.0
ROWS_MAX = 40  # of a sweep's table on the screen; the files have all
LEADERS_MAX = 16

Clock = Callable[[], float]


class ProgressDisplay(Protocol):
    """Shows how far a simulation is. Called after each step with its number, the number of all steps, and an evaluation
    if one was just made.

    Attributes:
        steps: steps that it will make; None before the first call.
    """

    steps: int | None

    def __call__(self, step: int, steps: int, point: Point | None) -> None: ...

    def close(self) -> None:
        """Leave the terminal as it was."""


def open_progress(console: Console, what: str) -> ProgressDisplay:
    """Show a bar in a terminal, and a line every few seconds elsewhere.

    Args:
        console: where to write.
        what: name of the simulation, before the bar.

    Returns:
        The display; the caller closes it.
    """
    return BarProgress(console, what) if console.is_terminal else LineProgress(console)


class BarProgress:
    """A bar that is redrawn in place, and gone at the end.

    Args:
        console: of the terminal.
        what: name of the simulation.
    """

    def __init__(self, console: Console, what: str) -> None:
        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("accuracy [b]{task.fields[accuracy]}[/b]  exchanges [b]{task.fields[exchanges]}[/b]"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._rich.add_task(what, total=None, accuracy="-", exchanges="-")
        self._due = Every(BAR_SECONDS)
        self.steps: int | None = None

    def __call__(self, step: int, steps: int, point: Point | None) -> None:
        if self.steps is None:
            self._rich.start()
        self.steps = steps
        if point is not None:
            self._rich.update(self._task, accuracy=percent(point.accuracy), exchanges=str(point.exchanges))
        if point is not None or self._due():
            self._rich.update(self._task, completed=step, total=steps)

    def close(self) -> None:
        """Remove the bar."""
        self._rich.stop()


class LineProgress:
    """Plain lines, for logs and pipes.

    Args:
        console: where to write.
        clock: a monotonic time in seconds.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock, self._due = console, clock, Every(LINE_SECONDS, clock)
        self._began = clock()
        self._point: Point | None = None
        self.steps: int | None = None

    def __call__(self, step: int, steps: int, point: Point | None) -> None:
        if self.steps is None:
            self._due()  # the first line comes after a while, not at once
        self.steps, self._point = steps, point or self._point
        if self._due():
            left = (self._clock() - self._began) / max(step, 1) * (steps - step)
            known = ""
            if self._point is not None:
                known = f", accuracy {percent(self._point.accuracy)}, {self._point.exchanges} exchanges"
            self._console.print(f"step {step}/{steps}{known}, {left:.0f} s left", soft_wrap=True)

    def close(self) -> None:
        """Do nothing: each line is complete."""
        pass


def outcome_line(result: SimulationResult) -> str:
    """Show how a simulation ended, in a line.

    Args:
        result: of the simulation.

    Returns:
        Accuracy, steps and seconds.
    """
    end = headline(result)
    accuracy = "no evaluation" if end is None else f"accuracy {percent(end.accuracy)}"
    return f"    {accuracy}, {result.steps} steps, {result.seconds:.1f} s on {result.device}"


def outcome_table(result: SimulationResult) -> Table:
    """Show how a simulation ended, as a table.

    Args:
        result: of the simulation.

    Returns:
        A row for each figure.
    """
    config = result.config
    workers = f"{config.workers} worker{'' if config.workers == 1 else 's'}"
    table = Table(title=f"{config.rule}, task {config.task}, {workers}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("steps of each worker", str(result.steps))
    end = headline(result)
    if end is not None:
        for name, value in _facts(result, end):
            table.add_row(name, value)
    for kind, count in sorted(result.faults.items()):
        table.add_row(f"injected: {kind}", str(count))
    if result.leaders:
        table.add_row("times that each worker led", _leaders(result))
    table.add_row(f"seconds on {result.device}", f"{result.seconds:.1f}")
    return table


def _facts(result: SimulationResult, end: Headline) -> list[tuple[str, str]]:
    lowest, highest = percent(end.lowest), percent(end.highest)
    facts = [("test accuracy of the workers", lowest if lowest == highest else f"{lowest} to {highest}")]
    facts += [("test accuracy of their average", percent(end.average))]
    if end.centre is not None:
        facts += [("test accuracy of the centre", percent(end.centre))]
    facts += [
        ("consensus distance (L2)", f"{end.consensus_distance:.4g}"),
        ("exchanges", str(end.exchanges)),
        ("sent by each worker, mean", size(end.bytes_per_worker)),
        ("parameters", f"{result.parameters:,}"),
    ]
    return facts


def _leaders(result: SimulationResult) -> str:
    times = [str(result.leaders.get(worker, 0)) for worker in range(result.config.workers)]
    more = f" and {len(times) - LEADERS_MAX} more" if len(times) > LEADERS_MAX else ""
    return ", ".join(times[:LEADERS_MAX]) + more


def sweep_table(keys: Sequence[str], results: Sequence[SimulationResult], planned: int) -> Table:
    """Show the runs of a sweep side by side.

    Args:
        keys: options that are swept, a column for each.
        results: of the runs that are finished.
        planned: runs of the whole sweep.

    Returns:
        A row for each run; if there are more than ROWS_MAX, for the last ones.
    """
    left_out = max(0, len(results) - ROWS_MAX)
    note = f"; the last {ROWS_MAX} of them, the files have all" if left_out else ""
    table = Table(title=f"{len(results)} of {planned} runs finished{note}", title_justify="left")
    for heading in (*map(dashed, keys), "accuracy", "average", "workers", "distance", "sent", "seconds", "run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results[left_out:]:
        end = headline(result)
        cells = ["-"] * 5
        if end is not None:
            workers = f"{100 * end.lowest:.2f}..{100 * end.highest:.2f}"
            distance = f"{end.consensus_distance:.3g}"
            cells = [percent(end.accuracy), percent(end.average), workers, distance, size(end.bytes_per_worker)]
        options = [shown(value_of(result.config, key)) for key in keys]
        table.add_row(*options, *cells, f"{result.seconds:.1f}", digest(result.config))
    return table
