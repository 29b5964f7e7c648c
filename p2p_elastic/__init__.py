"""Trains one PyTorch model on many unequal machines, with no server."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("p2p-elastic")
except PackageNotFoundError:  # a clone that was not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
