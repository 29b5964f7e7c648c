"""How often a peer may exchange, by its budget: bytes per second on average, or a share of its time.

What is spent is charged when it is over; until the budget has paid for it, no further exchange begins (virtual
scheduling, the leaky bucket of ITU-T I.371 and of RFC 2697). So whatever comes, between the beginnings of any two
exchanges no more is spent than the budget allows in that time and in BURST_SECONDS more: debt is what was under way
when it closed, and silence saves up no more than that burst. While an exchange is under way it takes what the link
gives: what is bounded is the mean.

It has no clock of its own: the caller says what time it is, in seconds that only ever grow.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from p2p_elastic.errors import ConfigError
from p2p_elastic.status.schema import PaceStatus

BURST_SECONDS = 10.0  # unspent budget that is kept at most
DEBT_EXCHANGES = 3.0  # exchanges' worth of debt that is allowed to what cannot wait, or come again
MEAN_SECONDS = 300.0  # what is shown is the mean of about this time
COST_GAIN = 1 / 8  # of a new exchange in the smoothed cost
UNLIMITED = "unlimited"
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
BANDWIDTH_MAX = 1e15


def parse_bandwidth(text: str, key: str = "max-bandwidth") -> float | None:
    """Bytes per second, of a text like "500kB/s", "2MB/s", "4Mbit/s", or "250000".

    Args:
        text: decimal units, bits or bytes spelled out: MB/s are megabytes, Mbit/s megabits; "unlimited" is no limit.
        key: option in the error.

    Returns:
        Bytes per second, 1 to 1e15; None for "unlimited".

    Raises:
        ConfigError: for any other text.

    Example:
        >>> parse_bandwidth("4Mbit/s"), parse_bandwidth("unlimited")
        (500000.0, None)
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
        raise ConfigError(key, text, allowed)
    return found


def used(pace: PaceStatus) -> str:
    """What exchanges took lately and what they may take, for people.

    Args:
        pace: the limits and the means, as `Budget.status` gives them.

    Returns:
        One line, such as "0.4 MB/s of 1.0 MB/s, 3.0% of 10.0% of the time"; empty without limits.
    """
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
    """What was spent, each amount less the longer ago it was; `began`: since when, `at`: until when (seconds)."""

    amount: float
    began: float
    at: float

    def faded(self, now: float) -> float:
        return self.amount * math.exp(-max(0.0, now - self.at) / MEAN_SECONDS)


class Bucket:
    """A budget of one resource that refills at a constant rate. Written by one thread, read by any.

    Args:
        rate: what may be spent per second on average, above 0: bytes, or seconds of exchange.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_at = -math.inf  # when all that was spent is paid for
        self._recent: _Recent | None = None

    def spend(self, amount: float, began: float, now: float) -> None:
        """Charge an amount, once it is spent.

        Args:
            amount: bytes or seconds.
            began: when that began, in seconds; the budget allowed it then.
            now: when it ended, in seconds.
        """
        self._paid_at = max(self._paid_at, began - BURST_SECONDS) + amount / self.rate
        before = self._recent or _Recent(0.0, began, now)
        self._recent = _Recent(before.faded(now) + amount, before.began, max(now, before.at))

    def wait(self, now: float) -> float:
        """Seconds until all is paid for.

        Args:
            now: in seconds.

        Returns:
            0 if it is paid for.
        """
        return max(0.0, self._paid_at - now)

    def mean(self, now: float) -> float:
        """What was spent per second, over about the last MEAN_SECONDS.

        Args:
            now: in seconds.

        Returns:
            Bytes or seconds per second; 0 before the first amount.
        """
        recent = self._recent
        if recent is None:
            return 0.0
        seen = max(now - recent.began, BURST_SECONDS)
        return recent.faded(now) / (MEAN_SECONDS * -math.expm1(-seen / MEAN_SECONDS))


class Budget:
    """What exchanges may cost one peer. Without limits it never closes. Written by one thread, read by any.

    Args:
        bytes_per_second: sent and received together; None: any number.
        share: of the wall-clock time with an exchange under way, above 0 and up to 1; 1 and None: no limit.
            Exchanges that overlap count each: a bound that is kept all the more.

    Attributes:
        limited: whether there is a limit at all.
        exchange_seconds: how long the budget pays for one exchange, smoothed; 0 before the first.
    """

    def __init__(self, bytes_per_second: float | None = None, share: float | None = None) -> None:
        assert bytes_per_second is None or bytes_per_second > 0.0, "a bandwidth of nothing"
        assert share is None or 0.0 < share <= 1.0, "no share of time"
        self._traffic = None if bytes_per_second is None else Bucket(bytes_per_second)
        self._time = None if share is None or share == 1.0 else Bucket(share)
        self.limited = self._traffic is not None or self._time is not None
        self.exchange_seconds = 0.0  # how long the budget pays for one exchange, smoothed; 0 before the first

    @classmethod
    def of(cls, max_bandwidth: str | None, max_share: float | None) -> Budget:
        """Build the budget that the options ask for.

        Args:
            max_bandwidth: as `parse_bandwidth` reads it; None: no limit.
            max_share: above 0 and up to 1; None: no limit.

        Returns:
            The budget.

        Raises:
            ConfigError: if the bandwidth cannot be read.
        """
        return cls(None if max_bandwidth is None else parse_bandwidth(max_bandwidth), max_share)

    def spend(self, nbytes: int, seconds: float, now: float) -> None:
        """Charge what just ended.

        Args:
            nbytes: sent and received together.
            seconds: how long the exchange took.
            now: in seconds.
        """
        if self._traffic is not None:
            self._traffic.spend(nbytes, now - seconds, now)
        if self._time is not None:
            self._time.spend(seconds, now - seconds, now)

    def learn(self, nbytes: int, seconds: float) -> None:
        """Learn what one whole exchange costs; this charges nothing, `spend` does.

        Args:
            nbytes: sent and received together.
            seconds: how long it took.
        """
        cost, known = self.cost(nbytes, seconds), self.exchange_seconds
        self.exchange_seconds = known + COST_GAIN * (cost - known) if known else cost

    def cost(self, nbytes: int, seconds: float = 0.0) -> float:
        """How long the budget pays for an exchange.

        Args:
            nbytes: sent and received together.
            seconds: how long it takes.

        Returns:
            Seconds, by the stricter of the two limits; 0 without limits.

        Example:
            >>> Budget(bytes_per_second=1000.0, share=0.1).cost(5000, 1.0)
            10.0
        """
        traffic = 0.0 if self._traffic is None else nbytes / self._traffic.rate
        return max(traffic, 0.0 if self._time is None else seconds / self._time.rate)

    def wait(self, now: float) -> float:
        """Seconds until the next exchange may begin.

        Args:
            now: in seconds.

        Returns:
            0 if it may begin now.
        """
        return max(0.0 if one is None else one.wait(now) for one in (self._traffic, self._time))

    def bears(self, now: float, nbytes: int) -> bool:
        """Whether an exchange that cannot wait may begin although the budget is spent.

        Args:
            now: in seconds.
            nbytes: what it will send and receive.

        Returns:
            True until the debt is that of DEBT_EXCHANGES, of `nbytes` or more each.
        """
        return not self.limited or self.wait(now) <= DEBT_EXCHANGES * max(self.exchange_seconds, self.cost(nbytes))

    def status(self, now: float, period: float, steps_per_second: float | None) -> PaceStatus | None:
        """What people see of the budget.

        Args:
            now: in seconds.
            period: the run's mean steps between two exchanges that a peer asks for; may be infinite.
            steps_per_second: of this peer; None if not known.

        Returns:
            Limits, means and waiting time; None without limits.
        """
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
