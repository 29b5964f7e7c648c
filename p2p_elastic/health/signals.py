"""How much do training and network speak against this peer? Pure functions of what was measured of it.

    loss          not finite, or above where training began
    progress      the loss is behind that of the other peers
    speed         fewer steps per second than the other peers
    staleness     parameters are old when an exchange moves them
    exchanges     exchanges with most partners fail
    deadlines     exchanges time out
    link          slow exchanges
    relayed       other peers reach this one through a relay only

Each gives a signal with a health from 0 to 1, or None if nothing is known. If the health is below 1 the text
says what that means and what to do. All thresholds are this project's, none is from a paper. What speaks against the
machine is in `hardware.py`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from p2p_elastic.health.causes import FAILURES, Ended, Timing, advice, advice_on_failures, advice_on_silence
from p2p_elastic.health.checks import FAILURES_IN_A_ROW
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
LINK_BAD, LINK_GOOD = 20e3, 200e3  # bytes/s: at 20 kB/s even the small model of the digits takes seconds
LINK_BYTES_MIN = 256 * 1024  # with less, latency is measured instead
NOTHING_KNOWN = Timing()
RELAYED_HEALTH = 0.5  # a relay is slow and may limit time and bytes, but it works


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
        return judged("loss", 0.0, text=f"the loss is {loss}: {broken} copies healthy parameters")
    if initial is None or not 0.0 < initial < math.inf:
        return judged("loss", 1.0, loss)
    ratio = loss / initial
    health = ramp(ratio, bad=LOSS_BAD, good=LOSS_GOOD)
    if health >= 1.0:  # nearly always, after each exchange: a text costs more than all the rest
        return judged("loss", health, loss)
    text = f"the loss is {loss:.3g}, {ratio:.3g} times that at the start: it diverges; lower the learning rate"
    return judged("loss", health, loss, text=text)


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
        return judged("progress", health, behind, "of first loss")
    text = f"the loss is {loss:.3g}, the others' {median:.3g}: behind the swarm; see whether its data and network work"
    return judged("progress", health, behind, "of first loss", text)


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
        return judged("speed", health, rate, "steps/s")
    text = (
        f"{rate:.3g} steps per second, the others {median:.3g}: what it learns comes late; "
        "end other programs, or use a smaller batch or a faster device"
    )
    return judged("speed", health, rate, "steps/s", text)


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
        return judged("staleness", health, mean, "steps")
    text = (
        f"{mean:.3g} steps pass during an exchange, {enough:.3g} would be fine: parameters are old when they move; "
        f"{advice(timing)}"
    )
    return judged("staleness", health, mean, "steps", text)


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
        return judged("exchanges", health, share, "share")
    kinds = ", ".join(sorted({record.outcome.value for record in failed}))
    text = (
        f"the last exchange failed with {len(failed)} of {len(newest)} partners ({kinds}); "
        f"{advice_on_failures((record.outcome for record in failed), timing.load)}"
    )
    return judged("exchanges", health, share, "share", text)


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
        return judged("deadlines", health, share, "share")
    text = f"{late} of the last {len(records)} exchanges timed out; {advice_on_silence(records, timing)}"
    return judged("deadlines", health, share, "share", text)


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
        return judged("link", health, bytes_per_second, "B/s")
    text = f"exchanges move {bytes_per_second / 1e3:.3g} kB/s: others wait for this peer; {advice(timing)}"
    return judged("link", health, bytes_per_second, "B/s", text)


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
    return judged("relayed", RELAYED_HEALTH if only else 1.0, text=text)


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


def judged(name: str, health: float, value: float = math.nan, unit: str = "", text: str = "") -> SignalStatus:
    """Build a signal; one that speaks against nobody has no text.

    Args:
        name: of the signal.
        health: 0 to 1.
        value: what was measured; None is shown if it is not finite.
        unit: of the value.
        text: what a health below 1 means, and what to do.

    Returns:
        The signal.
    """
    known = value if math.isfinite(value) else None
    return SignalStatus(name=name, health=health, value=known, unit=unit, text=text if health < 1.0 else "")


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _worst_first(signals: Iterable[SignalStatus]) -> tuple[SignalStatus, ...]:
    return tuple(sorted(signals, key=lambda signal: (signal.health, signal.name)))
