"""A result on disk: `result.json`, which reads back, and `curve.csv`, one row per evaluation."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from p2p_elastic.common.files import output_file
from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator.config import SimulationResult

RESULT_FILE, CURVE_FILE = "result.json", "curve.csv"


class Headline(NamedTuple):
    """How a simulation ended, in one line: values of the task's first metric, or of the loss if it has none.

    Attributes:
        metric: its name.
        score: of what the method would deliver: the centre, or the average.
        average: of the averaged parameters.
        centre: of the centre variable; None if there is none.
        first: of the first worker, "rank 0" in the papers.
        lowest: of all workers.
        median: of all workers.
        highest: of all workers.
        consensus_distance: root mean square L2 distance of the workers to their average.
        exchanges: of all workers.
        bytes_per_worker: sent, mean over workers.
    """

    metric: str
    score: float
    average: float
    centre: float | None
    first: float
    lowest: float
    median: float
    highest: float
    consensus_distance: float
    exchanges: int
    bytes_per_worker: float


def headline(result: SimulationResult) -> Headline | None:
    """Sum up the last evaluation.

    Args:
        result: of a simulation.

    Returns:
        The line; None if there was no evaluation.
    """
    if not result.points:
        return None
    last = result.points[-1]
    score = last.score
    return Headline(
        metric=last.score_name,
        score=score.delivered,
        average=score.average,
        centre=score.centre,
        first=score.workers[0],
        lowest=min(score.workers),
        median=statistics.median(score.workers),
        highest=max(score.workers),
        consensus_distance=last.consensus_distance,
        exchanges=last.exchanges,
        bytes_per_worker=last.bytes_per_worker,
    )


def to_json(result: SimulationResult) -> str:
    """Write a result as JSON of the strict kind: what is not finite (a simulation that diverged) is null.

    Args:
        result: of a simulation.

    Returns:
        The text.
    """
    return json.dumps(finite(result.model_dump(mode="json")), indent=2) + "\n"


def from_json(text: str | bytes) -> SimulationResult:
    """Read the result that `to_json` wrote; null is NaN if there has to be a number.

    Args:
        text: the JSON.

    Returns:
        The result.

    Raises:
        ValueError: if it is no result of a simulation.
    """
    document = json.loads(text)
    try:
        for point in document["points"]:
            point["consensus_distance"] = _number(point["consensus_distance"])
            every = point.get("metrics", {}).values()
            has_centre = any(scores["centre"] is not None for scores in every)
            for scores in every:
                scores["average"] = _number(scores["average"])
                scores["centre"] = _number(scores["centre"]) if has_centre else None
                scores["workers"] = [_number(value) for value in scores["workers"]]
        return SimulationResult.model_validate(document)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no result of a simulation: {error!r}") from error


def write_result(result: SimulationResult, folder: Path) -> None:
    """Leave `result.json` and `curve.csv` in a folder. `result.json` comes last: it says "finished".

    Args:
        result: of a simulation.
        folder: is made if it is missing.
    """
    write_text(folder / CURVE_FILE, curve_csv(result))
    write_text(folder / RESULT_FILE, to_json(result))


def read_result(folder: Path) -> SimulationResult:
    """Read the result in a folder.

    Args:
        folder: with a `result.json`.

    Returns:
        The result.

    Raises:
        ConfigError: if there is none, or it is damaged.
    """
    path = folder / RESULT_FILE
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError("result", str(path), f"cannot be read: {error.strerror}") from error
    except (ConfigError, ValidationError, ValueError) as error:
        raise ConfigError("result", str(path), "no result of a simulation of this version; run it again") from error


def curve_csv(result: SimulationResult) -> str:
    """Write one row per evaluation; metrics by their names, empty if there is no value.

    Args:
        result: of a simulation.

    Returns:
        The CSV.
    """
    workers, names = result.config.workers, list(result.points[0].metrics) if result.points else ["accuracy"]
    heading = ["step", "epoch", "exchanges", "bytes_per_worker", "training_loss", f"average_{names[0]}"]
    heading += [f"centre_{names[0]}", "consensus_distance", *(f"{names[0]}_{i}" for i in range(1, workers + 1))]
    heading += [f"{which}_{name}" for name in names[1:] for which in ("average", "centre")]
    rows: list[list[object]] = [
        [
            point.step,
            f"{point.epoch:.6g}",
            point.exchanges,
            f"{point.bytes_per_worker:.0f}",
            "" if point.training_loss is None else point.training_loss,
            point.score.average,
            "" if point.score.centre is None else point.score.centre,
            point.consensus_distance,
            *point.score.workers,
            *(v for name in names[1:] for v in (point.metrics[name].average, point.metrics[name].centre or "")),
        ]
        for point in result.points
    ]
    return csv_text([list(heading), *rows])


def csv_text(rows: list[list[object]]) -> str:
    r"""Write rows as CSV.

    Args:
        rows: of cells, the heading first.

    Returns:
        The text, with line feeds.

    Example:
        >>> csv_text([["rule", "seed"], ["lsgd", 1]])
        'rule,seed\nlsgd,1\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_text(target: Path, text: str) -> None:
    """Write a file so that a crash in the middle leaves the previous one whole. A ConfigError says why it cannot be.

    Args:
        target: its path; folders are made.
        text: its content, written as UTF-8.
    """
    with output_file(target, make_folder=True) as file:
        file.write(text.encode())


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def finite(value: Any) -> Any:
    """Replace by null what JSON has no number for.

    Args:
        value: numbers, texts, and lists and dictionaries of them.

    Returns:
        The same with None for each number that is not finite.

    Example:
        >>> finite({"loss": math.inf, "steps": [1, 2.5]})
        {'loss': None, 'steps': [1, 2.5]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value
