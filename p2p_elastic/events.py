"""What happened lately, one line each: bounded, numbered, readable from any thread."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Literal

from pydantic import Field, JsonValue

from p2p_elastic.status import Frozen

EVENTS_KEPT = 200

Kind = Literal["exchange", "joined", "left", "weight", "trust", "signal", "centre", "leader", "drained", "resumed"]


class Event(Frozen):
    """One thing that happened at this peer."""

    id: int = Field(description="counts up from 1 since this peer started")
    at: float = Field(description="seconds since 1970, by this machine's clock; for people only")
    kind: Kind
    text: str = Field(description="what happened, for people")
    data: dict[str, JsonValue] = Field(default_factory=dict, description="the same for programs")


class EventLog:
    """The last events.

    Args:
        wall_clock: seconds since 1970, such as `time.time`.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._ids = itertools.count(1)
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    def add(self, kind: Kind, text: str, **data: JsonValue) -> None:
        """Write down that this happened now."""
        self._events.append(Event(id=next(self._ids), at=self._wall_clock(), kind=kind, text=text, data=data))

    def since(self, last_id: int) -> tuple[Event, ...]:
        """The kept events after that one, the oldest first; all for 0."""
        return tuple(event for event in tuple(self._events) if event.id > last_id)
