"""What happened lately, and how it went: bounded, in order, readable from any thread."""

from __future__ import annotations

import itertools
import threading

import pytest
from helpers.statuses import status_of

from p2p_elastic.status.events import EVENTS_KEPT, EventLog, Kind
from p2p_elastic.status.history import POINTS_MAX, History


def log() -> EventLog:
    return EventLog(lambda: 7.0)


# ---------------------------------------------------------------- events


def test_an_event_says_when_and_what_for_people_and_programs() -> None:
    events = log()
    events.add("joined", "b joined", peer="b", at_last=None)
    (event,) = events.since(0)
    assert (event.id, event.at, event.kind, event.text) == (1, 7.0, "joined", "b joined")
    assert event.data == {"peer": "b", "at_last": None}


def test_only_what_came_later_is_told_the_oldest_first() -> None:
    events = log()
    for number in range(6):
        events.add("exchange" if number % 2 else "weight", str(number))
    assert [event.text for event in events.since(0)] == ["0", "1", "2", "3", "4", "5"]
    assert [event.id for event in events.since(4)] == [5, 6]
    assert events.since(6) == events.since(99) == ()


def test_the_last_events_are_kept() -> None:
    events = log()
    for number in range(3 * EVENTS_KEPT):
        events.add("signal", str(number))
    assert [event.id for event in events.since(0)] == list(range(2 * EVENTS_KEPT + 1, 3 * EVENTS_KEPT + 1))


@pytest.mark.parametrize("kind", ["exchange", "weight"])
def test_however_many_there_are_of_a_kind_they_push_out_nothing_else(kind: Kind) -> None:
    events = log()
    events.add("joined", "b joined")
    for _ in range(5000):
        events.add(kind, "once more")
    events.add("drained", "drained")
    kept = events.since(0)
    assert (kept[0].kind, kept[-1].kind, len(kept)) == ("joined", "drained", EVENTS_KEPT + 2)
    assert [event.id for event in kept] == sorted(event.id for event in kept)


def test_who_reads_while_others_write_misses_nothing_and_sees_nothing_twice() -> None:
    events, writers, each = log(), 4, EVENTS_KEPT // 4
    begin = threading.Barrier(writers + 1)

    def write(number: int) -> None:
        begin.wait()
        for turn in range(each):
            events.add("exchange" if number % 2 else "signal", f"{number} {turn}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    begin.wait()
    seen: list[int] = []
    while len(seen) < writers * each:
        seen += [event.id for event in events.since(seen[-1] if seen else 0)]
    for thread in threads:
        thread.join()
    assert seen == list(range(1, writers * each + 1))


# ---------------------------------------------------------------- the curve


def observed(history: History, seconds: float) -> None:
    step = 1 + int(10 * seconds)
    training = {"step": step, "loss": 1.0, "validation_accuracy": 0.5, "steps_per_second": 10.0}
    history.observe(status_of(uptime_seconds=seconds, weight=0.75, training=training))


def test_a_point_is_where_the_peer_stood() -> None:
    history = History()
    observed(history, 3.0)
    (point,) = history.points
    assert (point.seconds, point.step, point.loss, point.accuracy) == (3.0, 31, 1.0, 0.5)
    assert (point.weight, point.steps_per_second) == (0.75, 10.0)


def test_before_it_trains_there_is_nothing_to_show() -> None:
    history = History()
    history.observe(status_of(training={"step": 0}))
    assert history.points == ()


def test_points_are_taken_at_most_so_often() -> None:
    history = History(2.0)
    for second in (0.0, 1.0, 1.9, 2.0, 3.0, 4.5, 6.0, 6.5):
        observed(history, second)
    assert [point.seconds for point in history.points] == [0.0, 2.0, 4.5, 6.5]


@pytest.mark.parametrize("seconds", [POINTS_MAX, 2 * POINTS_MAX + 1, 20_000])
def test_the_curve_is_of_the_whole_run_and_of_bounded_length_however_long_that_was(seconds: int) -> None:
    history, most = History(), 0
    for second in range(seconds):
        observed(history, float(second))
        most = max(most, len(history.points))
    times = [point.seconds for point in history.points]
    assert most <= POINTS_MAX
    assert len(times) >= POINTS_MAX / 2
    assert times[0] == 0.0
    gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert len(gaps) <= 2  # even, but where it was thinned out last
    assert seconds - times[-1] <= max(gaps)


def test_who_holds_the_points_sees_no_later_ones() -> None:
    history = History()
    observed(history, 1.0)
    seen = history.points
    observed(history, 2.0)
    assert len(seen) == 1
