"""Members that said goodbye themselves: no record from before it brings them back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from p2p_elastic.protocol.records import RECORD_SECONDS_MAX, PeerRecord

DEPARTED_MAX = 1000


class Gone(NamedTuple):
    """A member that left.

    Attributes:
        record: its last record that is known.
        sequence: up to which its records count no more.
        until: when the last of these must have expired, in this peer's own monotonic seconds.
        asked: whether it asked this peer to take something from it.
    """

    record: PeerRecord
    sequence: int
    until: float
    asked: bool


class Departed:
    """The members that left lately; bounded, the oldest are forgotten first."""

    def __init__(self) -> None:
        self._gone: OrderedDict[str, Gone] = OrderedDict()

    def remember(self, record: PeerRecord, sequence: int, now: float, *, asked: bool = False) -> None:
        """Note that a peer left.

        Args:
            record: its last record that is known.
            sequence: up to which its records count no more.
            now: this peer's own monotonic seconds.
            asked: whether it asked this peer to take something from it.
        """
        self._gone.pop(record.peer, None)
        self._gone[record.peer] = Gone(record, sequence, now + RECORD_SECONDS_MAX, asked)
        while len(self._gone) > DEPARTED_MAX:
            self._gone.popitem(last=False)

    @property
    def peers(self) -> tuple[str, ...]:
        """The peer ids that are remembered, the oldest first."""
        return tuple(self._gone)

    def get(self, peer: str) -> Gone | None:
        """Look up a peer that left.

        Args:
            peer: its id.

        Returns:
            What is remembered of it; None if it did not leave lately.
        """
        return self._gone.get(peer)

    def without(self, records: Iterable[PeerRecord], now: float) -> Iterator[PeerRecord]:
        """Leave out records that are older than their peer's goodbye; a newer one is a peer that came back.

        Args:
            records: what the directory has.
            now: this peer's own monotonic seconds.

        Yields:
            The records that count.
        """
        for record in records:
            gone = self._gone.get(record.peer)
            if gone is None or now > gone.until or record.sequence > gone.sequence:
                self._gone.pop(record.peer, None)
                yield record
