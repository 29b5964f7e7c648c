"""The swarm's clock: the time for the records in the DHT, whatever the clocks of the machines say.

Records expire at a time of day, so the peers of a swarm have to agree on it, but not with the rest of the world. Each
peer counts on from the clock that it started with. A peer that is alone and meets another follows that one. Among peers
that have met, each clock has one vote for each peer that agrees with it, and a peer that is outvoted follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

log = logging.getLogger(__name__)
AGREE_SECONDS = 1.0  # clocks that differ by no more are the same clock; records live for 60
TIME_MAX = 2.0**33  # seconds since 1970: the year 2242
ASK_AT_ONCE = 8
COMPARE_SECONDS = 10.0
DISAGREEING_SECONDS = 2.0  # while clocks differ
_CURRENT: contextvars.ContextVar[SwarmClock | None] = contextvars.ContextVar("the swarm's clock", default=None)


class Reading(NamedTuple):
    """A clock, as seen from this machine.

    Attributes:
        base: what the clock shows when this machine's monotonic clock shows 0, in seconds since 1970: it does not
            change as time goes by.
        doubt: how far `base` may be off, in seconds: half of the round trip in which it was read.
    """

    base: float
    doubt: float = 0.0


def reading(shown: float, asked_at: float, answered_at: float) -> Reading | None:
    """Work out what an answer says of the clock at the other end.

    Args:
        shown: the time in the answer, in seconds since 1970.
        asked_at: when the question left, in monotonic seconds of this machine.
        answered_at: when the answer came, by the same clock.

    Returns:
        The reading; None if the answer shows no time (not finite, before 1970 or after 2242).

    Example:
        >>> reading(1000.0, 10.0, 12.0)
        Reading(base=989.0, doubt=1.0)
    """
    if not (math.isfinite(shown) and 0.0 < shown < TIME_MAX):
        return None
    return Reading(shown - (asked_at + answered_at) / 2, (answered_at - asked_at) / 2)


def agree(a: Reading, b: Reading) -> bool:
    """Whether two readings may be of one clock.

    Args:
        a, b: the readings.

    Returns:
        True if they differ by AGREE_SECONDS at most, the doubts of both left aside.

    Example:
        >>> agree(Reading(0.0), Reading(1.5)), agree(Reading(0.0), Reading(1.5, doubt=0.5))
        (False, True)
    """
    return abs(a.base - b.base) <= AGREE_SECONDS + a.doubt + b.doubt


def to_follow(own_peer: str, own: Reading, others: Mapping[str, Reading]) -> Reading | None:
    """Choose the clock that a peer follows from now on, by majority.

    Each peer has one vote. Of two clocks with as many votes the one with the smallest peer id wins. So a peer that
    agrees
    with one other stays, whatever a third one says, and of two peers exactly one follows.

    Args:
        own_peer: the id of the peer that chooses.
        own: its own clock.
        others: peer id -> what that peer's clock shows.

    Returns:
        The winner's reading with the least doubt; None if the peer's own clock is as good as any.

    Example:
        >>> to_follow("b", Reading(0.0), {"a": Reading(100.0)})
        Reading(base=100.0, doubt=0.0)
        >>> to_follow("b", Reading(0.0), {"a": Reading(100.0), "c": Reading(0.5)}) is None
        True
    """
    clocks = {**others, own_peer: own}
    sides = {peer: sorted(p for p, c in clocks.items() if agree(clock, c)) for peer, clock in clocks.items()}
    best = min(sides.values(), key=lambda side: (-len(side), side[0]))
    if own_peer in best:
        return None
    return min((clocks[peer] for peer in best), key=lambda clock: clock.doubt)


class SwarmClock:
    """Seconds since 1970 as this peer's swarm counts them. Later jumps of the machine's clock do not change it.

    Args:
        machine: the machine's time of day, in seconds since 1970; read once.
        monotonic: the clock that counts on from there, in seconds; None: one that does not stand still while the
            machine sleeps.
    """

    def __init__(self, machine: Callable[[], float] = time.time, monotonic: Callable[[], float] | None = None) -> None:
        self.monotonic = monotonic or _monotonic
        self._start = self._base = machine() - self.monotonic()

    def now(self) -> float:
        """Tell the time.

        Returns:
            Seconds since 1970, as the swarm counts them.
        """
        return self.monotonic() + self._base

    @property
    def reading(self) -> Reading:
        """This clock, to be compared with others."""
        return Reading(self._base)

    @property
    def ahead_of_machine(self) -> float:
        """Seconds by which this clock is ahead of the one that it started with."""
        return self._base - self._start

    def follow(self, other: Reading) -> None:
        """From now on show what another clock shows; the time may jump.

        Args:
            other: a reading of that clock.
        """
        self._base = other.base

    @contextlib.contextmanager
    def as_current(self) -> Iterator[None]:
        """Make this the current clock of what runs inside, and of the tasks that begin there until their end.

        Returns:
            A context; at its end the clock of before is current again.
        """
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @staticmethod
    def get_current() -> SwarmClock | None:
        """Find the clock of the network that the caller works for.

        Returns:
            The current clock; None outside of the work of any network.
        """
        return _CURRENT.get()


def _monotonic() -> float:
    boot = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; elsewhere a sleep is made good by the others' votes
    return time.monotonic() if boot is None else time.clock_gettime(boot)


async def keep_time(
    own_peer: str,
    clock: SwarmClock,
    neighbours: Callable[[], frozenset[str]],
    ask: Callable[[str], Awaitable[Reading | None]],
    follow: Callable[[Reading], Awaitable[None]],
    rng: random.Random,
) -> None:
    """For ever: compare the clock with those of a few neighbours, and follow theirs if it is outvoted.

    Args:
        own_peer: the id of this peer.
        clock: its clock, which `follow` sets.
        neighbours: the peer ids that can be asked now; ASK_AT_ONCE of them are, at random.
        ask: reads a neighbour's clock; None if it does not answer. It has a deadline of its own.
        follow: called with the clock to follow.
        rng: draws whom to ask, and when.
    """
    while True:
        around = sorted(neighbours())
        asked = rng.sample(around, min(ASK_AT_ONCE, len(around)))
        answers = await asyncio.gather(*(ask(peer) for peer in asked))
        others = {peer: answer for peer, answer in zip(asked, answers, strict=True) if answer is not None}
        better = to_follow(own_peer, clock.reading, others)
        if better is not None:
            await follow(better)
        calm = all(agree(clock.reading, other) for other in others.values())
        # Not in step with the others: two sides that follow each other at the same moment would change places.
        await asyncio.sleep(rng.uniform(0.5, 1.0) * (COMPARE_SECONDS if calm and others else DISAGREEING_SECONDS))
