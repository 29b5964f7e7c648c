"""What a peer leaves in its output folder: its model and a summary."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from p2p_elastic.checkpoint.tensor_file import safetensors_chunks
from p2p_elastic.common.files import make_subfolder, output_file
from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.memory import region
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.status.schema import (
    NO_METRICS,
    CentreStatus,
    ExchangeTotals,
    FarewellStatus,
    JoiningStatus,
    LeaderStatus,
    Metrics,
)
from p2p_elastic.values import Frozen

MODEL_FILE, CENTRE_FILE, SUMMARY_FILE = "model.safetensors", "centre.safetensors", "summary.json"
BEFORE = "results-before"
log = logging.getLogger(__name__)


class Summary(Frozen):
    """What a peer leaves beside its model, in `summary.json`.

    Attributes:
        peer: its peer id.
        run: name of the run.
        task: what it trained.
        manifest: of the run.
        stopped: whether the user stopped it.
        steps: optimizer steps, of all its lives.
        seconds: that it took part, without loading and testing.
        test_accuracy: of its parameters on the test split, 0..1; None if there was no time for it.
        test_metrics: of the task, of its parameters on the test split, by name; empty if there was no time for it.
        test_loss: of its parameters on the test split, in nats; None if there was no time for it.
        validation_accuracy: of the last evaluation while it trained, 0..1.
        validation_metrics: of the last evaluation while it trained, by name.
        training_loss: mean of the last steps, in nats.
        centre: how it saw the centre variable; None for rules without one.
        centre_test_accuracy: of the centre variable, 0..1.
        centre_test_metrics: of the centre variable, by name.
        leaders: which peers led; None for rules without leaders.
        joining: how it caught up with the run; None for a founder.
        exchanges: how many there were, by outcome, and their bytes.
        farewell: how it left; None if that failed.
        model: path of its model.
    """

    peer: str
    run: str
    task: str
    manifest: RunManifest
    stopped: bool
    steps: int
    seconds: float
    test_accuracy: float | None
    test_metrics: Metrics = NO_METRICS
    test_loss: float | None
    validation_accuracy: float | None
    validation_metrics: Metrics = NO_METRICS
    training_loss: float | None
    centre: CentreStatus | None = None
    centre_test_accuracy: float | None = None
    centre_test_metrics: Metrics = NO_METRICS
    leaders: LeaderStatus | None = None
    joining: JoiningStatus | None = None
    exchanges: ExchangeTotals
    farewell: FarewellStatus | None = None
    model: str


def output_folder(asked: Path | None, run: str, peer: str) -> Path:
    """Make the folder for a peer's results.

    Args:
        asked: what the user named; None makes up a name.
        run: name of the run.
        peer: peer id.

    Returns:
        The folder.

    Raises:
        ConfigError: if it cannot be written.
    """
    folder = asked or Path("runs") / f"{run}-{peer[-8:]}"
    check_writable(folder)
    return folder


def check_writable(folder: Path) -> None:
    """Make the folder for the results, and try to write there now: not after hours of training.

    Args:
        folder: it need not exist.

    Raises:
        ConfigError: if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError("output", str(folder), f"cannot be written: {error.strerror}") from error


def set_aside(folder: Path) -> None:
    """Keep the results of the run before in a folder of their own, unless results of more steps are kept there.

    To be called before the first result of a run is written. If a crash left some of them here and some there, the rest
    follows.

    Args:
        folder: with the results.

    Raises:
        ConfigError: if they cannot be moved.
    """
    before = folder / BEFORE
    there = [name for name in (MODEL_FILE, CENTRE_FILE, SUMMARY_FILE) if (folder / name).is_file()]
    if not there or _steps_in(before) > _steps_in(folder):
        return
    half_way = MODEL_FILE not in there and not (before / SUMMARY_FILE).exists()
    try:
        make_subfolder(before)
        for name in () if half_way else (SUMMARY_FILE, CENTRE_FILE, MODEL_FILE):
            (before / name).unlink(missing_ok=True)
        for name in there:
            os.replace(folder / name, before / name)
    except OSError as error:
        raise ConfigError("output", str(before), f"cannot be written: {error.strerror}") from error
    log.warning("the results of the run before are in %s now", before)


def _steps_in(folder: Path) -> int:
    """Read the steps of the run whose summary is there; -1 if none is."""
    try:
        return int(json.loads((folder / SUMMARY_FILE).read_bytes())["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def save_model(
    model: nn.Module, folder: Path, name: str = MODEL_FILE, replaced: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Write a model as `safetensors.torch.load_model` reads it: of tied parameters once.

    That function cannot read a model with ties that are not contiguous, such as transposed ones. These are written
    under each name, for `load_state_dict`.

    Args:
        model: on any device.
        folder: that exists.
        name: of the file.
        replaced: by their names in the `state_dict`, what is written in the place of the model's own tensors.

    Raises:
        ConfigError: if it cannot be written.
    """
    save_tensors({**model.state_dict(), **replaced}, folder, name)


def save_tensors(tensors: Mapping[str, Tensor], folder: Path, name: str) -> None:
    """Write tensors by their names.

    Args:
        tensors: on any device; of those that are the same memory, one.
        folder: that exists.
        name: of the file.

    Raises:
        ConfigError: if it cannot be written.
    """
    state, ties, kept = dict[str, Tensor](), dict[str, str](), dict[object, str]()
    for key, tensor in tensors.items():
        first = kept.setdefault(region(tensor) or key, key) if tensor.is_contiguous() else key
        if first == key:
            state[key] = tensor.detach().cpu().contiguous()
        else:
            ties[key] = first
    with output_file(folder / name) as file:
        file.writelines(safetensors_chunks(state, {"format": "pt", **ties}))


def save_summary(summary: Summary, folder: Path) -> None:
    """Write `summary.json`.

    Args:
        summary: of the peer.
        folder: that exists.

    Raises:
        ConfigError: if it cannot be written.
    """
    save_json(summary, folder / SUMMARY_FILE)


def save_json(value: Frozen, target: Path) -> None:
    """Write a value as a JSON file.

    Args:
        value: to write.
        target: the file.

    Raises:
        ConfigError: if it cannot be written.
    """
    with output_file(target) as file:
        file.write(value.model_dump_json(indent=2).encode() + b"\n")
