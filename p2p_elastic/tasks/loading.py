"""Tasks of the user's own: from a file, from a module, or from an installed package."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.base import Task

GROUP = "p2p_elastic.tasks"
"""The entry points by which an installed package brings tasks."""
FORMS = "package.module:TASK or ./file.py:TASK"


def is_place(text: str) -> bool:
    """Whether a text says where a task is, and not how it is called.

    Args:
        text: what the user gave.

    Returns:
        True for `package.module:TASK` and `./file.py:TASK`; a name has no colon.
    """
    return ":" in text


def load_task(text: str) -> Task:
    """Load the task that is at a place. Its code runs: never do this with a text that came from elsewhere.

    Args:
        text: `package.module:TASK` or `./file.py:TASK`; modules are looked for in the current folder, too.

    Returns:
        The task.

    Raises:
        ConfigError: if there is none, or its code fails; then with the line.
    """
    place, _, attribute = text.rpartition(":")
    with failing_code(text):
        module = _file(Path(place).expanduser(), text) if place.endswith(".py") else _module(place)
    return _checked(getattr(module, attribute, None), text, module)


def installed() -> dict[str, EntryPoint]:
    """List the tasks that installed packages bring.

    Returns:
        Entry points by the names of their tasks, sorted.
    """
    return dict(sorted((point.name, point) for point in entry_points(group=GROUP)))


def load_installed(point: EntryPoint) -> Task:
    """Load the task of an installed package.

    Args:
        point: its entry point.

    Returns:
        The task.

    Raises:
        ConfigError: if its code fails, or the task has another name than its entry point.
    """
    with failing_code(point.name):
        module = importlib.import_module(point.module)
        task = _checked(point.load(), point.value, module)
    if task.name != point.name:
        raise ConfigError("task", point.name, f"the task at {point.value} is called {task.name!r}: name both alike")
    return task


@contextlib.contextmanager
def failing_code(text: str) -> Iterator[None]:
    """Make an error of somebody's code one of a line, without a traceback.

    Args:
        text: of which task it is.

    Yields:
        None.

    Raises:
        ConfigError: instead of any other exception; it says file, line and what went wrong.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # whatever it may be
        raise ConfigError("task", text, _where(error)) from error


def _where(error: Exception) -> str:
    said = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()[-1]
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {said}"
    own = os.path.dirname(os.path.dirname(__file__))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    theirs = [f for f in frames if not f.filename.startswith((own, "<")) and "site-packages" not in f.filename]
    if not theirs:
        return said
    return f"{theirs[-1].filename}, line {theirs[-1].lineno}: {said}"


def _checked(found: object, text: str, module: ModuleType) -> Task:
    if isinstance(found, Task):
        return found
    there = ", ".join(name for name, value in vars(module).items() if isinstance(value, Task)) or "none"
    what = "nothing has that name" if found is None else f"that is a {type(found).__name__}, not a Task,"
    raise ConfigError("task", text, f"{what} in {module.__file__}; tasks there: {there}")


def _file(path: Path, text: str) -> ModuleType:
    """Run a file as a module of its own, once; what stands beside it can be imported by it."""
    path = path.resolve()
    if not path.is_file():
        raise ConfigError("task", text, f"there is no file {path}; give {FORMS}")
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"task_{abs(hash(path)):x}"
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    _look_in(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module(name: str) -> ModuleType:
    _look_in(Path.cwd())
    return importlib.import_module(name)


def _look_in(folder: Path) -> None:
    """Import from a folder, too: at last, so that nothing in it takes the place of what is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
