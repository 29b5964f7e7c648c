"""The swarm's clock: what time it is for the records in the DHT, whatever the clocks of the machines say.

Records expire at a time of day, so the peers of a swarm have to agree on it, but not with the rest of the world. Each
peer counts on from the clock that it started with. Who is alone and meets a peer follows that one; among those that
have met, each clock has as many votes as there are peers that agree with it, and who is outvoted follows.
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
    """A clock, as seen from here."""

    base: float  # what it shows when our monotonic clock shows 0: that does not change as time goes by
    doubt: float = 0.0  # seconds: half of the round trip in which it was read


def reading(shown: float, asked_at: float, answered_at: float) -> Reading | None:
    """What an answer says of the clock at the other end; None where it shows no time (seconds, monotonic ones here)."""
    if not (math.isfinite(shown) and 0.0 < shown < TIME_MAX):
        return None
    return Reading(shown - (asked_at + answered_at) / 2, (answered_at - asked_at) / 2)


def agree(a: Reading, b: Reading) -> bool:
    """Whether the two may be one clock."""
    return abs(a.base - b.base) <= AGREE_SECONDS + a.doubt + b.doubt


def to_follow(own_peer: str, own: Reading, others: Mapping[str, Reading]) -> Reading | None:
    """The clock that a peer should follow from now on; None where its own is as good as any.

    One vote for each peer; of two clocks with as many votes, that of the smallest peer id. So a peer that agrees with
    one other stays, whatever a third one says, and of two peers exactly one follows.
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
        machine: the machine's time of day, read once.
        monotonic: what it goes on with; by default one that does not stand still while the machine sleeps.
    """

    def __init__(self, machine: Callable[[], float] = time.time, monotonic: Callable[[], float] | None = None) -> None:
        self.monotonic = monotonic or _monotonic
        self._start = self._base = machine() - self.monotonic()

    def now(self) -> float:
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
        """From now on show what that one shows."""
        self._base = other.base

    @contextlib.contextmanager
    def as_current(self) -> Iterator[None]:
        """Make this the current clock of what runs inside, and of the tasks that begin there until their end."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @staticmethod
    def get_current() -> SwarmClock | None:
        """The current clock of the caller; None outside of the work of any network."""
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
    """For ever: compare our clock with those of a few neighbours, and follow theirs where we are outvoted.

    Args:
        ask: reads a neighbour's clock; None where it does not answer. It has a deadline of its own.
        follow: called with the clock to follow.
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
