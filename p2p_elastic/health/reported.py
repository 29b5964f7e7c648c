"""Signals from outside: what an operator or another program says about this machine, until it expires."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from p2p_elastic.errors import ConfigError
from p2p_elastic.health.controls import Report, SignalName
from p2p_elastic.health.hardware import battery, memory, temperature, throttling
from p2p_elastic.health.signals import judged, link, merge
from p2p_elastic.protocol.messages import printable
from p2p_elastic.status.schema import SignalStatus

REPORTS_MAX = 32

_NAME: TypeAdapter[str] = TypeAdapter(SignalName)

KNOWN: Mapping[str, Callable[[float], SignalStatus | None]] = {
    "temperature": temperature,  # °C
    "battery": partial(battery, plugged=False),  # %; a report of it means that it matters
    "memory": memory,  # share that is left
    "link": link,  # bytes/s
    "throttling": throttling,  # share of the full clock
}
"""Signals whose health follows from one value, in the unit of the signal that they give."""


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
        signal = _checked(name, report)
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
        return merge(
            (),
            (
                entry.signal.model_copy(update={"seconds_left": entry.expires - now})
                for entry in self._entries.values()
                if entry.expires > now
            ),
        )


def _checked(name: str, report: Report) -> SignalStatus:
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise ConfigError("signals", name, "a name of up to 32 lower-case letters, digits and underscores") from None
    ours = KNOWN[name](report.value) if name in KNOWN and report.value is not None else None
    if report.health is not None:
        value = math.nan if report.value is None else report.value
        unit = printable(report.unit) or (ours.unit if ours else "")
        text = (ours.text if ours else "") or "no reason was given; ask its reporter"
        signal = judged(name, report.health, value, unit, text)
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
