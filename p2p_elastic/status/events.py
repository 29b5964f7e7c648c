"""The log of what happened lately, one line each: bounded, numbered, readable from any thread."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, get_args

from pydantic import Field, JsonValue

from p2p_elastic.values import Frozen

EVENTS_KEPT = 100  # of each kind: exchanges and changes of weight are many, and must not push out the others

Membership = Literal["joined", "left", "suspect", "dead", "alive"]
Kind = Literal[
    "exchange",
    Membership,
    "weight",
    "trust",
    "signal",
    "centre",
    "leader",
    "drained",
    "resumed",
    "partition",
    "healed",
    "duplicate",
    "undone",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Event(Frozen):
    """One thing that happened at this peer."""

    id: int = Field(description="counts up from 1 since this peer started")
    at: float = Field(description="seconds since 1970, by this machine's clock; for people only")
    kind: Kind = Field(description="what it is about; each kind keeps its own last ones")
    text: str = Field(description="what happened, for people")
    data: dict[str, JsonValue] = Field(default_factory=dict, description="the same for programs")


class EventLog:
    """The last events of each kind.

    Args:
        wall_clock: seconds since 1970, such as `time.time`.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._ids = itertools.count(1)
        self._kept: dict[Kind, deque[Event]] = {kind: deque(maxlen=EVENTS_KEPT) for kind in KINDS}
        self._lock = threading.Lock()  # no reader sees an event before one with a smaller number

    def add(self, kind: Kind, text: str, **data: JsonValue) -> None:
        """Write down that something happened now.

        Args:
            kind: what it is about.
            text: what happened, for people.
            **data: the same for programs.
        """
        with self._lock:
            event = Event(id=next(self._ids), at=self._wall_clock(), kind=kind, text=text, data=data)
            self._kept[kind].append(event)

    def since(self, last_id: int) -> tuple[Event, ...]:
        """Read the kept events after one.

        Args:
            last_id: of the last event that the reader has; 0: it has none.

        Returns:
            The events, the oldest first.

        Example:
            >>> log = EventLog(wall_clock=lambda: 0.0)
            >>> log.add("joined", "b joined", peer="b")
            >>> [(event.id, event.text) for event in log.since(0)], log.since(1)
            ([(1, 'b joined')], ())
        """
        with self._lock:
            later = [event for kept in self._kept.values() for event in kept if event.id > last_id]
        return tuple(sorted(later, key=lambda event: event.id))
