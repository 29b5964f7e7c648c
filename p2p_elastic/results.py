"""What a peer leaves behind: its model and a summary."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.manifest import RunManifest
from p2p_elastic.status import CentreStatus, ExchangeTotals, FarewellStatus, Frozen, JoiningStatus, LeaderStatus
from p2p_elastic.vector import ParameterVector

MODEL_FILE, CENTRE_FILE, SUMMARY_FILE = "model.safetensors", "centre.safetensors", "summary.json"


class Summary(Frozen):
    """What a peer leaves behind, beside its model."""

    peer: str
    run: str
    task: str
    manifest: RunManifest
    stopped: bool
    steps: int
    seconds: float
    test_accuracy: float | None
    test_loss: float | None
    validation_accuracy: float | None
    training_loss: float | None
    centre: CentreStatus | None = None
    centre_test_accuracy: float | None = None
    leaders: LeaderStatus | None = None
    joining: JoiningStatus | None = None
    exchanges: ExchangeTotals
    farewell: FarewellStatus | None = None
    model: str


def output_folder(asked: Path | None, run: str, peer: str) -> Path:
    """The folder for a peer's results, made. Raises ConfigError where it cannot be written."""
    folder = asked or Path("runs") / f"{run}-{peer[-8:]}"
    check_writable(folder)
    return folder


def check_writable(folder: Path) -> None:
    """Make the folder for the results, and try it now: not after hours of training. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError("output", str(folder), f"cannot be written: {error.strerror}") from error


def save_model(model: nn.Module, folder: Path, name: str = MODEL_FILE) -> None:
    """Write the model into `folder`, as `safetensors.torch.load_model` reads it: of tied parameters once."""
    state, ties, kept = dict[str, Tensor](), dict[str, str](), dict[object, str]()
    for key, tensor in model.state_dict().items():
        first = kept.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), key) if tensor.numel() else key
        if first == key:
            state[key] = tensor.detach().clone(memory_format=torch.contiguous_format)  # out of a storage that is shared
        else:
            ties[key] = first
    _write(folder / name, lambda path: safetensors.torch.save_file(state, str(path), {"format": "pt", **ties}))


def save_values(model: nn.Module, values: Tensor, folder: Path, name: str) -> None:
    """Write a model like `model` with the parameters `values` [D] into `folder`."""
    other = copy.deepcopy(model)
    ParameterVector(other).load_(values)
    save_model(other, folder, name)


def save_summary(summary: Summary, folder: Path) -> None:
    """Write the summary into `folder`."""
    save_json(summary, folder / SUMMARY_FILE)


def save_json(value: Frozen, target: Path) -> None:
    """Write a value as a JSON file."""
    _write(target, lambda path: path.write_text(value.model_dump_json(indent=2) + "\n"))


def _write(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a failure in the middle leaves the previous one whole. Raises ConfigError."""
    unfinished = target.with_name(f".{target.name}.part")
    try:
        write(unfinished)
        os.replace(unfinished, target)
    except (OSError, SafetensorError) as error:  # safetensors hides the OSError in one of its own
        with contextlib.suppress(OSError):
            unfinished.unlink()
        again = f"once it can, give the command again (join: with --resume {target.parent})"
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError("output", str(target), f"cannot be written: {reason}; {again}") from error
