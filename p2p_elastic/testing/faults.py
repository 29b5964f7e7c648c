"""Faults of a simulated network: the events that it is asked about, and its verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol


class Verdict(NamedTuple):
    """What the network does with one piece, or with the opening of a stream.

    Attributes:
        action: pass: it arrives. cut: the stream breaks, both ends see it. corrupt: it arrives changed. silence: it and
            all that follows in this direction vanish, and nobody is told.
        seconds: until it arrives.
    """

    action: Literal["pass", "cut", "corrupt", "silence"] = "pass"
    seconds: float = 0.001


Kind = Literal["open", "piece", "connect", "announce", "record"]
"""A stream opened, a piece sent, a direct connection dialled, a record announced, or a record read."""


class Event(NamedTuple):
    """What a verdict is asked about.

    Attributes:
        source: the peer that sends, opens or announces, or whose record is read.
        target: the peer that receives or reads; `*` for an announcement.
        kind: what happens.
        nbytes: of the piece; otherwise 0.
        number: of the piece in its direction of the stream, from 0.
        now: virtual seconds.
    """

    source: str
    target: str
    kind: Kind
    nbytes: int
    number: int
    now: float


Judge = Callable[[Event], Verdict]


class Judging(Protocol):
    """What a stream needs of its network."""

    def verdict(self, source: str, target: str, kind: Kind, **about: int) -> Verdict:
        """Ask for the verdict on one event, and count it if it is a fault.

        Args:
            source: as in `Event`.
            target: as in `Event`.
            kind: as in `Event`.
            **about: `nbytes` and `number` of `Event`, of a piece.

        Returns:
            The verdict.
        """
