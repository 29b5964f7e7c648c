"""What a person sees of a simulation: a progress bar or plain lines while it runs, tables at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from p2p_elastic.common.metrics import value_text
from p2p_elastic.screens.live import Every
from p2p_elastic.screens.units import size
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
            TextColumn("{task.fields[metric]} [b]{task.fields[score]}[/b]  exchanges [b]{task.fields[exchanges]}[/b]"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._rich.add_task(what, total=None, metric="test", score="-", exchanges="-")
        self._due = Every(BAR_SECONDS)
        self.steps: int | None = None

    def __call__(self, step: int, steps: int, point: Point | None) -> None:
        if self.steps is None:
            self._rich.start()
        self.steps = steps
        if point is not None:
            score = value_text(point.score_name, point.score.delivered)
            self._rich.update(self._task, metric=point.score_name, score=score, exchanges=str(point.exchanges))
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
                name, score = self._point.score_name, self._point.score.delivered
                known = f", {name} {value_text(name, score)}, {self._point.exchanges} exchanges"
            self._console.print(f"step {step}/{steps}{known}, {left:.0f} s left", soft_wrap=True)

    def close(self) -> None:
        """Do nothing: each line is complete."""
        pass


def outcome_line(result: SimulationResult) -> str:
    """Show how a simulation ended, in a line.

    Args:
        result: of the simulation.

    Returns:
        The metric, steps and seconds.
    """
    end = headline(result)
    score = "no evaluation" if end is None else f"{end.metric} {value_text(end.metric, end.score)}"
    return f"    {score}, {result.steps} steps, {result.seconds:.1f} s on {result.device}"


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
    name = end.metric
    lowest, highest = value_text(name, end.lowest), value_text(name, end.highest)
    facts = [(f"test {name} of the workers", lowest if lowest == highest else f"{lowest} to {highest}")]
    facts += [(f"test {name} of their average", value_text(name, end.average))]
    if end.centre is not None:
        facts += [(f"test {name} of the centre", value_text(name, end.centre))]
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
    names = {end.metric for result in results if (end := headline(result)) is not None}
    metric = names.pop() if len(names) == 1 else "score" if names else "accuracy"
    for heading in (*map(dashed, keys), metric, "average", "workers", "distance", "sent", "seconds", "run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results[left_out:]:
        end = headline(result)
        cells = ["-"] * 5
        if end is not None:
            score, average, lowest, highest = (
                value_text(end.metric, value) for value in (end.score, end.average, end.lowest, end.highest)
            )
            workers = f"{lowest.removesuffix(' %')}..{highest.removesuffix(' %')}"
            distance = f"{end.consensus_distance:.3g}"
            cells = [score, average, workers, distance, size(end.bytes_per_worker)]
        options = [shown(value_of(result.config, key)) for key in keys]
        table.add_row(*options, *cells, f"{result.seconds:.1f}", digest(result.config))
    return table
