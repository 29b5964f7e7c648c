"""A sweep: one simulation for every combination of some values; what is finished is never computed twice."""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from p2p_elastic.common.metrics import is_share, value_text
from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator.config import SimulationConfig, SimulationResult
from p2p_elastic.simulator.options import build, dashed, shown, value_of
from p2p_elastic.simulator.report import RESULT_FILE, Headline, csv_text, headline, read_result, write_result

RUNS_MAX = 10_000
SUMMARY_CSV, SUMMARY_MARKDOWN = "summary.csv", "summary.md"
DIGEST_DIGITS = 12

Axes = Mapping[str, Sequence[object]]
"""Option (with underscores) -> its values."""


def parse_axes(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read axes from texts like "probability=1/8,1/32"; the last one varies fastest.

    Args:
        texts: each KEY=V1,V2; keys with dashes or underscores.

    Returns:
        Values by option, with underscores.

    Raises:
        ConfigError: if a text is no KEY=V1,V2, or names a key twice.

    Example:
        >>> parse_axes(["rule=none,lsgd", "seed=1,2"])
        {'rule': ('none', 'lsgd'), 'seed': ('1', '2')}
    """
    axes: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        key = name.strip().removeprefix("--").replace("-", "_")
        given = tuple(value.strip() for value in values.split(","))
        if not key or not equals or not all(given):
            raise ConfigError("sweep", text, "KEY=V1,V2,..., for example probability=1/8,1/32")
        if key in axes:
            raise ConfigError("sweep", text, f"{name} is there already; give all its values at once")
        axes[key] = given
    return axes


def plan(base: SimulationConfig, axes: Axes) -> list[SimulationConfig]:
    """Build one configuration per combination, in the order of the axes; equal ones once.

    Args:
        base: gives what the axes do not.
        axes: values by option.

    Returns:
        The configurations.

    Raises:
        ConfigError: if a combination is not possible, or there are too many.
    """
    combinations = 1
    for values in axes.values():
        combinations *= len(values)
    if combinations > RUNS_MAX:
        raise ConfigError("sweep", combinations, f"at most {RUNS_MAX} runs")
    planned = (build(dict(zip(axes, values, strict=True)), base) for values in itertools.product(*axes.values()))
    return list({digest(config): config for config in planned}.values())


def digest(config: SimulationConfig) -> str:
    """Name a configuration shortly; options at their defaults do not count, so that new options change nothing.

    Args:
        config: of a simulation.

    Returns:
        DIGEST_DIGITS hexadecimal digits.
    """
    text = json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]


class Store:
    """Finished simulations below a folder, each in a folder named by its configuration.

    Args:
        folder: around them; it is made with the first result.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, config: SimulationConfig) -> Path:
        """The folder of a configuration's result, whether it is there or not.

        Args:
            config: of a simulation.

        Returns:
            Its path.
        """
        return self.folder / digest(config)

    def find(self, config: SimulationConfig) -> SimulationResult | None:
        """Find the finished simulation of exactly this configuration.

        Args:
            config: of a simulation.

        Returns:
            Its result; None if there is none, or it is damaged.
        """
        if not (self.place(config) / RESULT_FILE).is_file():
            return None
        try:
            result = read_result(self.place(config))
        except ConfigError:
            return None
        return result if result.config == config else None

    def save(self, result: SimulationResult) -> None:
        """Keep a finished simulation.

        Args:
            result: goes to the place of its configuration.
        """
        write_result(result, self.place(result.config))

    def __iter__(self) -> Iterator[SimulationResult]:
        """All results that are finished, in the order of names."""
        for path in sorted(self.folder.glob(f"*/{RESULT_FILE}")):
            try:
                yield read_result(path.parent)
            except ConfigError:
                continue


class Turn(NamedTuple):
    """One simulation of a sweep, when its turn comes.

    Attributes:
        number: of this simulation, from 1.
        total: of all simulations of the sweep.
        config: of this simulation.
        found: whether it was finished before.
    """

    number: int
    total: int
    config: SimulationConfig
    found: bool


def run_all(
    configs: Sequence[SimulationConfig],
    store: Store,
    run: Callable[[SimulationConfig], SimulationResult | None],
    announce: Callable[[Turn], None] = lambda _turn: None,
) -> list[SimulationResult]:
    """Run what is not in the store yet, one after the other, keeping each as soon as it is finished.

    Args:
        configs: the sweep, in its order.
        store: of finished simulations.
        run: gives None if it was stopped before the end: then the sweep ends, and a later one does that run again.
        announce: called before each simulation.

    Returns:
        The results so far, in the order of `configs`.
    """
    results: list[SimulationResult] = []
    for number, config in enumerate(configs, 1):
        result = store.find(config)
        announce(Turn(number, len(configs), config, found=result is not None))
        if result is None:
            result = run(config)
            if result is None:
                break
            store.save(result)
        results.append(result)
    return results


def label(config: SimulationConfig, keys: Iterable[str]) -> str:
    """Tell a configuration from the others of its sweep.

    Args:
        config: of a simulation.
        keys: the swept options.

    Returns:
        One line for people.

    Example:
        >>> label(build({"probability": 1 / 8}), ["rule", "probability"])
        'rule=elastic-gossip probability=0.125'
    """
    return " ".join(f"{dashed(key)}={shown(value_of(config, key))}" for key in keys)


# -- the summary ------------------------------------------------------------------------------------------------------

COLUMNS = tuple(field for field in Headline._fields if field not in ("metric", "first"))


def summary_csv(keys: Sequence[str], results: Sequence[SimulationResult]) -> str:
    """Write one row per simulation: the swept options, how it ended, and where it is.

    Args:
        keys: the swept options.
        results: finished simulations.

    Returns:
        The CSV.
    """
    columns = (_metric(results), *COLUMNS[1:])
    rows: list[list[object]] = [[*map(dashed, keys), *columns, "seconds", "run"]]
    for result in results:
        end = headline(result)
        ended = ["" if end is None or (v := getattr(end, column)) is None else v for column in COLUMNS]
        options = [shown(value_of(result.config, key)) for key in keys]
        rows.append([*options, *ended, f"{result.seconds:.1f}", digest(result.config)])
    return csv_text(rows)


def summary_markdown(keys: Sequence[str], results: Sequence[SimulationResult], planned: int) -> str:
    """Write the same for people; if seeds were swept also mean and standard deviation over them.

    Args:
        keys: the swept options.
        results: finished simulations.
        planned: of all simulations of the sweep.

    Returns:
        The text in Markdown.
    """
    metric = _metric(results)
    unit = " %" if is_share(metric) else ""
    scores = (f"{name}{unit}" for name in (metric, "average", "workers"))
    heading = [*map(dashed, keys), *scores, "consensus distance", "MB per worker", "run"]
    rows = []
    for result in results:
        end = headline(result)
        cells = ["-"] * 5 if end is None else _cells(end)
        rows.append([*(shown(value_of(result.config, key)) for key in keys), *cells, digest(result.config)])
    text = f"# Sweep: {len(results)} of {planned} runs finished\n\n{markdown_table(heading, rows)}"
    text += f"\n{metric}: test {metric} of what the method delivers, its centre if it has one, otherwise the average."
    text += "\nworkers: the lowest and the highest. MB per worker: sent, mean over workers.\n"
    groups = _groups(keys, results)
    if groups:
        heading = [*(dashed(key) for key in keys if key != "seed"), "seeds", f"{metric}{unit}", "standard deviation"]
        text += f"\n## Mean over seeds\n\n{markdown_table(heading, groups)}"
    return text


def _metric(results: Sequence[SimulationResult]) -> str:
    """The metric of all of them; "score" if they have different ones."""
    names = {end.metric for result in results if (end := headline(result)) is not None}
    return names.pop() if len(names) == 1 else "score" if names else "accuracy"


def _plain(metric: str, value: float) -> str:
    """A value whose unit is in the heading."""
    return value_text(metric, value).removesuffix(" %")


def _cells(end: Headline) -> list[str]:
    return [
        _plain(end.metric, end.score),
        _plain(end.metric, end.average),
        f"{_plain(end.metric, end.lowest)} to {_plain(end.metric, end.highest)}",
        f"{end.consensus_distance:.4g}",
        f"{end.bytes_per_worker / 1e6:.4g}",
    ]


def _groups(keys: Sequence[str], results: Sequence[SimulationResult]) -> list[list[str]]:
    """Rows of what differs in nothing but the seed; none if seeds were not swept."""
    if "seed" not in keys:
        return []
    others = [key for key in keys if key != "seed"]
    groups: dict[tuple[str, ...], list[float]] = {}
    for result in results:
        if (end := headline(result)) is not None:
            groups.setdefault(tuple(shown(value_of(result.config, key)) for key in others), []).append(end.score)
    metric = _metric(results)
    return [
        [*options, str(len(values)), _plain(metric, statistics.fmean(values)), _deviation(metric, values)]
        for options, values in groups.items()
    ]


def _deviation(metric: str, values: Sequence[float]) -> str:
    return _plain(metric, statistics.stdev(values)) if len(values) > 1 else "-"


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown.

    Args:
        heading: of the columns.
        rows: of cells.

    Returns:
        The text.

    Example:
        >>> print(markdown_table(["rule", "accuracy"], [["lsgd", "97.2"]]), end="")
        | rule | accuracy |
        | --- | --- |
        | lsgd | 97.2 |
    """
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
