"""How long to wait for a partner: learnt from what it and the link have shown, between a floor and a ceiling.

As TCP does for its retransmissions (RFC 6298): a smoothed value and a mean deviation of each wait; the deadline is the
smoothed value plus four deviations, and doubles with each one missed until the partner keeps one again. There is no
clock here: the code that waits says how long it took.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.trust import PARTNERS_MAX

Wait = Literal["opening", "answer", "word", "gap", "byte", "rtt"]
"""A stream's opening; the answer to an offer; another message; a chunk; a byte of the vectors; the round trip."""

FIRST_TIMES, FIRST_SECONDS_MIN = 8.0, 3.0
FLOOR_SECONDS = 2.0  # a busy machine may say nothing for a second
GAIN, DEVIATION_GAIN, DEVIATIONS = 1 / 8, 1 / 4, 4.0  # RFC 6298
ROUND_TRIPS = 32  # that are longer, until a longer one is believed
MISSES_MAX = 16  # doublings that are counted
WHOLE_TIMES = 8.0  # a transfer may take that many times what earlier ones took,
UNSHOWN_TIMES = 64.0  # and that many times what those of all partners took, if its partner showed nothing so far
SHORT_SECONDS = 0.02  # steps are timed together until they took that long
STEPS_WAITED = 3.0  # of its own, that a peer that is asked waits for a snapshot,
PATIENCE_MIN_SECONDS, PATIENCE_MAX_SECONDS = 1.0, 60.0  # but neither less than this nor more


class Estimate(NamedTuple):
    """What one wait took so far, smoothed.

    Source: RFC 6298, section 2 (SRTT and RTTVAR), with the gains 1/8 and 1/4.

    Attributes:
        smoothed: the smoothed value, in seconds; None if nothing is known.
        deviation: the mean deviation, in seconds.
        misses: deadlines missed in a row, MISSES_MAX at most.
    """

    smoothed: float | None = None
    deviation: float = 0.0
    misses: int = 0

    def seen(self, seconds: float) -> Estimate:
        """Take in a wait that ended well.

        Args:
            seconds: how long it took.

        Returns:
            The new estimate, without misses.

        Example:
            >>> UNKNOWN.seen(1.0)
            Estimate(smoothed=1.0, deviation=0.5, misses=0)
            >>> UNKNOWN.seen(1.0).seen(2.0).expected
            3.625
        """
        if self.smoothed is None:
            return Estimate(seconds, seconds / 2)
        deviation = self.deviation + DEVIATION_GAIN * (abs(seconds - self.smoothed) - self.deviation)
        return Estimate(self.smoothed + GAIN * (seconds - self.smoothed), deviation)

    def lowest(self, seconds: float) -> Estimate:
        """Take in a round trip: the shortest is that of the link, and what busy peers add to others is not.

        Args:
            seconds: how long it took.

        Returns:
            The new estimate: it falls at once, and rises slowly.

        Example:
            >>> UNKNOWN.lowest(0.5).lowest(0.1).lowest(3.3).smoothed
            0.2
        """
        if self.smoothed is None or seconds <= self.smoothed:
            return Estimate(seconds)
        return Estimate(self.smoothed + (seconds - self.smoothed) / ROUND_TRIPS)

    def missed(self) -> Estimate:
        """Take in a deadline that was missed.

        Returns:
            The estimate with one more miss.
        """
        return self._replace(misses=min(self.misses + 1, MISSES_MAX))

    @property
    def expected(self) -> float | None:
        """What hardly ever takes longer, in seconds; None if nothing is known."""
        return None if self.smoothed is None else self.smoothed + DEVIATIONS * self.deviation


UNKNOWN = Estimate()
Estimates = Mapping[Wait, Estimate]


class Bounds(NamedTuple):
    """What a deadline never exceeds; it is that while nothing is known. As in `conversation.Limits`.

    Attributes:
        idle_seconds: longest silence of a partner.
        exchange_seconds: longest exchange as a whole, apart from its bytes.
        bytes_per_second_min: the slowest rate of these.
        snapshot_seconds: longest wait for the partner's own next step, while its speed is not known.
    """

    idle_seconds: float
    exchange_seconds: float
    bytes_per_second_min: float
    snapshot_seconds: float


def patience(steps_per_second: float | None, unknown_seconds: float) -> float:
    """Work out how long a peer waits for its own next step before it declines.

    Both ends compute it, the one that asks from the record of the other.

    Args:
        steps_per_second: the peer's speed; None or 0 if it is not known, or training stands.
        unknown_seconds: how long it waits then.

    Returns:
        Seconds: STEPS_WAITED steps, but from PATIENCE_MIN_SECONDS to PATIENCE_MAX_SECONDS.

    Example:
        >>> patience(1.0, 5.0), patience(100.0, 5.0), patience(None, 5.0)
        (3.0, 1.0, 5.0)
    """
    if not steps_per_second:
        return unknown_seconds
    return min(max(STEPS_WAITED / steps_per_second, PATIENCE_MIN_SECONDS), PATIENCE_MAX_SECONDS)


class Waits:
    """The deadlines of one conversation, in seconds: those that the partner had shown when it began.

    Args:
        deadlines: what all partners have shown; learns from this conversation.
        partner: the peer id.
        patience_seconds: how long the partner may wait for its own next step.
    """

    def __init__(self, deadlines: Deadlines, partner: str, patience_seconds: float) -> None:
        self._deadlines, self._partner, self._patience = deadlines, partner, patience_seconds
        self._bounds = deadlines.bounds
        self._own, self._all = deadlines.known(partner), deadlines.of_all

    def opening(self) -> float:
        """Give the deadline for a stream.

        Returns:
            Seconds. The first stream to a partner may take as long as dialling does; once others have shown how long
            that is, FIRST_TIMES that, at least FIRST_SECONDS_MIN, and twice as long after each time that was too short.
        """
        own, others = self._own_of("opening"), self._all.get("opening", UNKNOWN).expected
        if own.expected is not None or others is None:
            return self._clamp("opening", own.expected)
        return self._clamp("opening", max(FIRST_TIMES * others, FIRST_SECONDS_MIN))

    def answer(self) -> float:
        """Give the deadline for Accept or Decline.

        Returns:
            Seconds: longer than the partner may wait for its own next step.
        """
        word = self._expected("word")
        margin = self._bounds.idle_seconds - self._bounds.snapshot_seconds if word is None else max(word, 1.0)
        return max(
            self._clamp("answer", self._expected("answer")), self._patience + min(margin, self._bounds.idle_seconds)
        )

    def word(self, nbytes: int = 0) -> float:
        """Give the deadline for a message that waits for nothing at the partner but bytes that may still be under way.

        Args:
            nbytes: how many bytes those are, both ways together.

        Returns:
            Seconds.
        """
        expected, byte = self._expected("word"), self._own_of("byte").expected
        if expected is not None and nbytes:
            expected = None if byte is None else max(expected, nbytes * byte)
        return self._clamp("word", expected)

    def gap(self) -> float:
        """Give the deadline for the next chunk, and for room to send one.

        Returns:
            Seconds.
        """
        return self._clamp("gap", self._own_of("gap").expected)

    def whole(self, nbytes: int, *, exclusive: bool = False) -> float:
        """Give the deadline for a whole exchange, the answer included.

        Args:
            nbytes: what it moves, both ways together.
            exclusive: True if no other partner can exchange meanwhile; then one that has shown nothing must not be much
                slower than the others.

        Returns:
            Seconds.
        """
        bounds, own, others = self._bounds, self._own_of("byte"), self._all.get("byte", UNKNOWN)
        most = bounds.exchange_seconds + nbytes / bounds.bytes_per_second_min
        if own.smoothed is not None:
            shown = WHOLE_TIMES * own.smoothed * nbytes
            most = min(most, max(shown, bounds.idle_seconds) * 2.0**own.misses)
        elif exclusive and others.smoothed is not None:
            shown = UNSHOWN_TIMES * others.smoothed * nbytes
            most = min(most, max(shown, bounds.exchange_seconds) * 2.0**own.misses)
        return self.answer() + most

    def moving(self, nbytes: int) -> float:
        """Give the time that bytes may take on the link: no wait for them is shorter, whatever carries them.

        Args:
            nbytes: how many bytes, both ways together.

        Returns:
            Seconds: WHOLE_TIMES what earlier ones took, at most what they take at the slowest rate; that if the partner
            has shown nothing.
        """
        slowest, shown = 1.0 / self._bounds.bytes_per_second_min, self.seconds_per_byte
        return nbytes * (slowest if shown is None else min(WHOLE_TIMES * shown, slowest))

    @property
    def seconds_per_byte(self) -> float | None:
        """What a byte of the vectors takes, both ways together, in seconds; None if that is not known."""
        return self._own_of("byte").smoothed

    @property
    def rtt_seconds(self) -> float | None:
        """The round trip, in seconds; None if that is not known. The first one counts at once: connecting needs it."""
        return (self._own if "rtt" in self._own else self._deadlines.known(self._partner)).get("rtt", UNKNOWN).smoothed

    def saw(self, wait: Wait, seconds: float) -> None:
        """Learn from a wait that ended well.

        Args:
            wait: what was waited for.
            seconds: how long it took; of a byte: seconds per byte.
        """
        self._deadlines.saw(self._partner, wait, seconds)

    def missed(self, wait: Wait) -> None:
        """Learn from a deadline that was missed.

        Args:
            wait: what did not come in time.
        """
        self._deadlines.missed(self._partner, wait)

    def _own_of(self, wait: Wait) -> Estimate:
        return self._own.get(wait, UNKNOWN)

    def _expected(self, wait: Wait) -> float | None:
        """By the partner's own estimate, else twice that of all partners; None if no partner has shown anything."""
        own = self._own_of(wait).expected
        others = self._all.get(wait, UNKNOWN).expected
        return own if own is not None or others is None else 2.0 * max(others, FLOOR_SECONDS)

    def _clamp(self, wait: Wait, expected: float | None) -> float:
        ceiling = self._bounds.idle_seconds
        return (
            ceiling
            if expected is None
            else min(max(expected, FLOOR_SECONDS) * 2.0 ** self._own_of(wait).misses, ceiling)
        )


class Deadlines:
    """What each partner has shown, PARTNERS_MAX of them at most, and all together. Belongs to the network thread.

    Args:
        bounds: what no deadline exceeds.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.of_all: Estimates = {}
        self._known: dict[str, Estimates] = {}  # the latest last; each is replaced whole: other threads read them

    def of(self, partner: str, patience_seconds: float) -> Waits:
        """Give the deadlines of a conversation with a partner.

        Args:
            partner: the peer id.
            patience_seconds: how long the partner may wait for its own next step.

        Returns:
            The deadlines, which learn from the conversation.
        """
        return Waits(self, partner, patience_seconds)

    def of_stranger(self, peer: str, patience_seconds: float) -> Waits:
        """Give the deadlines of a conversation with a peer that is no member.

        What such a peer shows is not kept, and changes nothing for others.

        Args:
            peer: the peer id.
            patience_seconds: how long the peer may wait for its own next step.

        Returns:
            The deadlines.
        """
        apart = Deadlines(self.bounds)
        apart.of_all = self.of_all
        return apart.of(peer, patience_seconds)

    def known(self, partner: str) -> Estimates:
        """Look up what a partner has shown.

        Args:
            partner: the peer id.

        Returns:
            Wait -> its estimate, for those that were seen or missed.
        """
        return self._known.get(partner, {})

    def saw(self, partner: str, wait: Wait, seconds: float) -> None:
        """Learn from a wait that ended well.

        Args:
            partner: the peer id.
            wait: what was waited for.
            seconds: how long it took; of a byte: seconds per byte.
        """
        own, others = self.known(partner).get(wait, UNKNOWN), self.of_all.get(wait, UNKNOWN)
        seen = Estimate.lowest if wait == "rtt" else Estimate.seen
        self._keep(partner, wait, seen(own, seconds))
        self.of_all = {**self.of_all, wait: Estimate.seen(others, seconds)}

    def missed(self, partner: str, wait: Wait) -> None:
        """Learn from a deadline that was missed; it says nothing of other partners.

        Args:
            partner: the peer id.
            wait: what did not come in time.
        """
        self._keep(partner, wait, self.known(partner).get(wait, UNKNOWN).missed())

    def _keep(self, partner: str, wait: Wait, estimate: Estimate) -> None:
        self._known[partner] = {**self._known.pop(partner, {}), wait: estimate}
        forget_oldest(self._known, PARTNERS_MAX)


class StepTime:
    """How long this peer's own steps take. Written by the training thread only, read by any."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._steps, self._seconds = 0, 0.0  # short ones that are not taken in yet
        self._estimate = UNKNOWN

    def ended(self, now: float) -> None:
        """Take in the end of a step. Several short ones count as one of their mean: each costs next to nothing.

        Args:
            now: monotonic seconds.
        """
        last, self._last = self._last, now
        if last is None:
            return
        seconds = now - last
        if seconds < SHORT_SECONDS:
            self._steps, self._seconds = self._steps + 1, self._seconds + seconds
            if self._seconds < SHORT_SECONDS:
                return
            seconds = self._seconds / self._steps
            self._steps, self._seconds = 0, 0.0
        self._estimate = self._estimate.seen(seconds)

    @property
    def seconds(self) -> float | None:
        """What a step takes, smoothed, in seconds; None before the second, or before SHORT_SECONDS are over."""
        return self._estimate.smoothed

    def patience(self, steps_per_second: float | None, unknown_seconds: float) -> float:
        """Work out how long to wait for the next step: never longer than peers that ask expect.

        Args:
            steps_per_second: the speed that this peer's record says; None if it says none.
            unknown_seconds: how long to wait while no speed is known.

        Returns:
            Seconds.
        """
        told, seconds = patience(steps_per_second, unknown_seconds), self._estimate.smoothed
        return told if seconds is None else min(told, patience(1.0 / max(seconds, 1e-9), unknown_seconds))
