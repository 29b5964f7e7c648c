"""The picture of to_accuracy.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"ours": "C2", "hivemind-local": "C0", "hivemind-gradients": "C4", "all-reduce": "C1"}


def plot(runs: list[dict[str, Any]], target: float, file: Path) -> None:
    """The median peer's accuracy over time and over bytes, one line per run; the moments when it was reached."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True)
    for axis, key, unit, label in (
        (axes[0], "seconds", 1.0, "seconds since all peers train"),
        (axes[1], "bytes_per_peer", 1e6, "MB sent per peer since then, with all headers"),
    ):
        for run in runs:
            system, curve = run["system"], run["curve"]
            known = system in axis.get_legend_handles_labels()[1]
            colour = COLOURS[system]
            points = [point[key] / unit for point in curve]
            axis.plot(points, [100 * point["median"] for point in curve], colour, label=None if known else system)
            if run["reached"] is not None:
                axis.plot(run["reached"][key] / unit, 100 * target, "o", color=colour)
        axis.axhline(100 * target, color="grey", linewidth=0.8, linestyle=":")
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(max(0.0, 100 * target - 12), 100)
    axes[0].set_ylabel("test accuracy of the median peer, %")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
