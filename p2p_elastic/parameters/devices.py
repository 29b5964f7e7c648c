"""The devices that a model can train on."""

from __future__ import annotations

import logging
import os

import pynvml
import torch

from p2p_elastic.common.platforms import Build, unused_gpu
from p2p_elastic.errors import ConfigError

log = logging.getLogger(__name__)


def _nvidia_gpus() -> int:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # hidden on purpose
        return 0
    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:  # no driver
        return 0


def build_here() -> Build:
    """Describe the PyTorch that is installed and the GPUs that it could use.

    Returns:
        Its version, its CUDA version, whether CUDA works, and how many NVIDIA GPUs the driver shows.
    """
    return Build(torch.__version__, torch.version.cuda, torch.cuda.is_available(), _nvidia_gpus())


def choose_device(name: str) -> torch.device:
    """Choose the device to train on.

    Args:
        name: "cpu", "cuda", "mps", or "auto" for the best that is available.

    Returns:
        The device. For "auto" a GPU that PyTorch cannot use is logged as a warning.

    Raises:
        ConfigError: if PyTorch does not have that device here; it names those it has.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        best = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
        if best == "cpu" and (build := build_here()).gpus and (unused := unused_gpu(build)) is not None:
            log.warning("%s; %s", *unused)
        return torch.device(best)
    if not available.get(name, False):
        there = ", ".join(kind for kind, here in available.items() if here)
        unused = unused_gpu(build_here()) if name == "cuda" else None
        why = "" if unused is None else f". {unused.text}; {unused.advice}"
        raise ConfigError("device", name, f"not available to PyTorch on this machine; there is: {there}{why}")
    return torch.device(name)
