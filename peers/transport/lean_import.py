"""Importing a large package: a part of it without the rest, and without what its import does to the process."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Iterator


def import_lazily(name: str) -> None:
    """Make submodules of a package importable without its `__init__`, which imports all of them.

    The `__init__` runs as soon as something of the package itself is asked for, as `from NAME import Something` does;
    so
    other users of it in this process notice nothing. A package that is imported already stays as it is.

    Args:
        name: the package's import name; one that is not installed changes nothing.
    """
    spec = importlib.util.find_spec(name)  # imports nothing
    if name in sys.modules or spec is None or spec.loader is None:
        return
    package, loader, lock = importlib.util.module_from_spec(spec), spec.loader, threading.RLock()

    def missing(attribute: str) -> object:
        if attribute.startswith("__") and attribute != "__version__":  # asked of every module by inspect and others
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        submodule = sys.modules.get(f"{name}.{attribute}")
        if submodule is not None:  # it is still being imported: then it is no attribute yet
            return submodule
        with lock:  # another thread may be importing it
            if package.__dict__.pop("__getattr__", None) is not None:
                try:
                    loader.exec_module(package)
                except Exception:
                    package.__dict__["__getattr__"] = missing  # the next one hears the reason, too
                    raise
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = missing
    sys.modules[name] = package


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Import inside without hivemind's warnings and logging, which are not meant for users of this package.

    Returns:
        A context; HIVEMIND_LOGLEVEL in the environment leaves its logging on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    if "HIVEMIND_LOGLEVEL" not in os.environ:
        logging.getLogger("hivemind").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def untracked_locks() -> Iterator[None]:
    """Import inside with multiprocessing locks that have no name in the system.

    hivemind makes some when it is imported, which nobody here uses. Made for `fork`, they have no name. With the
    default of
    Python 3.14 and of macOS each would have one, and one more process would track them.

    Returns:
        A context; at its end the start method of before is set again.
    """
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)
