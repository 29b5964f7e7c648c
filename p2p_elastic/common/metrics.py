"""How a metric is shown, by its name: shares in percent, all else as a number."""

from __future__ import annotations

import re
from collections.abc import Mapping

SHARES = frozenset({"accuracy", "precision", "recall", "f1", "iou", "dice"})
"""Words in the names of metrics that are between 0 and 1."""


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
