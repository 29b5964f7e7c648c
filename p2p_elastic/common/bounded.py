"""Memory that is bounded, whatever others do."""

from __future__ import annotations

from typing import Any


def forget_oldest(known: dict[Any, Any], most: int) -> None:
    """Keep `most` entries, those that were put in last.

    >>> known = {"a": 1, "b": 2, "c": 3}
    >>> forget_oldest(known, 2)
    >>> known
    {'b': 2, 'c': 3}
    """
    while len(known) > most:
        del known[next(iter(known))]
