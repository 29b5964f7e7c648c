from __future__ import annotations

import math
from typing import Any

import httpx
import pytest
from helpers.asking import ask, served
from helpers.statuses import status_of

from p2p_elastic.api.routes_control import BODY_BYTES_MAX
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.controls import Report
from p2p_elastic.status.schema import PeerStatus, SignalStatus

TOKEN = "a-token-of-this-peer"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}
WRITES = [
    ("PUT", "/v1/signals/temperature"),
    ("DELETE", "/v1/signals/temperature"),
    ("PUT", "/v1/weight"),
    ("DELETE", "/v1/weight"),
    ("POST", "/v1/drain"),
    ("POST", "/v1/resume"),
]


class FakePeer:
    """Controls and a status that follows them."""

    def __init__(self) -> None:
        self.signals: dict[str, Report] = {}
        self.weight: float | None = None
        self.drained = False
        self.phase = "training"

    def report(self, name: str, report: Report) -> None:
        if report.value is None and report.health is None:
            raise ConfigError("health", None, "give a number from 0 to 1")
        self.signals[name] = report

    def forget(self, name: str) -> bool:
        return self.signals.pop(name, None) is not None

    def override_weight(self, weight: float | None) -> None:
        self.weight = weight

    def drain(self) -> None:
        self.drained = True

    def undrain(self) -> None:
        self.drained = False

    def status(self) -> PeerStatus:
        reported = (
            SignalStatus(name=name, health=1.0 if r.health is None else r.health, value=r.value, source="reported")
            for name, r in self.signals.items()
        )
        return status_of(
            training={"phase": self.phase},
            weight=1.0 if self.weight is None else self.weight,
            weight_override=self.weight,
            drained=self.drained,
            signals=tuple(reported),
        )


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


def write(peer: FakePeer, method: str, path: str, **more: Any) -> httpx.Response:
    given = {"headers": WITH_TOKEN, "controls": peer, "token": TOKEN, **more}
    return ask(path, peer.status, method=method, **given)


def changed(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    value = answer.json()
    assert value.keys() == {"weight", "weight_override", "drained", "signals"}
    return dict(value)


def test_a_signal_is_reported_and_forgotten(peer: FakePeer) -> None:
    body = {"value": 91.5, "unit": "°C", "text": "it is hot", "ttl_seconds": 5}
    (signal,) = changed(write(peer, "PUT", "/v1/signals/temperature", json=body))["signals"]
    assert (signal["name"], signal["value"], signal["source"]) == ("temperature", 91.5, "reported")
    assert peer.signals["temperature"] == Report(value=91.5, unit="°C", text="it is hot", ttl_seconds=5.0)
    assert changed(write(peer, "DELETE", "/v1/signals/temperature"))["signals"] == []


def test_a_signal_that_nobody_reported_cannot_be_forgotten(peer: FakePeer) -> None:
    answer = write(peer, "DELETE", "/v1/signals/temperature")
    assert (answer.status_code, "temperature" in answer.json()["detail"]) == (404, True)


def test_the_weight_is_set_and_left_to_the_signals_again(peer: FakePeer) -> None:
    assert changed(write(peer, "PUT", "/v1/weight", json={"weight": 0}))["weight_override"] == 0.0
    assert changed(write(peer, "PUT", "/v1/weight", json={"weight": 0.25}))["weight"] == 0.25
    answer = changed(write(peer, "DELETE", "/v1/weight"))
    assert (answer["weight"], answer["weight_override"]) == (1.0, None)


def test_a_peer_is_drained_and_resumed(peer: FakePeer) -> None:
    assert changed(write(peer, "POST", "/v1/drain"))["drained"] is True
    assert changed(write(peer, "POST", "/v1/drain"))["drained"] is True
    assert changed(write(peer, "POST", "/v1/resume"))["drained"] is False


# Who may


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"],
)
def test_nobody_writes_without_the_token(peer: FakePeer, method: str, path: str, authorization: str | None) -> None:
    headers: Any = {"Authorization": authorization.encode()} if authorization else {}
    answer = write(peer, method, path, headers=headers, content=b"{" * 5000)  # nothing is said about the body
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json().keys() == {"detail"}
    assert TOKEN not in answer.text
    assert not peer.drained


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_where_no_token_is_known_nobody_writes_and_the_way_to_switch_it_on_is_said(
    peer: FakePeer, method: str, path: str
) -> None:
    for headers in (WITH_TOKEN, {}):
        answer = write(peer, method, path, token=None, headers=headers)
        assert answer.status_code == 403
        assert "--http-token-file" in answer.json()["detail"]


def test_reading_needs_no_token() -> None:
    assert ask("/v1/status", token=TOKEN).status_code == 200


def test_the_scheme_is_spelled_in_any_case(peer: FakePeer) -> None:
    changed(write(peer, "POST", "/v1/drain", headers={"authorization": f"bearer {TOKEN}"}))


# When


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_peer_that_has_not_begun_cannot_be_changed(peer: FakePeer, method: str, path: str) -> None:
    bodies = {"/v1/weight": {"weight": 1.0}, "/v1/signals/temperature": {"value": 1.0}}
    body = bodies[path] if method == "PUT" else None
    assert write(peer, method, path, json=body, controls=None).status_code == 409
    peer.phase = "starting"
    answer = write(peer, method, path, json=body)
    assert (answer.status_code, "starting" in answer.json()["detail"]) == (409, True)


# What


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "text/json"])
def test_only_json_is_taken(peer: FakePeer, kind: str | None) -> None:
    headers = {**WITH_TOKEN, **({"Content-Type": kind} if kind else {})}
    assert write(peer, "PUT", "/v1/weight", content=b'{"weight": 0.5}', headers=headers).status_code == 415
    assert peer.weight is None


JSON = {**WITH_TOKEN, "Content-Type": "application/json; charset=utf-8"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * BODY_BYTES_MAX,
        b"{}",
        b'{"weight": -0.1}',
        b'{"weight": 1.1}',
        b'{"weight": NaN}',
        b'{"weight": Infinity}',
        b'{"weight": null}',
        b'{"weight": "1"}',
        b'{"weight": true}',
        b'{"weight": 1, "more": 1}',
        b'{"weight": ' + b"9" * 4000 + b"}",
    ],
)
def test_what_is_no_weight_is_422_in_few_words(peer: FakePeer, content: bytes) -> None:
    answer = write(peer, "PUT", "/v1/weight", content=content, headers=JSON)
    assert answer.status_code == 422
    assert answer.json().keys() == {"detail"}
    assert len(answer.text) < 200
    assert peer.weight is None


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"value": "1"}', "value"),
        (b'{"value": 1e10}', "value"),
        (b'{"value": ' + b"9" * 4000 + b"}", "value"),
        (b'{"health": 2}', "health"),
        (b'{"health": 1, "ttl_seconds": 0}', "ttl_seconds"),
        (b'{"health": 1, "ttl_seconds": 1e6}', "ttl_seconds"),
        (b'{"health": 1, "text": "\\ud800"}', "text"),
        (b'{"health": 1, "unit": "' + b"x" * 17 + b'"}', "unit"),
        (b"{}", "health: got None; give a number from 0 to 1"),  # what the controls refuse
    ],
)
def test_what_is_no_report_is_422_with_the_key(peer: FakePeer, body: bytes, key: str) -> None:
    answer = write(peer, "PUT", "/v1/signals/disk", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["detail"].startswith(key)) == (422, True), answer.text
    assert peer.signals == {}


@pytest.mark.parametrize("name", ["Disk", "1", "a" * 33, "a%0A", "a-b", "%C3%A9", "%00"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_is_no_name_is_422(peer: FakePeer, name: str, method: str) -> None:
    body = {"health": 1.0} if method == "PUT" else None
    answer = write(peer, method, f"/v1/signals/{name}", json=body)
    assert (answer.status_code, answer.json()["detail"].startswith("name: ")) == (422, True), answer.text


def test_a_body_that_says_it_is_too_large_is_not_read(peer: FakePeer) -> None:
    for method, path in WRITES:
        answer = write(peer, method, path, content=b" " * (BODY_BYTES_MAX + 1), headers=JSON)
        assert (answer.status_code, "4096" in answer.json()["detail"]) == (413, True)


def test_a_body_that_does_not_say_how_large_it_is_is_cut_and_the_server_lives_on(peer: FakePeer) -> None:
    pieces = (b" " * 1000 for _ in range(100))
    with served(peer.status, controls=peer, token=TOKEN) as url:
        try:
            code = httpx.put(f"{url}/v1/weight", content=pieces, headers=JSON).status_code
        except httpx.HTTPError:  # it was still sending when it was cut off
            code = 413
        assert code == 413
        whole = iter([b'{"weight"', b":0.5}"])
        assert httpx.put(f"{url}/v1/weight", content=whole, headers=JSON).json()["weight"] == 0.5


def test_an_error_in_the_controls_is_a_500_in_json(peer: FakePeer) -> None:
    def fails() -> None:
        raise RuntimeError("secret")

    peer.drain = fails  # type: ignore[method-assign]
    answer = write(peer, "POST", "/v1/drain")
    assert (answer.status_code, answer.json().keys()) == (500, {"detail"})
    assert "secret" not in answer.text


def test_other_sites_get_no_leave(peer: FakePeer) -> None:
    asked = {"Origin": "http://evil", "Access-Control-Request-Method": "PUT"}
    answer = write(peer, "OPTIONS", "/v1/weight", headers=asked)
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_weight_that_is_not_finite_is_null_in_the_answer(peer: FakePeer) -> None:
    peer.weight = math.nan
    assert changed(write(peer, "POST", "/v1/resume"))["weight"] is None
