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
    """How a simulation ended, in one line. Accuracies are shares, 0..1."""

    accuracy: float  # of what the method would deliver: the centre, or the average
    average: float
    centre: float | None
    first: float  # of the first worker, "rank 0" in the papers
    lowest: float
    median: float
    highest: float
    consensus_distance: float
    exchanges: int
    bytes_per_worker: float


def headline(result: SimulationResult) -> Headline | None:
    """The last evaluation; None where there was none."""
    if not result.points:
        return None
    last = result.points[-1]
    return Headline(
        accuracy=last.accuracy,
        average=last.average_accuracy,
        centre=last.centre_accuracy,
        first=last.accuracies[0],
        lowest=min(last.accuracies),
        median=statistics.median(last.accuracies),
        highest=max(last.accuracies),
        consensus_distance=last.consensus_distance,
        exchanges=last.exchanges,
        bytes_per_worker=last.bytes_per_worker,
    )


def to_json(result: SimulationResult) -> str:
    """A result as JSON of the strict kind: what is not finite (a simulation that diverged) is null."""
    return json.dumps(finite(result.model_dump(mode="json")), indent=2) + "\n"


def from_json(text: str | bytes) -> SimulationResult:
    """The result that `to_json` wrote; null is NaN where there has to be a number. Raises ValueError."""
    document = json.loads(text)
    try:
        for point in document["points"]:
            for key in ("consensus_distance", "average_accuracy"):
                point[key] = _number(point[key])
            point["accuracies"] = [_number(accuracy) for accuracy in point["accuracies"]]
        return SimulationResult.model_validate(document)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no result of a simulation: {error!r}") from error


def write_result(result: SimulationResult, folder: Path) -> None:
    """Leave `result.json` and `curve.csv` in `folder`, which is made. `result.json` comes last: it says "finished"."""
    write_text(folder / CURVE_FILE, curve_csv(result))
    write_text(folder / RESULT_FILE, to_json(result))


def read_result(folder: Path) -> SimulationResult:
    """The result in a folder. Raises ConfigError where there is none, or it is damaged."""
    path = folder / RESULT_FILE
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError("result", str(path), f"cannot be read: {error.strerror}") from error
    except (ConfigError, ValidationError, ValueError) as error:
        raise ConfigError("result", str(path), "no result of a simulation of this version; run it again") from error


def curve_csv(result: SimulationResult) -> str:
    """One row per evaluation; accuracies as shares, empty where there is no value."""
    workers = result.config.workers
    heading = ["step", "epoch", "exchanges", "bytes_per_worker", "training_loss", "average_accuracy"]
    heading += ["centre_accuracy", "consensus_distance", *(f"accuracy_{i}" for i in range(1, workers + 1))]
    rows: list[list[object]] = [
        [
            point.step,
            f"{point.epoch:.6g}",
            point.exchanges,
            f"{point.bytes_per_worker:.0f}",
            "" if point.training_loss is None else point.training_loss,
            point.average_accuracy,
            "" if point.centre_accuracy is None else point.centre_accuracy,
            point.consensus_distance,
            *point.accuracies,
        ]
        for point in result.points
    ]
    return csv_text([list(heading), *rows])


def csv_text(rows: list[list[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_text(target: Path, text: str) -> None:
    """Write a file so that a crash in the middle leaves the previous one whole. Raises ConfigError."""
    with output_file(target, make_folder=True) as file:
        file.write(text.encode())


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value
