"""What happened so far: counts and the last exchanges, bounded however long a run lasts."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.causes import FAILURES, Ended
from p2p_elastic.health.trust import Verdict
from p2p_elastic.peers.direct.meeting import OFF
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.schema import (
    EXCHANGE_SECONDS,
    FAILED_LATELY_SECONDS,
    Durations,
    ExchangeRecord,
    ExchangeTotals,
    PartnerStatus,
    Way,
)

Skip = Literal[
    "busy",
    "paced",
    "drained",
    "no partner",
    "no further partner",
    "snapshot used up",
    "own parameters not finite",
    "centre busy",
    "no leader",
    "leading",
    "leader not believed",
    "no snapshot of the leader",
]
"""Why an exchange that was due was not begun (`docs/errors.md`)."""
PARTNERS_KEPT = 50
FAILURES_KEPT = 1000
TENSORS_KEPT = 100


class Entry(NamedTuple):
    """One ended exchange.

    Attributes:
        id: as the initiator chose it.
        partner: the peer id of the other end.
        initiated: whether this peer asked.
        outcome: how it ended.
        reason: why, for people; None if it completed.
        step: of this peer's snapshot.
        seconds: from its begin to its end.
        bytes_sent: headers included.
        bytes_received: headers included.
        distance: L2 norm of the difference of both models; None if it was not measured.
        ended_at: in seconds of the event loop's clock.
        way: which the vectors took.
    """

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
    way: Way = Way()

    def event(self) -> tuple[str, dict[str, Any]]:
        """Describe the exchange for the list of events.

        Returns:
            A text for people, and facts for programs.
        """
        ended = self.outcome.value if self.reason is None else f"{self.outcome.value} ({self.reason})"
        distance = self.distance if self.distance is not None and math.isfinite(self.distance) else None
        facts = {"partner": self.partner, "outcome": self.outcome.value, "distance": distance}
        if self.way not in (Way(), Way(why=OFF)):
            facts["way"] = "direct" if self.way.direct else f"libp2p ({self.way.why})"
        return f"exchange with {self.partner}: {ended}", facts


class Met(NamedTuple):
    """A partner, and what is known from exchanges with it.

    Attributes:
        outcomes: how many exchanges ended in each way.
        last: the newest exchange.
        weight: what it last claimed to count for, 0 to 1; None if it never said so.
        distance: the last one that was measured; None if none was.
        error: what went wrong last, for people; None if nothing did.
    """

    outcomes: Counter[Outcome]
    last: Entry
    weight: float | None = None
    distance: float | None = None
    error: str | None = None


class _Completed:
    """How long the completed exchanges took, by bucket, and which way their vectors took."""

    def __init__(self) -> None:
        self._counts, self._seconds = [0] * (len(EXCHANGE_SECONDS) + 1), 0.0
        self.direct, self.not_direct = 0, Counter[str]()

    def add(self, entry: Entry) -> None:
        self._counts[bisect_left(EXCHANGE_SECONDS, entry.seconds)] += 1
        self._seconds += entry.seconds
        if entry.way.direct:
            self.direct += 1
        elif entry.way.why is not None:
            self.not_direct[entry.way.why] += 1

    def durations(self) -> Durations:
        *counts, count = itertools.accumulate(self._counts)
        return Durations(counts=tuple(counts), count=count, seconds=self._seconds)


class Journal:
    """Counts exchanges. Belongs to the network thread; `totals` and `last` may be read from any.

    Args:
        kept: how many of the last exchanges are kept whole.
        spent: called with all bytes, sent and received: how many, and the exchange that they belong to, if any.
    """

    def __init__(self, kept: int = 20, spent: Callable[..., None] = lambda *_: None) -> None:
        self._spent = spent
        self._by_outcome: Counter[Outcome] = Counter()
        self.declined_by_us: Counter[str] = Counter()
        self._declined_by_partner: Counter[str] = Counter()
        self.skipped: Counter[Skip] = Counter()
        self.streams_refused: Counter[str] = Counter()
        self._bytes_sent = self._bytes_received = 0
        self._completed = _Completed()
        self._failed: deque[tuple[str, float]] = deque(maxlen=FAILURES_KEPT)  # partner, and when
        self._last: deque[Entry] = deque(maxlen=kept)
        self._staleness: dict[str, int] = {}
        self._left_out: dict[str, tuple[str, ...]] = {}  # by partner, of the last exchange
        self._times_left_out: Counter[str] = Counter()  # by tensor
        self.met: Mapping[str, Met] = {}  # the latest last; replaced whole: other threads read it

    def enter(self, entry: Entry, weight: float | None = None) -> None:
        """Write down an ended exchange.

        Args:
            entry: the exchange.
            weight: what the partner claimed to count for, 0 to 1; None if it did not say so.
        """
        self._remember(entry, weight)
        self._by_outcome[entry.outcome] += 1
        if entry.outcome is Outcome.DECLINED:
            self._declined_by_partner[entry.reason or "unknown"] += 1
        elif entry.outcome is Outcome.COMPLETED:
            self._completed.add(entry)
        self._bytes_sent += entry.bytes_sent
        self._bytes_received += entry.bytes_received
        self._last.append(entry)
        self._spent(entry.bytes_sent + entry.bytes_received, entry)

    def _remember(self, entry: Entry, weight: float | None) -> None:
        known = dict(self.met)
        before = known.pop(entry.partner, None) or Met(Counter(), entry)
        failed = entry.outcome in FAILURES
        if failed:
            self._failed.append((entry.partner, entry.ended_at))
        known[entry.partner] = Met(
            before.outcomes + Counter([entry.outcome]),
            entry,
            before.weight if weight is None else weight,
            before.distance if entry.distance is None else entry.distance,
            f"{entry.outcome.value}: {entry.reason}" if failed else before.error,
        )
        self.met = dict(list(known.items())[-PARTNERS_KEPT:])

    def latest(self, count: int) -> tuple[str, ...]:
        """Name the partners of the last completed exchanges.

        Args:
            count: how many to name at most.

        Returns:
            Peer ids, the latest first.
        """
        completed = [peer for peer, met in self.met.items() if met.outcomes[Outcome.COMPLETED]]
        return tuple(completed[::-1][:count])

    def gave(self, traffic: tuple[int, int]) -> None:
        """Count the bytes of a snapshot that was handed out, or of one that was fetched.

        Args:
            traffic: bytes sent, bytes received.
        """
        self._bytes_sent += traffic[0]
        self._bytes_received += traffic[1]
        self._spent(sum(traffic))

    def settled(self, exchange_id: str, staleness: int) -> None:
        """Note that the move of an exchange was added.

        Args:
            exchange_id: the exchange.
            staleness: how many steps after its snapshot.
        """
        self._staleness[exchange_id] = staleness
        forget_oldest(self._staleness, (self._last.maxlen or 0))

    def left_out(self, partner: str, names: tuple[str, ...]) -> bool:
        """Note which tensors of a partner did not move this peer, since they were not finite.

        Args:
            partner: its peer id.
            names: of the tensors; none if all moved it.

        Returns:
            Whether they are others than in the last exchange with it.
        """
        before = self._left_out.get(partner, ())
        if before != names:
            self._left_out = {**{p: n for p, n in self._left_out.items() if p != partner}, partner: names}
            forget_oldest(self._left_out, PARTNERS_KEPT)
        self._times_left_out.update(names)
        forget_oldest(self._times_left_out, TENSORS_KEPT)
        return before != names

    def _failed_lately(self, now: float) -> Counter[str]:
        """How many exchanges with each partner failed lately; of all partners, the last FAILURES_KEPT count."""
        return Counter(partner for partner, at in tuple(self._failed) if now - at < FAILED_LATELY_SECONDS)

    def totals(self, now: float) -> ExchangeTotals:
        """Count all exchanges so far.

        Args:
            now: in seconds of the event loop's clock.

        Returns:
            The counts, as `/v1/status` shows them.
        """
        return ExchangeTotals(
            by_outcome=dict(self._by_outcome),
            failed_lately=self._failed_lately(now).total(),
            declined_by_us=dict(self.declined_by_us),
            declined_by_partner=dict(self._declined_by_partner),
            skipped={reason: count for reason, count in self.skipped.items()},
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            durations=self._completed.durations(),
            left_out=dict(self._times_left_out),
            direct=self._completed.direct,
            not_direct=dict(self._completed.not_direct),
        )

    def last(self, now: float) -> tuple[ExchangeRecord, ...]:
        """List the last exchanges.

        Args:
            now: in seconds of the event loop's clock.

        Returns:
            At most `kept`, the newest first.
        """
        return tuple(self._record(entry, now) for entry in reversed(tuple(self._last)))

    def recent(self, now: float) -> tuple[Ended, ...]:
        """List the last exchanges, as the health signals need them, with partners that ever answered.

        Whoever announces members that are not there makes nobody doubt itself.

        Args:
            now: in seconds of the event loop's clock.

        Returns:
            At most `kept`, the newest first.
        """
        answered = {peer for peer, met in self.met.items() if met.outcomes.keys() - FAILURES}
        return tuple(
            Ended(
                entry.partner,
                entry.outcome,
                entry.seconds,
                entry.bytes_sent,
                entry.bytes_received,
                self._staleness.get(entry.id),
                max(0.0, now - entry.ended_at),
            )
            for entry in reversed(self._last)
            if entry.partner in answered
        )

    def partners(self, now: float, verdicts: Mapping[str, Verdict]) -> tuple[PartnerStatus, ...]:
        """Show the partners to people.

        Args:
            now: in seconds of the event loop's clock.
            verdicts: peer id -> what was found when its parameters were tried.

        Returns:
            At most PARTNERS_KEPT, the latest first.
        """
        failed = self._failed_lately(now)
        return tuple(
            self._partner(peer, met, verdicts.get(peer), now, failed[peer])
            for peer, met in list(self.met.items())[::-1]
        )

    def _partner(self, peer: str, met: Met, verdict: Verdict | None, now: float, failed: int) -> PartnerStatus:
        judged = {} if verdict is None else verdict._asdict()
        judged.pop("own", None)
        return PartnerStatus(
            peer=peer,
            weight=met.weight,
            distance=met.distance,
            exchanges=dict(met.outcomes),
            failed_lately=failed,
            last=self._record(met.last, now),
            last_error=met.error,
            left_out=self._left_out.get(peer, ()),
            **judged,
        )

    def _record(self, entry: Entry, now: float) -> ExchangeRecord:
        facts = entry._asdict()
        ended_at = facts.pop("ended_at")
        return ExchangeRecord(**facts, staleness=self._staleness.get(entry.id), age_seconds=max(0.0, now - ended_at))
