"""What a peer is about to train, in lines for people: what it takes over from the run, and what is its own."""

from __future__ import annotations

from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.training.settings import Settings


def describe_plan(manifest: RunManifest, settings: Settings | None) -> str:
    """Say what is taken over from a run, and how this peer's options differ.

    Args:
        manifest: of the run.
        settings: of this peer's training; None if it does not train.

    Returns:
        Several lines.
    """
    rows = {
        "task": manifest.task,
        "rule": f"{manifest.rule}, moving rate {manifest.moving_rate:g}",
        "exchanges": f"{manifest.schedule}{manifest.describe_global()}",
        "weighting": manifest.weighting,
        "codec": f"{manifest.codec}{manifest.describe_fragments()}",
    }
    if manifest.outer != "none":
        rows["outer"] = manifest.describe_outer().removeprefix("outer ")
    if settings is not None:
        momentum = _own(settings.momentum, manifest.defaults.momentum)
        rows |= {
            "optimizer": f"{settings.optimizer}, of each peer's own choice",
            "batch size": _own(settings.batch_size, manifest.defaults.batch_size),
            "learning rate": _own(settings.learning_rate, manifest.defaults.learning_rate),
            "momentum": momentum if settings.optimizer == "sgd" else f"none, as {settings.optimizer} has none",
        }
    lines = "\n".join(f"    {name:<15}{value}" for name, value in rows.items())
    return f"Taken over from run {manifest.run} of {manifest.founder}:\n{lines}"


def _own(value: float, of_run: float) -> str:
    return f"{value:g}" if value == of_run else f"{value:g} by this peer's options; the run's is {of_run:g}"
