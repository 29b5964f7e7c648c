"""What metrics are called, and how they are shown: shares in percent, all else as a number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import SupportsFloat

from p2p_elastic.errors import ConfigError

SHARES = frozenset({"accuracy", "precision", "recall", "f1", "iou", "dice"})
"""Words in the names of metrics that are between 0 and 1."""

METRIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+/-]{0,39}")
METRICS_MAX = 16


def check_metric_names(metrics: object) -> None:
    """Check that others can be shown these metrics.

    Args:
        metrics: should be a dict of values by name.

    Raises:
        ConfigError: if it is no dict, has too many, or has names that are none.
    """
    if not isinstance(metrics, Mapping) or len(metrics) > METRICS_MAX:
        got = len(metrics) if isinstance(metrics, Mapping) else type(metrics).__name__
        raise ConfigError("metrics", got, f"a dict of at most {METRICS_MAX}, perhaps empty")
    for name in metrics:
        if not _is_name(name):
            raise ConfigError("metrics", name, "names of letters, digits, spaces and ._@+/-, at most 40; not 'loss'")


def _is_name(name: object) -> bool:
    return isinstance(name, str) and METRIC.fullmatch(name) is not None and name != "loss"


def nameable_metrics(metrics: Mapping[str, SupportsFloat]) -> dict[str, SupportsFloat]:
    """Take what others can be shown of a trainer's metrics, whose names were not chosen for this.

    Args:
        metrics: values by any names.

    Returns:
        The first METRICS_MAX whose names will do; `check_metric_names` accepts them.

    Example:
        >>> nameable_metrics({"loss": 0.5, "val/accuracy": 0.75, "f1 (macro)": 0.5})
        {'val/accuracy': 0.75}
    """
    names = [name for name in metrics if _is_name(name)]
    return {name: metrics[name] for name in names[:METRICS_MAX]}


def finite_metrics(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """Take the metrics that a loop measured.

    Args:
        metrics: values by name.

    Returns:
        Those that are finite.

    Raises:
        ConfigError: if names are none, or there are too many.

    Example:
        >>> finite_metrics({"accuracy": 0.5, "perplexity": float("inf")})
        {'accuracy': 0.5}
    """
    check_metric_names(metrics)
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def is_share(name: str) -> bool:
    """Whether a metric is between 0 and 1.

    Args:
        name: of the metric.

    Returns:
        True if a word of it says so.

    Example:
        >>> is_share("top-5 accuracy"), is_share("perplexity")
        (True, False)
    """
    return not SHARES.isdisjoint(re.split(r"[^a-z0-9]+", name.lower()))


def value_text(name: str, value: float | None) -> str:
    """Show a value of a metric.

    Args:
        name: of the metric.
        value: None if it is not known.

    Returns:
        A text.

    Example:
        >>> value_text("accuracy", 0.9375), value_text("perplexity", 23.123), value_text("f1", None)
        ('93.75 %', '23.12', '-')
    """
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if is_share(name) else f"{value:.4g}"


def metrics_text(metrics: Mapping[str, float | None], otherwise: str = "") -> str:
    """Show metrics by their names.

    Args:
        metrics: values by name; None is one that is not known yet.
        otherwise: if there are none.

    Returns:
        A text.

    Example:
        >>> metrics_text({"accuracy": 0.5, "perplexity": 23.1})
        'accuracy 50.00 %, perplexity 23.1'
    """
    return ", ".join(f"{name} {value_text(name, value)}" for name, value in metrics.items()) or otherwise
