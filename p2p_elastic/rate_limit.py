"""How often a peer may exchange, by its budget: so many bytes per second on average, or such a share of its time.

What is spent is charged when it is over; until the budget has paid for it, no further exchange begins (virtual
scheduling, the leaky bucket of ITU-T I.371 and of RFC 2697). So whatever comes, between the beginnings of any two
exchanges no more is spent than the budget allows in that time and in BURST_SECONDS more: debt is what was under way
when it closed, and silence saves up no more than that burst. While an exchange is under way it takes what the link
gives: what is bounded is the mean.

No clock of its own: whoever asks says what time it is, in seconds that only ever grow.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from p2p_elastic.errors import ConfigError
from p2p_elastic.status.schema import PaceStatus

BURST_SECONDS = 10.0  # unspent budget that is kept at most
DEBT_EXCHANGES = 3.0  # what cannot wait, or come again, may go so many exchanges' worth into debt
MEAN_SECONDS = 300.0  # what is shown is the mean of about so long
COST_GAIN = 1 / 8
UNLIMITED = "unlimited"
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
BANDWIDTH_MAX = 1e15


def parse_bandwidth(text: str) -> float | None:
    """Bytes per second, of a text like "500kB/s", "2MB/s", "4Mbit/s", or "250000"; None of "unlimited".

    Decimal units, bits or bytes spelled out: MB/s are megabytes, Mbit/s megabits. Raises ConfigError for any other.

    >>> parse_bandwidth("4Mbit/s")
    500000.0
    """
    if text == UNLIMITED:
        return None
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kMG]?)(B|bit)/s)?", text)
    found = 0.0
    if match is not None:
        number, prefix, unit = match.groups()
        found = float(number) * UNITS[prefix or ""] / (8.0 if unit == "bit" else 1.0)
    if not 1.0 <= found <= BANDWIDTH_MAX:
        allowed = f"bytes or bits per second, 1 byte at least: 500kB/s, 2MB/s, 4Mbit/s, 250000 (bytes), or {UNLIMITED}"
        raise ConfigError("max-bandwidth", text, allowed)
    return found


def used(pace: PaceStatus) -> str:
    """What exchanges took lately and what they may take, for people."""
    said = []
    if pace.max_bytes_per_second is not None:
        said.append(f"{_rate(pace.bytes_per_second or 0.0)} of {_rate(pace.max_bytes_per_second)}")
    if pace.max_share is not None:
        said.append(f"{pace.share or 0.0:.1%} of {pace.max_share:.1%} of the time")
    return ", ".join(said)


def _rate(bytes_per_second: float) -> str:
    unit = "M" if bytes_per_second >= 999_950 else "k"
    return f"{bytes_per_second / UNITS[unit]:.1f} {unit}B/s"


class _Recent(NamedTuple):
    """Spent, each amount less the longer ago it was; `began`: since when, `at`: until when (seconds)."""

    amount: float
    began: float
    at: float

    def faded(self, now: float) -> float:
        return self.amount * math.exp(-max(0.0, now - self.at) / MEAN_SECONDS)


class Bucket:
    """Of one thing, so much may be spent per second: `rate`, on average. Written by one thread, read by any."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_at = -math.inf  # when all that was spent is paid for
        self._recent: _Recent | None = None

    def spend(self, amount: float, began: float, now: float) -> None:
        """Since `began`, which was when it was allowed to, so much was spent."""
        self._paid_at = max(self._paid_at, began - BURST_SECONDS) + amount / self.rate
        before = self._recent or _Recent(0.0, began, now)
        self._recent = _Recent(before.faded(now) + amount, before.began, max(now, before.at))

    def wait(self, now: float) -> float:
        """Seconds until all is paid for; 0 where it is."""
        return max(0.0, self._paid_at - now)

    def mean(self, now: float) -> float:
        """Spent per second, over the last MEAN_SECONDS or so."""
        recent = self._recent
        if recent is None:
            return 0.0
        seen = max(now - recent.began, BURST_SECONDS)
        return recent.faded(now) / (MEAN_SECONDS * -math.expm1(-seen / MEAN_SECONDS))


class Budget:
    """What exchanges may cost one peer. Without limits it never closes. Written by one thread, read by any.

    Args:
        bytes_per_second: sent and received together; None: any number.
        share: of the wall-clock time in which an exchange is under way, above 0 and up to 1, which is no limit. Those
            that overlap count each: a bound that is kept all the more.
    """

    def __init__(self, bytes_per_second: float | None = None, share: float | None = None) -> None:
        assert bytes_per_second is None or bytes_per_second > 0.0, "a bandwidth of nothing"
        assert share is None or 0.0 < share <= 1.0, "no share of time"
        self._traffic = None if bytes_per_second is None else Bucket(bytes_per_second)
        self._time = None if share is None or share == 1.0 else Bucket(share)
        self.limited = self._traffic is not None or self._time is not None
        self.exchange_seconds = 0.0  # so long the budget pays for one exchange, smoothed; 0 before the first

    @classmethod
    def of(cls, max_bandwidth: str | None, max_share: float | None) -> Budget:
        """As the options say. Raises ConfigError."""
        return cls(None if max_bandwidth is None else parse_bandwidth(max_bandwidth), max_share)

    def spend(self, nbytes: int, seconds: float, now: float) -> None:
        """Charge what just ended: so many bytes, sent and received, in so many seconds of an exchange."""
        if self._traffic is not None:
            self._traffic.spend(nbytes, now - seconds, now)
        if self._time is not None:
            self._time.spend(seconds, now - seconds, now)

    def learn(self, nbytes: int, seconds: float) -> None:
        """One whole exchange is worth so much, beside `spend`."""
        cost, known = self.cost(nbytes, seconds), self.exchange_seconds
        self.exchange_seconds = known + COST_GAIN * (cost - known) if known else cost

    def cost(self, nbytes: int, seconds: float = 0.0) -> float:
        """How long the budget pays for that, in seconds."""
        traffic = 0.0 if self._traffic is None else nbytes / self._traffic.rate
        return max(traffic, 0.0 if self._time is None else seconds / self._time.rate)

    def wait(self, now: float) -> float:
        """Seconds until the next exchange may begin; 0 where it may now."""
        return max(0.0 if one is None else one.wait(now) for one in (self._traffic, self._time))

    def bears(self, now: float, nbytes: int) -> bool:
        """Whether what cannot wait may begin: the debt is not yet that of DEBT_EXCHANGES, of `nbytes` or more each."""
        return not self.limited or self.wait(now) <= DEBT_EXCHANGES * max(self.exchange_seconds, self.cost(nbytes))

    def status(self, now: float, period: float, steps_per_second: float | None) -> PaceStatus | None:
        """What people see of it; `period` in steps is that of the run. None without limits."""
        if not self.limited:
            return None
        steps = None if steps_per_second is None else self.exchange_seconds * steps_per_second
        traffic, time = self._traffic, self._time
        return PaceStatus(
            max_bytes_per_second=None if traffic is None else traffic.rate,
            bytes_per_second=None if traffic is None else traffic.mean(now),
            max_share=None if time is None else time.rate,
            share=None if time is None else time.mean(now),
            wait_seconds=self.wait(now),
            exchange_seconds=self.exchange_seconds,
            period=period if math.isfinite(period) else None,
            effective_period=None if steps is None or not math.isfinite(period) else max(period, steps),
        )
