"""Pictures of one or several results. Needs matplotlib, an optional extra; draws to files, never to a screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from p2p_elastic.common.files import output_file
from p2p_elastic.common.metrics import is_share
from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator.config import Point, SimulationResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours without yellow, which is too pale for a line: distinct for colour-blind eyes and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))
PICTURES = ("accuracy-steps", "accuracy-bytes", "consensus-steps")
LEGEND_MAX = 16  # a reader cannot tell more lines apart
MARKED_POINTS_MAX = 12
DPI = 110
WIDTH, HEIGHT, LEGEND_ROW = 7.2, 4.6, 0.19  # inches; every row of the legend adds to the height
MEGA, GIGA = 1e6, 1e9
TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 100)  # of an accuracy axis, %
COARSE_TICKS = (0, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 98, 99)
ERROR_OFFSET = 0.2  # %: keeps an accuracy of 100 % on the axis

Quantity = Callable[[Point], float]


class Series(NamedTuple):
    """A result and what to call it.

    Attributes:
        label: equal labels (other seeds, say) share a colour and an entry in the legend.
        result: its points are drawn.
        colour: place in COLOURS; None: the next that is free.
        style: place in STYLES.
    """

    label: str
    result: SimulationResult
    colour: int | None = None
    style: int = 0


def require_matplotlib() -> None:
    """Check that matplotlib is installed: now, not after hours of simulating.

    Raises:
        ConfigError: if it is not.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "plots", "no matplotlib", "pip install 'p2p-elastic[plots]', or leave plots out with --no-plots"
        ) from error


def draw(
    series: Sequence[Series],
    folder: Path,
    *,
    title: str = "",
    stem: str = "",
    form: str = "png",
    which: Sequence[str] = PICTURES,
) -> list[Path]:
    """Draw pictures of results.

    A picture that would be empty is left out: no bytes if no worker communicates, no distance if there is one worker.

    Args:
        series: what is drawn; results without points are left out.
        folder: receives the files; it is made if it is missing.
        title: above each picture.
        stem: with which file names begin, as in STEMaccuracy-steps.png.
        form: file format by its extension, such as "png" or "svg".
        which: names of PICTURES.

    Returns:
        The files.

    Raises:
        ConfigError: if there is no matplotlib, or the folder cannot be written.
    """
    require_matplotlib()
    series = [one for one in series if one.result.points]
    painters = dict(zip(PICTURES, (_against_steps, _against_bytes, _consensus), strict=True))
    files = []
    for name in which:
        figure = painters[name](series, title) if series else None
        if figure is not None:
            files.append(_save(figure, folder / f"{stem}{name}.{form}"))
    return files


# -- the pictures -----------------------------------------------------------------------------------------------------


def _against_steps(series: Sequence[Series], title: str) -> Figure:
    figure, axes = _figure(title, "optimizer steps of each worker", _axis_name(series))
    only = series[0] if len(series) == 1 else None
    if only is not None:
        steps = [point.step for point in only.result.points]
        lowest, highest = ([_scale(p) * of(p.score.workers) for p in only.result.points] for of in (min, max))
        axes.fill_between(
            steps, lowest, highest, color=COLOURS[0], alpha=0.2, linewidth=0, label="workers, lowest to highest"
        )
    _lines(axes, series, lambda point: point.step, _score)
    _score_axis(axes, series)
    _legend(figure, axes)
    return figure


def _against_bytes(series: Sequence[Series], title: str) -> Figure | None:
    sending = [one for one in series if one.result.points[-1].bytes_per_worker > 0]
    if not sending:
        return None
    sent = [p.bytes_per_worker for one in sending for p in one.result.points]
    unit, name = (GIGA, "GB") if max(sent) >= 10 * GIGA else (MEGA, "MB")
    figure, axes = _figure(title, f"sent by each worker so far, {name}", _axis_name(series))
    axes.set_xscale("log")
    _lines(axes, series, lambda p: _positive(p.bytes_per_worker / unit), _score, still=True)
    _plain_logarithmic(axes.xaxis, [value / unit for value in sent])
    _score_axis(axes, series)
    _legend(figure, axes)
    return figure


def _consensus(series: Sequence[Series], title: str) -> Figure | None:
    apart = [one for one in series if any(_positive(p.consensus_distance) > 0 for p in one.result.points)]
    if not apart:
        return None
    figure, axes = _figure(title, "optimizer steps of each worker", "consensus distance (L2)")
    axes.set_yscale("log")
    _lines(axes, series, lambda point: point.step, lambda p: _positive(p.consensus_distance))
    _plain_logarithmic(axes.yaxis, [p.consensus_distance for one in apart for p in one.result.points])
    _legend(figure, axes)
    return figure


def _scale(point: Point) -> float:
    return 100.0 if is_share(point.score_name) else 1.0


def _score(point: Point) -> float:
    return _scale(point) * point.score.delivered


def _axis_name(series: Sequence[Series]) -> str:
    name = series[0].result.points[0].score_name
    return f"test {name}{', %' if is_share(name) else ''}"


def _positive(value: float) -> float:
    """`value`, or NaN if a logarithmic axis has no place for it."""
    return value if value > 0 and math.isfinite(value) else math.nan


# -- their parts ------------------------------------------------------------------------------------------------------


def _figure(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(WIDTH, HEIGHT), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)  # type: ignore[union-attr, call-arg]
    axes = figure.add_subplot()
    axes.set(xlabel=across, ylabel=up)
    if title:
        axes.set_title(title, fontsize=11)
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _lines(axes: Axes, series: Sequence[Series], across: Quantity, up: Quantity, *, still: bool = False) -> None:
    """A line for each result. With `still`, one that never moves across is a level line at its last value."""
    numbers: dict[str, int] = {}
    for one in series:
        points = one.result.points
        new = one.label not in numbers
        number = numbers.setdefault(one.label, len(numbers))
        style, colour = divmod(number, len(COLOURS)) if one.colour is None else (one.style, one.colour)
        look: dict[str, Any] = {
            "color": COLOURS[colour % len(COLOURS)],
            "linestyle": STYLES[style % len(STYLES)],
            "linewidth": 1.7,
            "label": one.label if new else "_again",
        }
        x, y = [across(point) for point in points], [up(point) for point in points]
        if still and all(math.isnan(value) for value in x):
            axes.axhline(y[-1], **(look | {"linewidth": 1.0, "label": f"{one.label} (sends nothing)" if new else ""}))
            continue
        few = sum(map(math.isfinite, y)) <= MARKED_POINTS_MAX
        axes.plot(x, y, marker="o" if few else "", markersize=4, **look)


def _score_axis(axes: Axes, series: Sequence[Series]) -> None:
    """Of shares logarithmic in the error, so that 98 and 99 % are as far apart as 80 and 90."""
    if not is_share(series[0].result.points[0].score_name):
        return
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    def there(accuracy: Any) -> Any:
        return -np.log10(np.maximum(100 - np.asarray(accuracy, dtype=float), 0) + ERROR_OFFSET)

    def back(value: Any) -> Any:
        return 100 + ERROR_OFFSET - 10.0 ** -np.asarray(value, dtype=float)

    seen = [100 * a for one in series for p in one.result.points for a in (p.score.delivered, *_workers(series, p))]
    seen = [value for value in seen if math.isfinite(value)] or [0.0, 100.0]
    low, high = there(min(seen)), there(max(seen))
    margin = max(0.06 * (high - low), 0.01)
    axes.set_yscale("function", functions=(there, back))
    axes.set_ylim(float(back(low - margin)), min(100.0, float(back(high + margin))))
    ticks = TICKS if max(seen) > 95 else COARSE_TICKS
    axes.yaxis.set_major_locator(FixedLocator(_spread(ticks, low - margin, high + margin, there)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))


def _plain_logarithmic(axis: Any, values: Sequence[float]) -> None:
    """Numbers at 1, 2, 5, 10, ..., fewer or more by how many decades are shown; no exponents within reason."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    seen = [value for value in values if _positive(value) > 0]
    decades = math.log10(max(seen) / min(seen))
    fine = (1.0, 2.0, 3.0, 4.0, 6.0) if decades < 1.0 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=fine if decades < 2.5 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _workers(series: Sequence[Series], point: Point) -> tuple[float, ...]:
    return point.score.workers if len(series) == 1 else ()


def _spread(ticks: Sequence[float], low: float, high: float, there: Callable[[Any], Any]) -> list[float]:
    """Those of the ticks that are inside; round numbers in between if that leaves fewer than three."""
    inside = [tick for tick in ticks if low <= there(tick) <= high]
    for size in (10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05):
        if len(inside) >= 3:
            break
        inside = [tick for tick in np.round(np.arange(0, 100 + size, size), 2) if low <= there(tick) <= high]
    return inside


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend below the picture: there is no data."""
    handles, labels = axes.get_legend_handles_labels()
    if not 1 < len(labels) <= LEGEND_MAX:
        return
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), 4, 88 // (longest + 8)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3)
    figure.set_size_inches(WIDTH, HEIGHT + LEGEND_ROW * math.ceil(len(labels) / columns))


def _save(figure: Figure, path: Path) -> Path:
    with output_file(path, make_folder=True) as file:
        figure.savefig(file, dpi=DPI, format=path.suffix.removeprefix("."))
    return path
