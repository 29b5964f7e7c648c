"""What happened so far: counts and the last exchanges, bounded however long a run lasts."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from p2p_elastic.status import ExchangeRecord, ExchangeTotals, Outcome


class Entry(NamedTuple):
    """One ended exchange; `ended_at` in seconds of the event loop's clock."""

    id: str
    partner: str
    initiated: bool
    outcome: Outcome
    reason: str | None
    step: int
    seconds: float
    bytes_sent: int
    bytes_received: int
    distance: float | None
    ended_at: float


class Journal:
    """Counts exchanges. Belongs to the network thread; `totals` and `last` may be read from any."""

    def __init__(self, kept: int = 20) -> None:
        self._by_outcome: Counter[Outcome] = Counter()
        self.declined_by_us: Counter[str] = Counter()
        self._declined_by_partner: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.streams_refused: Counter[str] = Counter()
        self._bytes_sent = self._bytes_received = 0
        self._last: deque[Entry] = deque(maxlen=kept)
        self._staleness: dict[str, int] = {}

    def enter(self, entry: Entry) -> None:
        """Write down an ended exchange."""
        self._by_outcome[entry.outcome] += 1
        if entry.outcome is Outcome.DECLINED:
            self._declined_by_partner[entry.reason or "unknown"] += 1
        self._bytes_sent += entry.bytes_sent
        self._bytes_received += entry.bytes_received
        self._last.append(entry)

    def gave(self, traffic: tuple[int, int]) -> None:
        """Count the bytes of a snapshot that was handed out, or of one that was fetched."""
        self._bytes_sent += traffic[0]
        self._bytes_received += traffic[1]

    def settled(self, exchange_id: str, staleness: int) -> None:
        """The move of that exchange was added, `staleness` steps after its snapshot."""
        self._staleness[exchange_id] = staleness
        while len(self._staleness) > (self._last.maxlen or 0):
            self._staleness.pop(next(iter(self._staleness)))

    def totals(self) -> ExchangeTotals:
        return ExchangeTotals(
            by_outcome=dict(self._by_outcome),
            declined_by_us=dict(self.declined_by_us),
            declined_by_partner=dict(self._declined_by_partner),
            skipped=dict(self.skipped),
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
        )

    def last(self, now: float) -> tuple[ExchangeRecord, ...]:
        """The last exchanges, newest first."""
        return tuple(self._record(entry, now) for entry in reversed(tuple(self._last)))

    def _record(self, entry: Entry, now: float) -> ExchangeRecord:
        facts = entry._asdict()
        ended_at = facts.pop("ended_at")
        return ExchangeRecord(**facts, staleness=self._staleness.get(entry.id), age_seconds=max(0.0, now - ended_at))
