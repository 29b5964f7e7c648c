"""Members that said goodbye themselves: no record from before it brings them back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from p2p_elastic.protocol.records import RECORD_SECONDS_MAX, PeerRecord

DEPARTED_MAX = 1000


class Gone(NamedTuple):
    """The last record known of a member that left, the sequence up to which its records count no more, until when
    one of them may still be about (our own monotonic seconds), and whether it asked us to take something from it."""

    record: PeerRecord
    sequence: int
    until: float
    asked: bool


class Departed:
    """Who left lately; bounded, the oldest are forgotten first."""

    def __init__(self) -> None:
        self._gone: OrderedDict[str, Gone] = OrderedDict()

    def remember(self, record: PeerRecord, sequence: int, now: float, *, asked: bool = False) -> None:
        """That peer left; its records up to `sequence` count no more. `now` in seconds."""
        self._gone.pop(record.peer, None)
        self._gone[record.peer] = Gone(record, sequence, now + RECORD_SECONDS_MAX, asked)
        while len(self._gone) > DEPARTED_MAX:
            self._gone.popitem(last=False)

    @property
    def peers(self) -> tuple[str, ...]:
        """Who is remembered, the oldest first."""
        return tuple(self._gone)

    def get(self, peer: str) -> Gone | None:
        """What is remembered of that peer."""
        return self._gone.get(peer)

    def without(self, records: Iterable[PeerRecord], now: float) -> Iterator[PeerRecord]:
        """The records but those that are older than their peer's goodbye; a newer one is a peer that came back."""
        for record in records:
            gone = self._gone.get(record.peer)
            if gone is None or now > gone.until or record.sequence > gone.sequence:
                self._gone.pop(record.peer, None)
                yield record
