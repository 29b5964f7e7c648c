"""How much this peer counts, and why: its signals, and the weight that it gives itself."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from p2p_elastic.health import signals
from p2p_elastic.health.causes import Ended, Timing, on_one_machine
from p2p_elastic.peers.membership.liveness import Member
from p2p_elastic.rules.ramp import settled
from p2p_elastic.status.schema import SignalStatus

STEP_RATE_SECONDS = 20.0  # the speed that others hear of is that of this last while


class StepRate:
    """Steps per second over the last STEP_RATE_SECONDS."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, step: int) -> None:
        """Take in how far training is.

        Args:
            now: monotonic seconds.
            step: how many steps are done.
        """
        if step and (not self._marks or now > self._marks[-1][0]):
            self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[1][0] >= STEP_RATE_SECONDS:
            self._marks.popleft()

    @property
    def marks(self) -> int:
        """How many moments are remembered: those of the last STEP_RATE_SECONDS, and one before."""
        return len(self._marks)

    @property
    def steps_per_second(self) -> float | None:
        """The speed; None before the second step."""
        if len(self._marks) < 2:
            return None
        (began, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - began)


class Observed(NamedTuple):
    """What a peer knows of itself at one moment.

    Attributes:
        loss: its smoothed loss, in nats; None if it is not known.
        initial_loss: the loss with which training began, in nats; None if it is not known.
        steps_per_second: its speed; None if it is not known.
        records: the last exchanges, the newest first.
        period: the communication period, in steps.
        addresses: under which others reach it.
        own: what its last exchange showed of it (`trust.py`), 0 to 1.
        newcomer: whether it joined a run under way, and does not count yet.
        broken: whether its parameters are not finite.
        timing: what waits and steps usually take here.
    """

    loss: float | None
    initial_loss: float | None
    steps_per_second: float | None
    records: Sequence[Ended]
    period: float
    addresses: Sequence[str]
    own: float = 1.0
    newcomer: bool = False
    broken: bool = False
    timing: Timing = signals.NOTHING_KNOWN


def judged(seen: Observed, members: Mapping[str, Member]) -> tuple[SignalStatus, ...]:
    """Make every signal that can be known from training and exchanges.

    Args:
        seen: what the peer knows of itself.
        members: peer id -> the members that are alive.

    Returns:
        The signals, in a fixed order; those that cannot be known are left out.
    """
    others = [m.record for m in members.values() if not m.record.drained and m.record.weight > 0.0]
    here = on_one_machine(seen.addresses, [m.record.addresses for m in members.values()])
    timing = seen.timing._replace(one_machine=here)
    found = (
        _BROKEN if seen.broken else None,
        _NEWCOMER if seen.newcomer else None,
        signals.loss(seen.loss, seen.initial_loss),
        signals.progress(seen.loss, [r.loss for r in others], seen.initial_loss),
        signals.speed(seen.steps_per_second, [r.steps_per_second for r in others]),
        signals.staleness([r.staleness for r in seen.records], seen.period, timing),
        signals.exchanges(seen.records, timing),
        signals.deadlines(seen.records, timing),
        signals.link(signals.link_rate(seen.records), timing),
        signals.relayed(seen.addresses),
        _comparison(seen.own),
    )
    return tuple(signal for signal in found if signal is not None)


class _Shown:
    """Signals that are made when they are first asked for."""

    def __init__(self, made: Callable[[], tuple[SignalStatus, ...]]) -> None:
        self._made = made

    @functools.cached_property
    def signals(self) -> tuple[SignalStatus, ...]:
        return self._made()


class Weigher:
    """Keeps the last weight, for the hysteresis; weight and signals may be read from any thread."""

    def __init__(self) -> None:
        self.weight = 1.0
        self._shown = _Shown(tuple)

    @property
    def signals(self) -> tuple[SignalStatus, ...]:
        """The signals that made the weight, the worst first."""
        return self._shown.signals

    def weigh(self, measured: Iterable[SignalStatus], reported: Iterable[SignalStatus] = ()) -> float:
        """Work out the weight by some signals, and keep both.

        Args:
            measured: what this peer measured itself.
            reported: what its operator or its sensors reported.

        Returns:
            The weight, 0 to 1.
        """
        merged = signals.merge(measured, reported)
        self._shown = _Shown(lambda: merged)
        self.weight = settled(self.weight, signals.worst(merged))
        return self.weight

    def show(self, seen: Observed, members: Mapping[str, Member], reported: Iterable[SignalStatus]) -> None:
        """Keep signals that decide nothing in this run: they are made only if they are asked for.

        Args:
            seen: what the peer knows of itself.
            members: peer id -> the members that are alive.
            reported: what its operator or its sensors reported.
        """
        self._shown = _Shown(lambda: signals.merge(judged(seen, members), reported))


_BROKEN = SignalStatus(
    name="parameters",
    health=0.0,
    text="this peer's parameters are not finite: the next partner's replace them; "
    "lower the learning rate if it happens again",
)
_NEWCOMER = SignalStatus(
    name="newcomer",
    health=0.0,
    text="joined a run under way: it copies first, and counts once its loss is in range",
)
_AS_GOOD = SignalStatus(name="comparison", health=1.0)


def _comparison(own: float) -> SignalStatus:
    if own >= 1.0:
        return _AS_GOOD
    text = "the partner's parameters do clearly better on this peer's own data: it follows more than it leads"
    return SignalStatus(name="comparison", health=own, text=text)
