"""Trains one PyTorch model on many unequal machines, with no server."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

try:
    __version__ = version("p2p-elastic")
except PackageNotFoundError:  # a clone that was not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from p2p_elastic.node.own_loop import Stepped
    from p2p_elastic.swarm import Swarm

__all__ = ["Stepped", "Swarm", "__version__"]
_PUBLIC = {"Stepped": "p2p_elastic.node.own_loop", "Swarm": "p2p_elastic.swarm"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `import p2p_elastic` alone loads nothing heavy."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = found
    return found
