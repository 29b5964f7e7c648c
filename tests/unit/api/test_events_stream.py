from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import httpx
import pytest
from helpers.asking import ask, served
from helpers.statuses import status_of

from p2p_elastic.api.events_stream import Streams
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import MemberStatus, PeerStatus


def quick(limit: int = 16) -> Streams:
    return Streams(limit=limit, poll_seconds=0.001, progress_seconds=0.005)


class Message(NamedTuple):
    kind: str
    id: int | None
    data: Any


def messages(lines: Iterator[str]) -> Iterator[Message]:
    """Server-sent events, as a browser reads them."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            assert name in {"retry", "event", "id", "data"}
            assert name not in fields
            fields[name] = value
        elif "data" in fields:
            number = fields.get("id")
            yield Message(fields["event"], None if number is None else int(number), json.loads(fields["data"]))
            fields = {}
        else:
            assert fields == {"retry": "2000"}
            fields = {}


def once(path: str = "/v1/events", **given: Any) -> list[Message]:
    answer = ask(path, **given)
    assert answer.status_code == 200
    return list(messages(iter(answer.text.split("\n")[:-1])))


def log_of(*texts: str) -> EventLog:
    log = EventLog(lambda: 5.0)
    for text in texts:
        log.add("exchange", text)
    return log


@contextmanager
def open_stream(url: str, headers: dict[str, str] | None = None) -> Iterator[Iterator[Message]]:
    with httpx.stream("GET", f"{url}/v1/events", headers=headers, timeout=5) as answer:
        assert answer.status_code == 200
        yield messages(answer.iter_lines())


def test_progress_comes_at_once_and_has_no_id() -> None:
    member = MemberStatus(peer="B", addresses=(), state="alive", step=1, loss=None, age_seconds=1)
    suspect = member.model_copy(update={"peer": "C", "state": "suspect"})
    training = {"step": 7, "steps_total": 9, "epoch": 0.5, "validation_accuracy": 0.8, "steps_per_second": 2.0}
    status = status_of(training=training, members=(member, suspect), weight=0.5)
    assert once(status=lambda: status) == [
        Message(
            "progress",
            None,
            {
                **{"step": 7, "steps_total": 9, "epoch": 0.5, "phase": "training", "loss": 1.0, "accuracy": 0.8},
                "metrics": {},
                **{"steps_per_second": 2.0, "weight": 0.5, "drained": False, "uptime_seconds": 100.0, "members": 1},
                "health": "ok",
            },
        )
    ]


def test_a_loss_that_is_not_finite_is_null_in_progress_and_the_peer_degraded() -> None:
    ((_, _, data),) = once(status=lambda: status_of(training={"loss": math.inf}))
    assert (data["loss"], data["health"]) == (None, "degraded")


def test_the_kept_events_come_first_each_on_one_line() -> None:
    log = log_of("one\nof\r\ntwo lines")
    log.add("trust", "another", partner="B", excess=math.nan)
    progress, *events = once(events=log)
    assert progress.kind == "progress"
    assert [(event.kind, event.id) for event in events] == [("exchange", 1), ("trust", 2)]
    assert events[0].data == {"id": 1, "at": 5.0, "kind": "exchange", "text": "one\nof\r\ntwo lines", "data": {}}
    assert events[1].data["data"] == {"partner": "B", "excess": None}


@pytest.mark.parametrize(
    ("path", "headers", "ids"),
    [
        ("/v1/events", {}, [1, 2, 3]),
        ("/v1/events?after=2", {}, [3]),
        ("/v1/events", {"Last-Event-ID": "1"}, [2, 3]),
        ("/v1/events?after=1", {"Last-Event-ID": "3"}, []),
        ("/v1/events?after=99", {}, [1, 2, 3]),  # the peer was started anew since
    ],
)
def test_a_stream_goes_on_after_the_last_event_that_was_seen(
    path: str, headers: dict[str, str], ids: list[int]
) -> None:
    _, *events = once(path, headers=headers, events=log_of("a", "b", "c"))
    assert [event.id for event in events] == ids


def test_exchanges_may_be_left_out_and_later_events_still_follow_in_order() -> None:
    log = log_of("a", "b")
    log.add("dead", "B is dead")
    log.add("exchange", "c")
    assert [event.id for event in once("/v1/events?exchanges=false", events=log)[1:]] == [3]
    assert [event.id for event in once("/v1/events?exchanges=false&after=3", events=log)[1:]] == []


@pytest.mark.parametrize(("path", "headers"), [("?after=-1", {}), ("?once=soon", {}), ("", {"Last-Event-ID": "x"})])
def test_parameters_that_cannot_be_are_422_in_our_words(path: str, headers: dict[str, str]) -> None:
    answer = ask(f"/v1/events{path}", headers=headers)
    assert answer.status_code == 422
    assert answer.json().keys() == {"detail"}


def test_streams_are_kept_by_nobody_on_the_way() -> None:
    headers = ask("/v1/events").headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_events_and_progress_arrive_as_they_happen() -> None:
    log = log_of()
    with served(events=log, streams=quick()) as url, open_stream(url) as stream:
        assert [next(stream).kind for _ in range(3)] == ["progress"] * 3
        log.add("joined", "B joined")
        assert next(message for message in stream if message.kind != "progress").data["text"] == "B joined"


def test_a_server_ends_though_streams_are_open() -> None:
    streams = Streams()  # the usual pauses: closing must not wait for them
    with ExitStack() as clients:
        with served(events=log_of("a"), streams=streams) as url:
            opened = [clients.enter_context(open_stream(url)) for _ in range(2)]
            assert [next(stream).kind for stream in opened] == ["progress"] * 2
            assert streams.open == 2
        assert streams.open == 0


def test_so_many_streams_and_no_more() -> None:
    streams = quick(limit=2)
    with served(streams=streams) as url:
        with open_stream(url) as first, open_stream(url) as second:
            assert next(first).kind == next(second).kind == "progress"
            refused = httpx.get(f"{url}/v1/events?once=true")
            assert refused.status_code == 503
            assert "2 streams" in refused.json()["detail"]
            assert httpx.get(f"{url}/health").status_code == 200
        with httpx.Client() as client:  # their places are free soon after they went
            codes = (client.get(f"{url}/v1/events?once=true").status_code for _ in range(1000))
            assert 200 in codes
    assert streams.open == 0


def test_one_client_leaves_places_for_the_others() -> None:
    streams = Streams(limit=4, limit_per_client=2, poll_seconds=0.001, progress_seconds=0.005)
    with served(streams=streams) as url:
        with open_stream(url) as first, open_stream(url) as second:
            assert next(first).kind == next(second).kind == "progress"
            refused = httpx.get(f"{url}/v1/events?once=true")
            assert (refused.status_code, "2 streams of events are open from 127.0.0.1" in refused.text) == (503, True)
            assert streams.why_full("10.0.0.9") is None
        assert once(streams=Streams(limit=4, limit_per_client=2, by_client=Counter({"10.0.0.9": 2})))
    assert not streams.by_client  # nobody is remembered


def test_a_stream_whose_status_fails_ends_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    good = [status_of(), status_of()]

    def status() -> PeerStatus:
        if not good:
            raise RuntimeError("broken")
        return good.pop()

    with served(status, streams=quick()) as url, open_stream(url) as stream:
        assert [message.kind for message in stream] == ["progress"]
    assert "RuntimeError: broken" in caplog.text
