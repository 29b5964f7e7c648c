"""What is computed once in a run of the tests, whichever of its processes needs it first."""

from __future__ import annotations

import fcntl
import functools
import pickle
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Shared:
    """Where results are kept: a folder of the processes of one run of the tests. None: each computes for itself."""

    folder: Path | None = None


def once(compute: Callable[[K], T]) -> Callable[[K], T]:
    """`compute`, called once for each argument; its name and the argument's text name the result."""

    @functools.cache
    def computed(argument: K) -> T:
        folder = Shared.folder
        if folder is None:
            return compute(argument)
        kept = folder / f"{compute.__name__} {argument}"
        with open(f"{kept}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits for the result
            if not kept.exists():
                result = compute(argument)  # where this fails nothing is kept
                kept.write_bytes(pickle.dumps(result))
            found: T = pickle.loads(kept.read_bytes())
            return found

    return computed
