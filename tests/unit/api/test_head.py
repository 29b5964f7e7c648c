"""HEAD, as uptime monitors ask: GET without a body, at every address."""

from __future__ import annotations

import warnings

import httpx
import pytest
from helpers.asking import ask, served
from helpers.statuses import status_of
from prometheus_client import ProcessCollector

READS = (
    "/",
    "/swarm",
    "/docs",
    "/openapi.json",
    "/health",
    "/ready",
    "/metrics",
    "/v1/status",
    "/v1/peers",
    "/v1/swarm",
    "/v1/why",
)


@pytest.fixture(autouse=True)
def resting_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `/metrics` says of the process changes from request to request."""
    monkeypatch.setattr(ProcessCollector, "collect", lambda _: [])


def same_but_for_the_body(head: httpx.Response, get: httpx.Response) -> None:
    assert head.status_code == get.status_code
    assert head.content == b""
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


@pytest.mark.parametrize("path", [*READS, "/v1/history", "/nothing", "/v1/events?after=-1"])
def test_head_is_get_without_a_body(path: str) -> None:
    same_but_for_the_body(ask(path, method="HEAD"), ask(path))


def test_a_probe_that_fails_says_so_to_head_too() -> None:
    assert ask("/ready", lambda: status_of(training={"phase": "waiting"}), method="HEAD").status_code == 503


@pytest.mark.parametrize("path", ["/v1/weight", "/v1/drain"])
def test_head_is_refused_where_get_is(path: str) -> None:
    head = ask(path, method="HEAD")
    same_but_for_the_body(head, ask(path))
    assert (head.status_code, "GET" in head.headers["allow"]) == (405, False)


def test_a_server_answers_head_with_the_length_of_get_and_the_connection_goes_on() -> None:
    with served() as url, httpx.Client(base_url=url, timeout=5.0) as client:
        for path in READS:
            head, get = client.head(path), client.get(path)
            same_but_for_the_body(head, get)
            assert int(head.headers["content-length"]) == len(get.content)


def test_head_of_a_stream_ends_at_once() -> None:
    with served() as url, httpx.Client(base_url=url, timeout=5.0) as client:
        head = client.head("/v1/events")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert client.get("/health").status_code == 200


def test_no_request_touches_the_warning_filters_of_the_process() -> None:
    """Two servers in two threads would disturb each other: FastAPI builds routes and documents when first asked."""

    class Refused(warnings.catch_warnings):
        def __enter__(self) -> None:
            raise AssertionError("the warning filters are of the whole process")

    paths = (*READS, "/v1/history", "/v1/events?once=true", "/v1/events?after=-1", "/nothing")
    with served() as first, served() as second, pytest.MonkeyPatch.context() as patch:  # pytest itself uses them after
        patch.setattr(warnings, "catch_warnings", Refused)
        found = [httpx.get(f"{url}{path}").status_code for url in (first, second) for path in paths]
        found += [httpx.patch(f"{first}/v1/status").status_code]
        found += [httpx.put(f"{first}/v1/weight", json={"weight": 1}).status_code]
    assert found == [*[200] * (len(paths) - 2), 422, 404] * 2 + [405, 403]
