"""What the machine, its operator and other programs say about this peer, and what they ask of it."""

from __future__ import annotations

from collections.abc import Callable

from p2p_elastic.errors import ConfigError
from p2p_elastic.health.controls import Report
from p2p_elastic.health.reported import Reported
from p2p_elastic.health.signals import merge
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import SignalStatus


class Condition:
    """Implements `health.controls.Controls`. Values are replaced whole: any thread may read them.

    Args:
        clock: monotonic seconds.
        sensors: what the machine says of itself; asked for at each `look`, so it must be quick.
        events: receives a line for each change; None: no events are written.

    Attributes:
        override: the weight that the operator set; None: the signals decide.
        drained: whether the peer begins and answers no exchanges.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        sensors: Callable[[], tuple[SignalStatus, ...]] = tuple,
        events: EventLog | None = None,
    ) -> None:
        self._clock, self._sensors, self._events = clock, sensors, events
        self._reported = Reported()
        self._measured: tuple[SignalStatus, ...] = ()
        self.override: float | None = None
        self.drained = False
        self._changed: Callable[[], None] = lambda: None

    def tells(self, changed: Callable[[], None]) -> None:
        """Call a function whenever somebody changed something, before that is answered.

        Args:
            changed: called without arguments, in the thread that asked for the change.
        """
        self._changed = changed

    def look(self) -> None:
        """Read the sensors again."""
        self._measured = self._sensors()

    def signals(self) -> tuple[SignalStatus, ...]:
        """Merge what is measured and what is reported.

        Returns:
            One signal of each name, the worse of the two; the worst first.
        """
        return merge(self._measured, self._reported.current(self._clock()))

    # -- controls.Controls --------------------------------------------------------------------------------------------

    def report(self, name: str, report: Report) -> None:
        """Take a signal from outside until it expires.

        Args:
            name: of the signal.
            report: what it says, and for how long.

        Raises:
            ConfigError: if it says too little, or there are too many.
        """
        self._reported.report(name, report, self._clock())
        value = "" if report.value is None else f" {report.value:g} {report.unit}".rstrip()
        self._note("signal", f"reported: {name}{value} for {report.ttl_seconds:g} s", name=name)

    def forget(self, name: str) -> bool:
        """Forget a signal from outside.

        Args:
            name: of the signal.

        Returns:
            False if there was none.
        """
        known = self._reported.forget(name)
        if known:
            self._note("signal", f"no longer reported: {name}", name=name)
        return known

    def override_weight(self, weight: float | None) -> None:
        """Set how much the peer counts, whatever its signals say.

        Args:
            weight: 0 to 1; None: let the signals decide again.

        Raises:
            ConfigError: for another number.
        """
        if weight is not None and not 0.0 <= weight <= 1.0:  # it goes into headers and records, which take no other
            raise ConfigError("weight", weight, "a number from 0 (copies, is not copied) to 1")
        self.override = weight
        said = "its signals decide how much it counts" if weight is None else f"its operator lets it count {weight:g}"
        self._note("weight", said, override=weight)

    def drain(self) -> None:
        """Begin and answer no exchanges from now on; training goes on."""
        if not self.drained:
            self.drained = True
            self._note("drained", "drained: begins and answers no exchanges")

    def undrain(self) -> None:
        """Exchange again."""
        if self.drained:
            self.drained = False
            self._note("resumed", "resumed: exchanges again")

    def _note(self, kind: str, text: str, **data: object) -> None:
        if self._events is not None:
            self._events.add(kind, text, **data)  # type: ignore[arg-type]  # kinds and data are written down above
        self._changed()
