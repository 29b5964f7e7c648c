from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers.statuses import met
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.errors import ConfigError
from p2p_elastic.health import hardware, signals
from p2p_elastic.health.controls import Report
from p2p_elastic.health.reported import KNOWN, Reported
from p2p_elastic.health.signals import merge, worst
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.ramp import ramp
from p2p_elastic.status.schema import SignalStatus

OK, NO, LATE, GONE = Outcome.COMPLETED, Outcome.DECLINED, Outcome.TIMEOUT, Outcome.UNREACHABLE
FAILED = (Outcome.UNREACHABLE, Outcome.TIMEOUT, Outcome.BROKEN, Outcome.REFUSED, Outcome.HALF)
ANY = st.floats()  # NaN and infinities too
Maybe = float | None
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)


def signal(name: str, health: float, text: str = "") -> SignalStatus:
    return SignalStatus(name=name, health=health, text=text)


def check(found: SignalStatus | None, health: Maybe) -> None:
    """The expected health, and words exactly where something is wrong."""
    assert (found is None) == (health is None)
    if found is None or health is None:
        return
    assert found.health == pytest.approx(health, abs=1e-9)
    assert (len(found.text.split()) > 5) == (health < 1.0)
    assert found.source == "measured"


@pytest.mark.parametrize(
    ("value", "bad", "good", "expected"),
    [
        (-5.0, 0.0, 1.0, 0.0),
        (5.0, 0.0, 1.0, 1.0),
        (90.0, 95.0, 85.0, 0.5),
        (96.0, 95.0, 85.0, 0.0),
        (84.0, 95.0, 85.0, 1.0),
        (math.inf, 0.0, 1.0, 1.0),
        (math.nan, 0.0, 1.0, 0.0),
        (math.nan, 1.0, 0.0, 0.0),
    ],
)
def test_a_ramp_goes_from_bad_to_good(value: float, bad: float, good: float, expected: float) -> None:
    assert ramp(value, bad=bad, good=good) == pytest.approx(expected)


@given(ANY, ANY, NUMBERS, NUMBERS)
def test_a_ramp_is_monotone_and_stays_in_0_to_1(one: float, two: float, bad: float, good: float) -> None:
    if bad == good:
        return
    shares = [ramp(value, bad=bad, good=good) for value in (one, two)]
    assert all(0.0 <= share <= 1.0 for share in shares)
    if one <= two:
        assert shares[0] <= shares[1] if bad < good else shares[0] >= shares[1]


@pytest.mark.parametrize(
    ("loss", "initial", "health"),
    [
        (None, 2.0, None),
        (2.4, 2.0, 1.0),
        (3.2, 2.0, 0.5),
        (4.0, 2.0, 0.0),
        (1e300, 1e-300, 0.0),
        (math.nan, 2.0, 0.0),
        (math.inf, None, 0.0),
        (-math.inf, 2.0, 0.0),
        (9.0, None, 1.0),
        (9.0, 0.0, 1.0),
        (9.0, math.inf, 1.0),
    ],
)
def test_a_loss_above_where_training_began_diverges(loss: Maybe, initial: Maybe, health: Maybe) -> None:
    check(signals.loss(loss, initial), health)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_named(loss: float) -> None:
    found = signals.loss(loss, 2.0)
    assert found is not None
    assert found.value is None
    assert f"the loss is {loss}" in found.text
    assert "learning rate" in found.text


@pytest.mark.parametrize(
    ("loss", "others", "initial", "health"),
    [
        (1.3, (1.0, 1.0), 2.0, 1.0),
        (1.65, (1.0, 1.0, 1.0), 2.0, 0.5),
        (2.0, (1.0, 1.0, 1.0), 2.0, 0.0),
        (0.0, (1.0, 1.0), 2.0, 1.0),
        (0.01, (0.001, 0.001), 2.0, 1.0),  # ten times as high, and no difference
        (1.65, (0.0, 1.0, 9.0), 2.0, 0.5),  # the median
        (1.65, (-1e9, 1.65), 2.0, 1.0),  # one liar of two
        (1.65, (1.0,), 2.0, None),
        (1.65, (1.0, math.nan, None, math.inf), 2.0, None),
        (1.65, (1.0, 1.0, math.nan, None), 2.0, 0.5),
        (math.nan, (1.0, 1.0), 2.0, None),
        (1.65, (1.0, 1.0), 0.0, None),
        (1.65, (1.0, 1.0), math.inf, None),
    ],
)
def test_progress_is_how_far_the_loss_is_behind_the_others(
    loss: Maybe, others: tuple[Maybe, ...], initial: Maybe, health: Maybe
) -> None:
    check(signals.progress(loss, others, initial), health)


@pytest.mark.parametrize(
    ("rate", "others", "health"),
    [
        (5.0, (10.0,), 1.0),
        (2.5, (10.0,), 0.5),
        (0.0, (10.0,), 0.0),
        (2.5, (1.0, 10.0, 99.0), 0.5),
        (2.5, (2.5, 1e9), 1.0),  # one liar of two
        (2.5, (10.0, None, math.nan, math.inf), 0.5),
        (2.5, (0.0,), None),
        (2.5, (), None),
        (math.nan, (10.0,), None),
        (None, (10.0,), None),
    ],
)
def test_speed_is_relative_to_the_others(rate: Maybe, others: tuple[Maybe, ...], health: Maybe) -> None:
    check(signals.speed(rate, others), health)


@pytest.mark.parametrize(
    ("steps", "period", "health"),
    [
        ((32, 32, 32), 32.0, 1.0),
        ((144, 144, 144), 32.0, 0.5),
        ((256, 256, 256), 32.0, 0.0),
        ((0, 144, 288), 32.0, 0.5),
        ((2, 2, 2), 1.0, 1.0),
        ((36, 36, 36), 1.0, 0.5),  # as if every 8 steps
        ((36, 36, 36), math.nan, 0.5),
        ((256, 256), 32.0, None),
        ((256, 256, None), 32.0, None),
        ((144, None, 144, 144), 32.0, 0.5),
    ],
)
def test_staleness_is_relative_to_the_period(
    steps: tuple[int | None, ...], period: float, health: float | None
) -> None:
    check(signals.staleness(steps, period), health)


@pytest.mark.parametrize(
    ("outcomes", "health"),
    [
        ([], None),
        ([("B", OK)], 1.0),
        ([("B", GONE)], None),
        ([("B", GONE)] * 4, None),
        ([("B", GONE)] * 5, signals.NETWORK_MIN),
        ([("B", OK), *[("B", GONE)] * 5], signals.NETWORK_MIN),
        ([*[("B", GONE)] * 5, ("B", OK)], 1.0),
        ([("B", GONE), ("B", OK), *[("B", GONE)] * 4], None),
        ([("B", GONE), ("C", OK)], 1.0),
        ([("B", GONE), ("C", LATE), ("C", OK)], 1.0),
        ([("C", OK), ("B", GONE), ("C", LATE)], signals.NETWORK_MIN),
        ([("B", GONE), ("C", LATE), ("D", LATE), ("E", NO)], 0.5),
        *[([("B", GONE), ("C", failed)], signals.NETWORK_MIN) for failed in FAILED],
    ],
)
def test_exchanges_fail_with_most_partners(outcomes: list[tuple[str, Outcome]], health: Maybe) -> None:
    records = [met(partner, outcome, age=len(outcomes) - i) for i, (partner, outcome) in enumerate(outcomes)]
    check(signals.exchanges(records), health)
    check(signals.exchanges(records[::-1]), health)


def test_failed_exchanges_are_named() -> None:
    found = signals.exchanges([met("B", GONE), met("C", LATE), met("D", LATE), met("E", OK)])
    assert found is not None
    assert "3 of 4 partners (timeout, unreachable)" in found.text


@pytest.mark.parametrize(
    ("late", "other", "health"),
    [(4, 0, None), (5, 0, signals.NETWORK_MIN), (9, 1, signals.NETWORK_MIN), (6, 4, 0.5), (3, 7, 1.0), (0, 5, 1.0)],
)
def test_deadlines_are_the_share_of_timeouts(late: int, other: int, health: Maybe) -> None:
    check(signals.deadlines([met("B", LATE)] * late + [met("C", GONE)] * other), health)


@pytest.mark.parametrize(
    ("judge", "values", "unit"),
    [
        (hardware.memory, (0.02, 0.05, 0.08), "share"),
        (hardware.temperature, (95.0, 90.0, 85.0), "°C"),
        (hardware.throttling, (0.2, 0.5, 0.8), "share"),
        (lambda percent: hardware.battery(percent, False), (5.0, 17.5, 30.0), "%"),
        (lambda percent: hardware.battery(percent, None), (5.0, 17.5, 30.0), "%"),
        (signals.link, (20e3, math.sqrt(20e3 * 200e3), 200e3), "B/s"),
        (signals.link, (0.0, math.sqrt(20e3 * 200e3), 1e12), "B/s"),
    ],
)
def test_bad_middling_and_good_values_of_the_machine(judge: Any, values: tuple[float, ...], unit: str) -> None:
    for value, health in zip(values, (0.0, 0.5, 1.0), strict=True):
        check(judge(value), health)
        assert (judge(value).value, judge(value).unit) == (value, unit)


def test_a_battery_may_be_empty_while_the_machine_is_plugged_in() -> None:
    check(hardware.battery(1.0, True), 1.0)


CIRCUIT = "/ip4/1.2.3.4/tcp/1/p2p/12D3R/p2p-circuit/p2p/12D3A"


@pytest.mark.parametrize(
    ("addresses", "health"),
    [((), None), ((CIRCUIT,), 0.5), ((CIRCUIT, "/ip4/10.0.0.1/tcp/1"), 1.0), (("/ip4/10.0.0.1/tcp/1",), 1.0)],
)
def test_a_relay_is_half_a_network(addresses: tuple[str, ...], health: Maybe) -> None:
    check(signals.relayed(addresses), health)


def test_the_link_is_the_median_of_exchanges_that_moved_enough() -> None:
    half = 128 * 1024
    enough = {"bytes_sent": half, "bytes_received": half}
    rates = [met("B", OK, seconds=seconds, **enough) for seconds in (1.0, 2.0, 4.0)]
    assert signals.link_rate(rates) == half
    ignored = [
        met("B", OK, seconds=0.001, bytes_sent=half, bytes_received=half - 1),
        met("B", OK, seconds=0.0, **enough),
        met("B", LATE, seconds=100.0, **enough),
    ]
    assert signals.link_rate([*ignored, *rates]) == half
    assert signals.link_rate(ignored) is None


# Of one value: whether more of it is better (1), worse (-1), or neither.
JUDGES: dict[str, tuple[Callable[[float], SignalStatus | None], int]] = {
    "loss": (lambda x: signals.loss(x, 2.0), -1),
    "loss, initial": (lambda x: signals.loss(2.0, x), 0),
    "progress": (lambda x: signals.progress(x, (1.0, 1.1, 1.2), 2.0), -1),
    "progress, others": (lambda x: signals.progress(1.5, (x, 1.0, x), 2.0), 1),
    "progress, initial": (lambda x: signals.progress(1.5, (1.0, 1.0), x), 0),
    "speed": (lambda x: signals.speed(x, (10.0,)), 1),
    "speed, others": (lambda x: signals.speed(5.0, (x,)), -1),
    "staleness, period": (lambda x: signals.staleness((90, 90, 90), x), 1),
    "memory": (hardware.memory, 1),
    "temperature": (hardware.temperature, -1),
    "throttling": (hardware.throttling, 1),
    "battery": (lambda x: hardware.battery(x, False), 1),
    "link": (signals.link, 1),
}


@pytest.mark.parametrize("name", JUDGES)
@given(one=ANY | st.floats(0.0, 200.0), two=ANY | st.floats(0.0, 200.0))
def test_health_is_within_0_to_1_and_goes_one_way(name: str, one: float, two: float) -> None:
    judge, direction = JUDGES[name]
    low, high = judge(min(one, two)), judge(max(one, two))
    for found in (low, high):
        assert found is None or (0.0 <= found.health <= 1.0 and (found.value is None or math.isfinite(found.value)))
    if direction and low and high and math.isfinite(one) and math.isfinite(two):
        assert (high.health - low.health) * direction >= 0.0


@pytest.mark.parametrize("name", [name for name in JUDGES if "," not in name])
def test_a_value_that_was_not_measured_is_no_signal_but_a_broken_loss_is(name: str) -> None:
    found = JUDGES[name][0](math.nan)
    assert (found.health if found else None) == (0.0 if name == "loss" else None)


def test_the_worst_signal_decides() -> None:
    assert worst([signal("a", 0.9), signal("b", 0.2), signal("c", 1.0)]) == 0.2
    assert worst([]) == 1.0


def test_of_two_signals_of_a_name_the_worse_one_counts() -> None:
    measured = [signal("b", 0.5, "ours"), signal("c", 0.2, "ours"), signal("a", 0.5, "ours")]
    reported = [signal("b", 0.1, "theirs"), signal("c", 0.9, "theirs"), signal("a", 0.5, "theirs"), signal("d", 0.0)]
    merged = merge(measured, reported)
    assert [(s.name, s.health, s.text) for s in merged] == [
        ("d", 0.0, ""),
        ("b", 0.1, "theirs"),
        ("c", 0.2, "ours"),
        ("a", 0.5, "ours"),
    ]
    assert merge([], []) == ()


@pytest.mark.parametrize(
    ("name", "value", "health"),
    [
        ("temperature", 90.0, 0.5),
        ("battery", 5.0, 0.0),
        ("memory", 0.05, 0.5),
        ("link", 2e4, 0.0),
        ("throttling", 1, 1),
    ],
)
def test_a_report_of_a_known_signal_needs_a_value_only(name: str, value: float, health: float) -> None:
    reported = Reported()
    reported.report(name, Report(value=value, ttl_seconds=10.0), now=100.0)
    (found,) = reported.current(103.0)
    ours = KNOWN[name](value)
    assert ours is not None
    assert found == ours.model_copy(update={"source": "reported", "seconds_left": 7.0})
    assert found.health == pytest.approx(health)


def test_a_report_may_say_itself_how_bad_it_is() -> None:
    reported = Reported()
    reported.report("room", Report(value=41.0, health=0.3, unit="°C", text="the door\x1b[2J is open"), now=0.0)
    reported.report("temperature", Report(value=99.0, health=0.9), now=0.0)
    reported.report("noise", Report(health=0.8), now=0.0)
    reported.report("fine", Report(health=1.0), now=0.0)
    room, noise, temperature, fine = reported.current(0.0)
    assert (room.name, room.value, room.unit, room.text) == ("room", 41.0, "°C", "the door?[2J is open")
    assert (temperature.health, temperature.unit) == (0.9, "°C")
    assert "99 °C" in temperature.text
    assert noise.text
    assert fine.text == ""
    assert {s.source for s in (room, noise, temperature, fine)} == {"reported"}


@pytest.mark.parametrize(
    ("name", "report", "words"),
    [
        (
            "room",
            Report(value=1.0),
            ("health", "temperature (°C)", "battery (%)", "link (B/s)", "memory", "throttling"),
        ),
        ("room", Report(), ("health",)),
        ("temperature", Report(), ("health", "temperature (°C)")),
        ("temperature", Report(value=180.0, unit="°F"), ("°F", "°C")),
        ("Room\n", Report(health=0.5), ("lower-case",)),
        ("", Report(health=0.5), ("lower-case",)),
        ("r" * 33, Report(health=0.5), ("32",)),
    ],
)
def test_a_report_that_says_too_little_is_refused(name: str, report: Report, words: tuple[str, ...]) -> None:
    reported = Reported()
    with pytest.raises(ConfigError) as caught:
        reported.report(name, report, now=0.0)
    assert caught.value.key == "signals"
    assert all(word in str(caught.value) for word in words)
    assert reported.current(0.0) == ()


def test_reports_expire_and_can_be_forgotten_or_replaced() -> None:
    reported = Reported()
    for name, health, ttl in (("a", 0.5, 10.0), ("b", 0.2, 20.0)):
        reported.report(name, Report(health=health, ttl_seconds=ttl), now=0.0)
    assert [(s.name, s.seconds_left) for s in reported.current(9.0)] == [("b", 11.0), ("a", 1.0)]
    assert [s.name for s in reported.current(10.0)] == ["b"]
    reported.report("b", Report(health=0.7, ttl_seconds=20.0), now=15.0)
    assert [(s.health, s.seconds_left) for s in reported.current(15.0)] == [(0.7, 20.0)]
    assert reported.forget("b")
    assert not reported.forget("b")
    assert reported.current(15.0) == ()


def test_there_is_room_for_so_many_reports_that_have_not_expired() -> None:
    reported = Reported()
    for index in range(32):
        reported.report(f"s{index}", Report(health=0.5, ttl_seconds=10.0 + index), now=0.0)
    reported.report("s0", Report(health=0.4, ttl_seconds=10.0), now=0.0)
    with pytest.raises(ConfigError, match="signals: got 'more'; at most 32"):
        reported.report("more", Report(health=0.5), now=9.0)
    assert len(reported.current(9.0)) == 32
    reported.report("more", Report(health=0.5), now=10.0)
    assert len(reported.current(10.0)) == 32


def test_of_two_reports_at_once_none_is_lost() -> None:
    reported = Reported()
    other = threading.Thread(target=reported.report, args=("other", Report(health=0.5), 0.0))

    class Meanwhile(float):
        """A time; while the first report adds its own to it, the other one comes."""

        def __add__(self, seconds: float) -> float:
            other.start()
            other.join(0.1)
            return super().__add__(seconds)

    reported.report("one", Report(health=0.5), now=Meanwhile(0.0))
    other.join()
    assert [s.name for s in reported.current(0.0)] == ["one", "other"]


@pytest.mark.parametrize(
    ("loss", "others", "initial", "expected"),
    [
        (0.5, [0.4], 2.3, True),  # one other is enough
        (0.74, [0.4, 0.4], 2.3, True),
        (0.76, [0.4, 0.4], 2.3, False),
        (2.3, [0.4, 2.3], 2.3, True),  # of two the worse one
        (0.01, [0.001], 2.3, True),
        (2.3, [], 2.3, True),
        (2.3, [None, math.nan], 2.3, True),
        (2.3, [0.4], None, True),
        (2.3, [0.4], 0.0, True),
        (None, [0.4], 2.3, False),
        (math.nan, [], 2.3, False),
        (math.inf, [0.4], 2.3, False),
    ],
)
def test_a_newcomer_is_in_range_where_it_is_not_clearly_behind_the_others(
    loss: float | None, others: list[float | None], initial: float | None, expected: bool
) -> None:
    assert signals.in_range(loss, others, initial) is expected
