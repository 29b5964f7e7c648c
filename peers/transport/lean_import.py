"""Importing a part of a large package without the rest of it."""

from __future__ import annotations

import importlib.util
import sys
import threading


def import_lazily(name: str) -> None:
    """Make submodules of the package `name` importable without running its `__init__`, which imports all of them.

    That runs as soon as something of the package itself is asked for, as `from NAME import Something` does; so other
    users of it in this process notice nothing. A package that is imported already stays as it is.
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
