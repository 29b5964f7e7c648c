"""Memory that is bounded, whatever other peers do."""

from __future__ import annotations

from typing import Any


def forget_oldest(known: dict[Any, Any], most: int) -> None:
    """Remove all entries but the `most` that were put in last.

    Args:
        known: changed in place.
        most: entries that stay.

    Example:
        >>> known = {"a": 1, "b": 2, "c": 3}
        >>> forget_oldest(known, 2)
        >>> known
        {'b': 2, 'c': 3}
    """
    while len(known) > most:
        del known[next(iter(known))]
