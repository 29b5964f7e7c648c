"""`p2p-elastic simulate`, put together: options, data, device, progress, tables, files, pictures, sweeps."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from rich.console import Console

from p2p_elastic.common.stop import Stop
from p2p_elastic.common.toml_file import read_options
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import EITHER_OR
from p2p_elastic.node.results import check_writable
from p2p_elastic.parameters.devices import choose_device
from p2p_elastic.screens.simulation import ProgressDisplay, open_progress, outcome_line, outcome_table, sweep_table
from p2p_elastic.simulator import plots
from p2p_elastic.simulator.config import Loop, SimulationConfig, SimulationResult
from p2p_elastic.simulator.options import KEYS, build, dashed, refused, shown, value_of
from p2p_elastic.simulator.report import CURVE_FILE, RESULT_FILE, finite, to_json, write_result, write_text
from p2p_elastic.simulator.sweep import (
    SUMMARY_CSV,
    SUMMARY_MARKDOWN,
    Store,
    Turn,
    digest,
    label,
    parse_axes,
    plan,
    run_all,
    summary_csv,
    summary_markdown,
)
from p2p_elastic.tasks import Data, find_task, load_data
from p2p_elastic.values import Frozen

STOPPED = 130  # exit code
WIDTH = 120  # of tables, if there is no terminal


class Settings(Frozen):
    """How to simulate, as opposed to what.

    Attributes:
        data_dir: folder with the data set; None is the default folder.
        device: where to compute; `auto` is the best that there is.
        threads: CPU threads of PyTorch; None leaves PyTorch's default.
        loop: all workers in each operation, or one after the other; `auto` is what is faster.
        output: folder for the results; None makes up a name from the options.
        no_plots: whether to draw no pictures.
        sweep: axes such as `seed=1,2,3`.
    """

    data_dir: Path | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    loop: Loop = "auto"
    output: Path | None = None
    no_plots: bool = False
    sweep: tuple[str, ...] = ()


class Job(NamedTuple):
    """What was asked for, checked: one configuration, or those of a sweep.

    Attributes:
        settings: how to simulate.
        base: the configuration; of a sweep the one with the first value of each axis.
        keys: options that are swept; empty for one simulation.
        configs: all configurations.
        name: short hash of the options that are not swept.
    """

    settings: Settings
    base: SimulationConfig
    keys: tuple[str, ...]
    configs: tuple[SimulationConfig, ...]
    name: str

    @property
    def folder(self) -> Path:
        """Folder for all results: the same for the same options, so that a sweep is found again."""
        if self.settings.output is not None:
            return self.settings.output
        if not self.keys:
            config = self.base
            task = find_task(config.task).name
            return Path("simulations") / f"{config.rule}-{task}-{config.seed}-{digest(config)[:6]}"
        return Path("simulations") / f"sweep-{'-'.join(map(dashed, self.keys))}-{self.name}"


def load_job(file: Path | None, given: Mapping[str, Any]) -> Job:
    """Read the options in `file`, overridden by those given on the command line.

    Args:
        file: a TOML file; None if there is none.
        given: options of the command line, with underscores for dashes.

    Returns:
        The job.

    Raises:
        ConfigError: for the first option that is unknown, out of range, or contradicts another.
    """
    from_file = read_options(file)
    for one, other in EITHER_OR:
        if given.get(one) is not None:
            from_file.pop(other, None)
    options = {**from_file, **given}
    allowed = (*KEYS, *Settings.model_fields)
    for key, value in options.items():
        if key not in allowed:
            there = ", ".join(map(dashed, sorted(allowed)))
            raise ConfigError(dashed(key), value, f"no such option; there are: {there}")
    try:
        settings = Settings(**{key: value for key, value in options.items() if key not in KEYS})
    except ValidationError as error:
        raise refused(error) from error
    axes = parse_axes(settings.sweep)
    for key in axes:
        if key in given:
            raise ConfigError(dashed(key), given[key], "it is in --sweep as well; leave one of the two out")
    fixed = {key: value for key, value in options.items() if key in KEYS and key not in axes}
    # With the first of the swept values: without them the rest need not be possible.
    base = build({**fixed, **{key: values[0] for key, values in axes.items()}})
    return Job(settings, base, tuple(axes), tuple(plan(base, axes)), _short_name(fixed))


def _short_name(options: Mapping[str, Any]) -> str:
    """Hash options: the same for the same options, wherever they came from."""
    text = json.dumps({key: str(value) for key, value in options.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def run_job(job: Job, stop: Stop, *, as_json: bool = False) -> int:
    """Simulate, and print and keep the results.

    Args:
        job: what to simulate.
        stop: the user's wish to stop.
        as_json: whether to print JSON on standard output, and everything else on standard error.

    Returns:
        The exit code: 0, or 130 if `stop` came before the end.

    Raises:
        ConfigError: if something that was asked for is not possible.
    """
    console = Console(stderr=as_json, highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    for config in job.configs:
        find_task(config.task)
    if job.settings.threads is not None:
        torch.set_num_threads(job.settings.threads)
    engine = Engine(console, choose_device(job.settings.device), job.settings.data_dir, stop, job.settings.loop)
    check_writable(job.folder)
    results = _sweep(job, engine) if job.keys else _single(job, engine)
    if as_json:
        documents = [finite(result.model_dump(mode="json")) for result in results]
        sys.stdout.write(json.dumps(documents, indent=2) + "\n" if job.keys else "".join(map(to_json, results)))
    return STOPPED if engine.stopped else 0


class Engine:
    """Runs simulations one after the other on one device; each data set is loaded once.

    Args:
        console: where progress is shown.
        device: where to compute.
        data_dir: folder with the data sets; None is the default folder.
        stop: the user's wish to stop.
        loop: all workers in each operation, or one after the other.

    Attributes:
        stopped: whether the last simulation was stopped before its end.
    """

    def __init__(
        self, console: Console, device: torch.device, data_dir: Path | None, stop: Stop, loop: Loop = "auto"
    ) -> None:
        self.console, self.device = console, device
        self._loop: Loop = loop
        self._data_dir, self._stop = data_dir, stop
        self._data: dict[str, Data] = {}
        self.stopped = False

    def run(self, config: SimulationConfig, what: str = "") -> SimulationResult:
        """Run one simulation, shown while it runs; `stopped` says afterwards whether it came to its end.

        Args:
            config: of the simulation.
            what: its name on the screen; empty is the rule.

        Returns:
            The result, up to the step at which it ended.
        """
        from p2p_elastic.simulator.run import simulate

        data = self._load(config.task)
        with contextlib.closing(open_progress(self.console, what or config.rule)) as progress:
            result = simulate(
                config,
                data,
                self.device,
                clock=time.monotonic,
                progress=progress,
                should_stop=self._stop,
                loop=self._loop,
            )
            self.stopped = self._stop() and not _whole(result, progress)
        return result

    def run_whole(self, config: SimulationConfig, what: str = "") -> SimulationResult | None:
        """Run one simulation to its end.

        Args:
            config: of the simulation.
            what: its name on the screen; empty is the rule.

        Returns:
            The result; None if it was stopped.
        """
        if self._stop():
            self.stopped = True
            return None
        result = self.run(config, what)
        return None if self.stopped else result

    def _load(self, task: str) -> Data:
        if task not in self._data:
            self.console.print(f"Loading the data of task {task} ...")
            with self._stop.interruptible():
                self._data[task] = load_data(find_task(task), self._data_dir)
        return self._data[task]


def _whole(result: SimulationResult, progress: ProgressDisplay) -> bool:
    return bool(result.points) and result.points[-1].step == progress.steps


def _single(job: Job, engine: Engine) -> list[SimulationResult]:
    result, folder = engine.run(job.base), job.folder
    engine.console.print(outcome_table(result))
    if engine.stopped:
        engine.console.print("Stopped before the end; what was done until then is kept.")
    write_result(result, folder)
    name = "average" if not result.points or result.points[-1].score.centre is None else "centre"
    title = f"{result.config.rule}, {result.config.task}, {result.config.workers} workers"
    drawn = _draw(job, engine.console, [plots.Series(name, result)], title)
    _say_where(engine.console, folder, [folder / RESULT_FILE, folder / CURVE_FILE, *drawn])
    return [result]


def _sweep(job: Job, engine: Engine) -> list[SimulationResult]:
    folder, console = job.folder, engine.console

    def announce(turn: Turn) -> None:
        state = " (finished before)" if turn.found else ""
        console.print(f"Run {turn.number} of {turn.total}: {label(turn.config, job.keys)}{state}", soft_wrap=True)

    def run(config: SimulationConfig) -> SimulationResult | None:
        result = engine.run_whole(config, label(config, job.keys))
        if result is not None:
            console.print(outcome_line(result))
        return result

    results = run_all(job.configs, Store(folder), run, announce)
    console.print(sweep_table(job.keys, results, len(job.configs)))
    write_text(folder / SUMMARY_CSV, summary_csv(job.keys, results))
    write_text(folder / SUMMARY_MARKDOWN, summary_markdown(job.keys, results, len(job.configs)))
    drawn = _draw(job, console, sweep_series(job.keys, results), f"sweep over {', '.join(map(dashed, job.keys))}")
    _say_where(console, folder, [folder / SUMMARY_CSV, folder / SUMMARY_MARKDOWN, *drawn])
    if engine.stopped:
        console.print("Stopped before the end. The same command goes on with what is missing.")
    return results


def sweep_series(keys: Sequence[str], results: Sequence[SimulationResult]) -> list[plots.Series]:
    """Prepare the runs of a sweep for a picture.

    Runs that differ in the seed alone look alike; of two options the first decides the style and the second the colour.

    Args:
        keys: options that are swept.
        results: of the runs.

    Returns:
        A curve for each run; without colours if there are too many values to tell apart.
    """
    told = [key for key in keys if key != "seed"] or list(keys)
    places: list[dict[str, int]] = [{} for _ in told]
    series = []
    for result in results:
        values = [shown(value_of(result.config, key)) for key in told]
        at = [place.setdefault(value, len(place)) for place, value in zip(places, values, strict=True)]
        series.append(plots.Series(label(result.config, told), result, colour=at[-1], style=at[0]))
    if len(told) == 2 and len(places[0]) <= len(plots.STYLES) and len(places[1]) <= len(plots.COLOURS):
        return series
    return [one._replace(colour=None) for one in series]


def _draw(job: Job, console: Console, series: Sequence[plots.Series], title: str) -> list[Path]:
    """Draw the pictures, unless they are not wanted or matplotlib is missing."""
    if job.settings.no_plots:
        return []
    try:
        plots.require_matplotlib()
    except ConfigError as missing:
        console.print(f"No pictures: {missing.got}; {missing.allowed}", soft_wrap=True)
        return []
    return plots.draw(series, job.folder, title=title)


def _say_where(console: Console, folder: Path, files: Sequence[Path]) -> None:
    console.print(f"In {folder}: {', '.join(file.name for file in files)}", soft_wrap=True)
