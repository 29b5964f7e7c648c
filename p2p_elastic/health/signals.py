"""How much does anything speak against this peer? Pure functions of what was measured of it.

    loss          not finite, or above where training began
    progress      the loss is behind that of the other peers
    speed         fewer steps per second than the other peers
    staleness     parameters are old when an exchange moves them
    exchanges     exchanges with most partners fail
    deadlines     exchanges time out
    memory        hardly any is left
    temperature   the GPU or the CPU is too hot
    throttling    the hardware slows itself down for heat or power
    battery       nearly empty
    link          slow exchanges
    load          more threads than cores; speaks against nobody, and says why other things are slow
    relayed       other peers reach this one through a relay only

Each gives a signal with a health from 0 to 1, or None if nothing is known. If the health is below 1 the text
says what that means and what to do. All thresholds are this project's, none is from a paper.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from p2p_elastic.errors import ConfigError
from p2p_elastic.health.causes import FAILURES, Ended, Timing, advice, advice_on_failures, advice_on_silence
from p2p_elastic.health.checks import FAILURES_IN_A_ROW
from p2p_elastic.health.controls import Report, SignalName
from p2p_elastic.protocol.messages import printable
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.ramp import ramp
from p2p_elastic.status.schema import SignalStatus

LOSS_BAD, LOSS_GOOD = 2.0, 1.2  # of the first loss: the noise of small batches stays below, divergence soon passes it
PROGRESS_BAD, PROGRESS_GOOD = 0.5, 0.15  # of the first loss: peers that train together are closer than that
PROGRESS_OTHERS_MIN = 2  # against one other peer alone, half of all peers would be behind
SPEED_BAD, SPEED_GOOD = 0.0, 0.5  # of the others' median: unequal machines are the point, half as fast is fine
STALENESS_BAD, STALENESS_GOOD = 8.0, 1.0  # of the communication period: in that time others could have changed it
STALENESS_PERIOD_MIN = 8.0  # steps: if every step exchanges, two steps are not old
STALENESS_COUNT_MIN = 3  # one slow exchange is chance
EXCHANGES_BAD, EXCHANGES_GOOD = 1.0, 0.5  # of the partners: if half of them answer, this peer's network works
DEADLINES_BAD, DEADLINES_GOOD = 0.9, 0.3  # of the exchanges: slow partners alone cause some
DEADLINES_COUNT_MIN = 5
NETWORK_MIN = 0.2  # a peer that reaches no other may be the last one left: no reason to copy the next that comes
MEMORY_BAD, MEMORY_GOOD = 0.02, 0.08  # of all memory: below, the kernel soon ends the process
TEMPERATURE_BAD, TEMPERATURE_GOOD = 95.0, 85.0  # °C: a healthy GPU under load runs at 70 to 84
CPU_TEMPERATURE_BAD, CPU_TEMPERATURE_GOOD = 105.0, 97.0  # °C
THROTTLING_BAD, THROTTLING_GOOD = 0.2, 0.8  # of the full clock: a little less under load is usual
BATTERY_BAD, BATTERY_GOOD = 5.0, 30.0  # %: laptops go to sleep at about 5
LINK_BAD, LINK_GOOD = 20e3, 200e3  # bytes/s: at 20 kB/s even the small model of the digits takes seconds
LINK_BYTES_MIN = 256 * 1024  # with less, latency is measured instead
NOTHING_KNOWN = Timing()
RELAYED_HEALTH = 0.5  # a relay is slow and may limit time and bytes, but it works
REPORTS_MAX = 32

_NAME: TypeAdapter[str] = TypeAdapter(SignalName)


def loss(loss: float | None, initial: float | None) -> SignalStatus | None:
    """Whether training diverges: the loss against that of untrained parameters.

    Args:
        loss: the smoothed training loss in nats; None before there is one.
        initial: the loss of parameters that were not trained yet, in nats; None if not known.

    Returns:
        The signal, its value the loss; None without a loss.

    Example:
        >>> loss(0.5, 2.3).health, loss(4.0, 2.0).health
        (1.0, 0.0)
    """
    if loss is None:
        return None
    if not math.isfinite(loss):
        broken = "parameters or learning rate are broken; lower the learning rate, or restart this peer so that it"
        return _signal("loss", 0.0, text=f"the loss is {loss}: {broken} copies healthy parameters")
    if initial is None or not 0.0 < initial < math.inf:
        return _signal("loss", 1.0, loss)
    ratio = loss / initial
    health = ramp(ratio, bad=LOSS_BAD, good=LOSS_GOOD)
    if health >= 1.0:  # nearly always, after each exchange: a text costs more than all the rest
        return _signal("loss", health, loss)
    text = f"the loss is {loss:.3g}, {ratio:.3g} times that at the start: it diverges; lower the learning rate"
    return _signal("loss", health, loss, text=text)


def progress(loss: float | None, others: Iterable[float | None], initial: float | None) -> SignalStatus | None:
    """How far the loss is behind the others' median, relative to the loss at the start of the run.

    So 0.01 against 0.001, late in training, is no difference. Of an even number of others the worse middle one
    counts: between two, a single peer with a loss that is too good to be true must not decide.

    Args:
        loss: of this peer, in nats; None before there is one.
        others: losses of the other members; those that are not known or not finite are left out.
        initial: the loss at the start of the run, in nats; None if not known.

    Returns:
        The signal, its value the share of the first loss; None with fewer than PROGRESS_OTHERS_MIN others.
    """
    finite = _finite(others)
    if loss is None or not math.isfinite(loss) or initial is None or not 0.0 < initial < math.inf:
        return None
    if len(finite) < PROGRESS_OTHERS_MIN:
        return None
    median = statistics.median_high(finite)
    behind = (loss - median) / initial
    health = ramp(behind, bad=PROGRESS_BAD, good=PROGRESS_GOOD)
    if health >= 1.0:
        return _signal("progress", health, behind, "of first loss")
    text = f"the loss is {loss:.3g}, the others' {median:.3g}: behind the swarm; see whether its data and network work"
    return _signal("progress", health, behind, "of first loss", text)


def in_range(loss: float | None, others: Iterable[float | None], initial: float | None) -> bool:
    """Whether a newcomer's loss is no further behind the others' median than `progress` takes for nothing.

    One other is enough here: it only says when this peer begins to count.

    Args:
        loss: of this peer, in nats; None before there is one.
        others: losses of the other members.
        initial: the loss at the start of the run, in nats; None if not known.

    Returns:
        False without a finite loss; True if there is nothing to compare it with, or no first loss.
    """
    if loss is None or not math.isfinite(loss):
        return False
    finite = _finite(others)
    if not finite or initial is None or not 0.0 < initial < math.inf:
        return True
    return (loss - statistics.median_high(finite)) / initial <= PROGRESS_GOOD


def speed(rate: float | None, others: Iterable[float | None]) -> SignalStatus | None:
    """Steps per second against the others' median; of an even number of others the slower middle one counts.

    Args:
        rate: of this peer, in steps per second; None if not known.
        others: rates of the other members; those that are not known are left out.

    Returns:
        The signal, its value the rate; None without others.
    """
    finite = _finite(others)
    if rate is None or not math.isfinite(rate) or not finite:
        return None
    median = statistics.median_low(finite)
    if median <= 0.0:
        return None
    health = ramp(rate / median, bad=SPEED_BAD, good=SPEED_GOOD)
    if health >= 1.0:
        return _signal("speed", health, rate, "steps/s")
    text = (
        f"{rate:.3g} steps per second, the others {median:.3g}: what it learns comes late; "
        "end other programs, or use a smaller batch or a faster device"
    )
    return _signal("speed", health, rate, "steps/s", text)


def staleness(steps: Iterable[int | None], period: float, timing: Timing = NOTHING_KNOWN) -> SignalStatus | None:
    """How old parameters are when they move: own steps between snapshot and move of the last exchanges.

    Args:
        steps: of each exchange; None for those that did not move this peer.
        period: the mean steps between two exchanges, against which the mean age counts.
        timing: what takes the time of an exchange, for the advice.

    Returns:
        The signal, its value the mean in steps; None with fewer than STALENESS_COUNT_MIN exchanges.
    """
    known = [count for count in steps if count is not None]
    if len(known) < STALENESS_COUNT_MIN:
        return None
    mean, enough = statistics.fmean(known), max(STALENESS_PERIOD_MIN, period)
    health = ramp(mean / enough, bad=STALENESS_BAD, good=STALENESS_GOOD)
    if health >= 1.0:
        return _signal("staleness", health, mean, "steps")
    text = (
        f"{mean:.3g} steps pass during an exchange, {enough:.3g} would be fine: parameters are old when they move; "
        f"{advice(timing)}"
    )
    return _signal("staleness", health, mean, "steps", text)


def exchanges(records: Sequence[Ended], timing: Timing = NOTHING_KNOWN) -> SignalStatus | None:
    """Of the partners met in the last exchanges, the share with which the newest exchange failed.

    One dead partner says nothing about this peer: with a single partner it takes as many failures in a row as make
    `health` degraded.

    Args:
        records: the last exchanges, in any order.
        timing: has the load, for the advice.

    Returns:
        The signal, its value the share; None if too little is known.
    """
    ordered = sorted(records, key=lambda record: record.age_seconds)
    newest: dict[str, Ended] = {}
    for record in ordered:
        newest.setdefault(record.partner, record)
    failed = [record for record in newest.values() if record.outcome in FAILURES]
    row = ordered[:FAILURES_IN_A_ROW]
    sure = len(row) == FAILURES_IN_A_ROW and all(record.outcome in FAILURES for record in row)
    if not newest or (len(newest) == 1 and failed and not sure):
        return None
    share = len(failed) / len(newest)
    health = max(NETWORK_MIN, ramp(share, bad=EXCHANGES_BAD, good=EXCHANGES_GOOD))
    if health >= 1.0:
        return _signal("exchanges", health, share, "share")
    kinds = ", ".join(sorted({record.outcome.value for record in failed}))
    text = (
        f"the last exchange failed with {len(failed)} of {len(newest)} partners ({kinds}); "
        f"{advice_on_failures((record.outcome for record in failed), timing.load)}"
    )
    return _signal("exchanges", health, share, "share", text)


def deadlines(records: Sequence[Ended], timing: Timing = NOTHING_KNOWN) -> SignalStatus | None:
    """The share of the last exchanges that timed out.

    Args:
        records: the last exchanges, in any order.
        timing: what takes the time of an exchange, for the advice.

    Returns:
        The signal, its value the share; None with fewer than DEADLINES_COUNT_MIN exchanges.
    """
    if len(records) < DEADLINES_COUNT_MIN:
        return None
    late = sum(record.outcome is Outcome.TIMEOUT for record in records)
    share = late / len(records)
    health = max(NETWORK_MIN, ramp(share, bad=DEADLINES_BAD, good=DEADLINES_GOOD))
    if health >= 1.0:
        return _signal("deadlines", health, share, "share")
    text = f"{late} of the last {len(records)} exchanges timed out; {advice_on_silence(records, timing)}"
    return _signal("deadlines", health, share, "share", text)


def memory(available_share: float | None) -> SignalStatus | None:
    """How much is left of the machine's or container's memory.

    Args:
        available_share: as a share of the whole; None if not known.

    Returns:
        The signal, its value the share.
    """
    if available_share is None or not math.isfinite(available_share):
        return None
    text = f"{available_share * 100:.3g} % of the memory is left: the system may end this peer; end other programs"
    return _signal("memory", ramp(available_share, bad=MEMORY_BAD, good=MEMORY_GOOD), available_share, "share", text)


def temperature(celsius: float | None) -> SignalStatus | None:
    """How hot the GPU in use is, or what an outside program measures of this machine.

    Args:
        celsius: in °C; None if not known.

    Returns:
        The signal, its value in °C.

    Example:
        >>> temperature(70.0).health, temperature(90.0).health, temperature(None)
        (1.0, 0.5, None)
    """
    if celsius is None or not math.isfinite(celsius):
        return None
    text = f"{celsius:.3g} °C: too hot, numbers may go wrong and the machine may stop; see to its fans and its air"
    return _signal("temperature", ramp(celsius, bad=TEMPERATURE_BAD, good=TEMPERATURE_GOOD), celsius, "°C", text)


def cpu_temperature(celsius: float | None) -> SignalStatus | None:
    """How hot the CPU's package is. Many run at 95 under full load by design, so the limits are higher than a GPU's.

    Args:
        celsius: in °C; None if not known.

    Returns:
        The signal, its value in °C.
    """
    if celsius is None or not math.isfinite(celsius):
        return None
    text = f"{celsius:.3g} °C: the CPU is too hot and slows down; see to its fans and its air"
    health = ramp(celsius, bad=CPU_TEMPERATURE_BAD, good=CPU_TEMPERATURE_GOOD)
    return _signal("cpu_temperature", health, celsius, "°C", text)


def throttling(clock_share: float | None) -> SignalStatus | None:
    """Whether the hardware slows itself down for heat or power.

    Args:
        clock_share: the current clock over the full one while it says so; else 1; None if not known.

    Returns:
        The signal, its value the share.
    """
    if clock_share is None or not math.isfinite(clock_share):
        return None
    text = (
        f"slows itself down to {clock_share * 100:.3g} % of its clock for heat or power; "
        "see to its fans and its power supply"
    )
    return _signal(
        "throttling", ramp(clock_share, bad=THROTTLING_BAD, good=THROTTLING_GOOD), clock_share, "share", text
    )


def load(per_core: float | None) -> SignalStatus | None:
    """How many threads want each core. Any load is fine for what a peer counts: `speed` judges that.

    Args:
        per_core: threads, mean of a minute; None if not known.

    Returns:
        The signal, its health always 1.
    """
    if per_core is None or not math.isfinite(per_core):
        return None
    return _signal("load", 1.0, per_core, "threads per core")


def battery(percent: float | None, plugged: bool | None) -> SignalStatus | None:
    """How much charge is left; any is fine while the machine is plugged in.

    Args:
        percent: in %; None if not known or if there is no battery.
        plugged: None, if not known, counts as not plugged in.

    Returns:
        The signal, its value in %.
    """
    if percent is None or not math.isfinite(percent):
        return None
    text = f"{percent:.3g} % of the battery is left: this peer may go soon; plug the machine in"
    health = 1.0 if plugged else ramp(percent, bad=BATTERY_BAD, good=BATTERY_GOOD)
    return _signal("battery", health, percent, "%", text)


def link_rate(records: Iterable[Ended]) -> float | None:
    """The median rate of the exchanges that completed and moved at least LINK_BYTES_MIN, both directions together.

    Those that did not complete waited for a partner that was gone.

    Args:
        records: the last exchanges.

    Returns:
        Bytes per second; None if there are no such exchanges.
    """
    rates = [
        (record.bytes_sent + record.bytes_received) / record.seconds
        for record in records
        if record.outcome is Outcome.COMPLETED
        and record.bytes_sent + record.bytes_received >= LINK_BYTES_MIN
        and record.seconds > 0.0
    ]
    return statistics.median(rates) if rates else None


def link(bytes_per_second: float | None, timing: Timing = NOTHING_KNOWN) -> SignalStatus | None:
    """How fast exchanges move; the health is linear in the logarithm of the rate.

    Args:
        bytes_per_second: both directions together; None if not known.
        timing: what takes the time of an exchange, for the advice.

    Returns:
        The signal, its value in bytes per second.
    """
    if bytes_per_second is None or not math.isfinite(bytes_per_second):
        return None
    magnitude = math.log10(bytes_per_second) if bytes_per_second > 0.0 else -math.inf
    health = ramp(magnitude, bad=math.log10(LINK_BAD), good=math.log10(LINK_GOOD))
    if health >= 1.0:
        return _signal("link", health, bytes_per_second, "B/s")
    text = f"exchanges move {bytes_per_second / 1e3:.3g} kB/s: others wait for this peer; {advice(timing)}"
    return _signal("link", health, bytes_per_second, "B/s", text)


def relayed(addresses: Sequence[str]) -> SignalStatus | None:
    """Whether all own addresses go through a relay.

    Args:
        addresses: this peer's multiaddrs.

    Returns:
        The signal, without a value; None if there is no address yet.
    """
    if not addresses:
        return None
    text = "reached through a relay only: slow; open a port, or give an address that others can reach"
    only = all("/p2p-circuit" in address for address in addresses)
    return _signal("relayed", RELAYED_HEALTH if only else 1.0, text=text)


KNOWN: Mapping[str, Callable[[float], SignalStatus | None]] = {
    "temperature": temperature,  # °C
    "battery": partial(battery, plugged=False),  # %; a report of it means that it matters
    "memory": memory,  # share that is left
    "link": link,  # bytes/s
    "throttling": throttling,  # share of the full clock
}
"""Signals whose health follows from one value, in the unit of the signal that they give."""


def worst(signals: Iterable[SignalStatus]) -> float:
    """The lowest health: one bad signal is enough.

    Args:
        signals: in any order.

    Returns:
        0 to 1; 1 if there is no signal.
    """
    return min((signal.health for signal in signals), default=1.0)


def merge(measured: Iterable[SignalStatus], reported: Iterable[SignalStatus]) -> tuple[SignalStatus, ...]:
    """Keep one signal per name, that with the lower health; if both say the same, the one that was measured.

    Args:
        measured: by this peer.
        reported: from outside.

    Returns:
        The signals, the worst first.
    """
    lowest: dict[str, SignalStatus] = {}
    for signal in (*measured, *reported):
        if signal.name not in lowest or signal.health < lowest[signal.name].health:
            lowest[signal.name] = signal
    return _worst_first(lowest.values())


class _Entry(NamedTuple):
    signal: SignalStatus
    expires: float


class Reported:
    """Signals from outside, each until it expires. `now` is in seconds, on a clock that never goes back.

    May be used from any thread: a writer replaces the mapping as a whole, so a reader sees it before or after.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of two that write at once neither must undo the other
        self._entries: Mapping[str, _Entry] = {}

    def report(self, name: str, report: Report, now: float) -> None:
        """Take a signal, in place of an earlier one of that name.

        Args:
            name: up to 32 lower-case letters, digits and underscores.
            report: what it says, and for how long.
            now: in seconds.

        Raises:
            ConfigError: if it says too little, its unit is not the known signal's, or there are too many.
        """
        signal = _judged(name, report)
        with self._lock:
            kept = {key: entry for key, entry in self._entries.items() if entry.expires > now and key != name}
            if len(kept) >= REPORTS_MAX:
                raise ConfigError("signals", name, f"at most {REPORTS_MAX} at a time; forget one first")
            self._entries = {**kept, name: _Entry(signal, now + report.ttl_seconds)}

    def forget(self, name: str) -> bool:
        """Forget a signal.

        Args:
            name: of the signal.

        Returns:
            False if there was none.
        """
        with self._lock:
            there = name in self._entries
            self._entries = {key: entry for key, entry in self._entries.items() if key != name}
        return there

    def current(self, now: float) -> tuple[SignalStatus, ...]:
        """List the signals that have not expired.

        Args:
            now: in seconds.

        Returns:
            The worst first, each with the seconds that it has left.
        """
        return _worst_first(
            entry.signal.model_copy(update={"seconds_left": entry.expires - now})
            for entry in self._entries.values()
            if entry.expires > now
        )


def _judged(name: str, report: Report) -> SignalStatus:
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise ConfigError("signals", name, "a name of up to 32 lower-case letters, digits and underscores") from None
    ours = KNOWN[name](report.value) if name in KNOWN and report.value is not None else None
    if report.health is not None:
        value = math.nan if report.value is None else report.value
        unit = printable(report.unit) or (ours.unit if ours else "")
        text = (ours.text if ours else "") or "no reason was given; ask its reporter"
        signal = _signal(name, report.health, value, unit, text)
    elif ours is None:
        known = ", ".join(f"{key} ({_unit(key)})" for key in KNOWN)
        raise ConfigError("signals", name, f"needs a health from 0 to 1; a value alone is enough for {known}")
    elif report.unit not in ("", ours.unit):
        raise ConfigError("signals", report.unit, f"{name} is in {ours.unit}; convert the value, or give a health")
    else:
        signal = ours
    return signal.model_copy(update={"text": printable(report.text) or signal.text, "source": "reported"})


def _unit(name: str) -> str:
    signal = KNOWN[name](1.0)
    return signal.unit if signal else ""


def _signal(name: str, health: float, value: float = math.nan, unit: str = "", text: str = "") -> SignalStatus:
    known = value if math.isfinite(value) else None
    return SignalStatus(name=name, health=health, value=known, unit=unit, text=text if health < 1.0 else "")


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _worst_first(signals: Iterable[SignalStatus]) -> tuple[SignalStatus, ...]:
    return tuple(sorted(signals, key=lambda signal: (signal.health, signal.name)))
