"""What the machine, its operator and other programs say about a peer."""

from __future__ import annotations

import math
import threading

import pytest

from p2p_elastic.errors import ConfigError
from p2p_elastic.health.controls import Report
from p2p_elastic.health.operator import Condition
from p2p_elastic.health.reported import REPORTS_MAX
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import SignalStatus


class Machine:
    """A condition, its clock and its sensors."""

    def __init__(self) -> None:
        self.now, self.looks = 100.0, 0
        self.measured: tuple[SignalStatus, ...] = ()
        self.events = EventLog(lambda: 0.0)
        self.condition = Condition(lambda: self.now, self._read, self.events)

    def _read(self) -> tuple[SignalStatus, ...]:
        self.looks += 1
        return self.measured

    def healths(self) -> dict[str, float]:
        return {signal.name: signal.health for signal in self.condition.signals()}

    def told(self) -> list[str]:
        return [event.kind for event in self.events.since(0)]


def hot(celsius: float = 95.0, seconds: float = 60.0) -> Report:
    return Report(value=celsius, ttl_seconds=seconds)


def test_what_nobody_measured_or_reported_is_not_there() -> None:
    assert Condition(lambda: 0.0).signals() == ()


def test_a_report_holds_until_it_expires() -> None:
    machine = Machine()
    machine.condition.report("temperature", hot(90.0, 60.0))
    machine.now += 59.9
    (signal,) = machine.condition.signals()
    assert (signal.name, signal.health, signal.source) == ("temperature", 0.5, "reported")
    assert signal.seconds_left == pytest.approx(0.1)
    machine.now += 0.2
    assert machine.condition.signals() == ()
    assert machine.told() == ["signal"]


def test_a_report_can_be_forgotten_once() -> None:
    machine = Machine()
    machine.condition.report("fan", Report(health=0.25, text="it rattles"))
    assert machine.condition.forget("fan")
    assert not machine.condition.forget("fan")
    assert machine.condition.signals() == ()
    assert machine.told() == ["signal", "signal"]


def test_of_what_is_measured_and_reported_the_worse_counts() -> None:
    machine = Machine()
    machine.measured = (SignalStatus(name="temperature", health=0.5), SignalStatus(name="memory", health=1.0))
    machine.condition.look()
    machine.condition.report("temperature", hot(85.0))
    assert machine.healths() == {"temperature": 0.5, "memory": 1.0}
    machine.condition.report("temperature", hot(95.0))
    assert machine.healths() == {"temperature": 0.0, "memory": 1.0}


def test_the_sensors_are_read_when_it_looks_and_not_when_somebody_asks() -> None:
    machine = Machine()
    machine.measured = (SignalStatus(name="memory", health=0.5),)
    assert machine.condition.signals() == ()
    machine.condition.look()
    for _ in range(10):
        assert machine.healths() == {"memory": 0.5}
    assert machine.looks == 1


def test_a_report_that_says_too_little_is_refused_and_changes_nothing() -> None:
    machine = Machine()
    with pytest.raises(ConfigError, match="needs a health"):
        machine.condition.report("fan", Report(value=1.0))
    assert machine.condition.signals() == ()
    assert machine.told() == []


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf])
def test_a_weight_that_no_header_takes_is_refused(weight: float) -> None:
    machine = Machine()
    with pytest.raises(ConfigError, match="weight: got .*; a number from 0 .* to 1"):
        machine.condition.override_weight(weight)
    assert machine.condition.override is None


def test_an_override_can_be_set_and_ended() -> None:
    machine = Machine()
    machine.condition.override_weight(0.0)
    assert machine.condition.override == 0.0
    machine.condition.override_weight(None)
    assert machine.condition.override is None
    assert machine.told() == ["weight", "weight"]


def test_whoever_depends_on_it_is_told_of_each_change_and_of_nothing_else() -> None:
    machine, told = Machine(), []
    machine.condition.tells(lambda: told.append(len(machine.condition.signals())))
    machine.condition.report("temperature", hot())
    machine.condition.look()
    machine.condition.forget("temperature")
    machine.condition.forget("temperature")
    machine.condition.override_weight(0.5)
    assert told == [1, 0, 0]


def test_to_drain_twice_is_to_drain_once() -> None:
    machine = Machine()
    machine.condition.undrain()
    for _ in range(2):
        machine.condition.drain()
    assert machine.condition.drained
    for _ in range(2):
        machine.condition.undrain()
    assert not machine.condition.drained
    assert machine.told() == ["drained", "resumed"]


def test_reports_from_several_threads_do_not_undo_each_other() -> None:
    machine, begin = Machine(), threading.Barrier(4)

    def report(number: int) -> None:
        begin.wait()
        for turn in range(50):
            machine.condition.report(f"s{number}_{turn % (REPORTS_MAX // 4)}", Report(health=0.5))
            machine.condition.signals()

    threads = [threading.Thread(target=report, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(machine.condition.signals()) == REPORTS_MAX
