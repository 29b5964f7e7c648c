"""On what a model trains."""

from __future__ import annotations

import torch

from p2p_elastic.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device to train on; auto takes the best there is. Raises ConfigError."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name, False):
        there = ", ".join(kind for kind, here in available.items() if here)
        raise ConfigError("device", name, f"not available to PyTorch on this machine; there is: {there}")
    return torch.device(name)
