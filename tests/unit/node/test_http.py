"""The window of a live peer: who may change something there, where it listens, and that it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from helpers.statuses import status_of

from p2p_elastic.common.addresses import is_loopback
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.sensors import Sensors
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.http import Window, token_of, with_preferred_port
from p2p_elastic.peers.discovery.live_network import NetworkThread
from p2p_elastic.status.schema import PeerStatus


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tokens are kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------- the token


def test_on_loopback_a_token_is_made_once_and_kept(state: Path) -> None:
    token, fresh = token_of(JoinConfig())
    assert token is not None
    assert fresh is not None
    assert state in fresh.parents
    assert fresh.read_text().strip() == token
    assert token_of(JoinConfig()) == (token, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "peer.example"])
def test_elsewhere_nobody_may_change_anything_unless_a_token_was_given(host: str, tmp_path: Path) -> None:
    assert token_of(JoinConfig(http_host=host)) == (None, None)
    token, fresh = token_of(JoinConfig(http_host=host, http_token_file=tmp_path / "mine"))
    assert token
    assert fresh == tmp_path / "mine"


def test_a_machine_that_can_keep_no_token_trains_all_the_same(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    (state / "p2p-elastic").write_text("in the way")
    assert token_of(JoinConfig()) == (None, None)
    assert "nothing can be changed over HTTP" in caplog.text


def test_a_token_file_that_was_named_and_cannot_be_used_is_an_error(state: Path) -> None:
    file = state / "token"
    file.write_text("short")
    with pytest.raises(ConfigError, match="http-token-file"):
        token_of(JoinConfig(http_token_file=file))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_what_only_this_machine_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


# ---------------------------------------------------------------- the port


def taking(*free: int) -> tuple[list[int], Callable[[int], object]]:
    tried: list[int] = []

    def use(port: int) -> None:
        tried.append(port)
        if port not in free:
            raise ConfigError("http-port" if port < 1000 else "http-host", port, "another one")

    return tried, use


def test_the_preferred_port_is_taken_where_it_is_free_and_any_otherwise() -> None:
    tried, use = taking(8, 0)
    with_preferred_port(None, 8, use)
    assert tried == [8]
    tried, use = taking(0)
    with_preferred_port(None, 8, use)
    assert tried == [8, 0]


def test_a_port_that_was_asked_for_is_taken_or_none() -> None:
    tried, use = taking(0)
    with pytest.raises(ConfigError):
        with_preferred_port(9, 8, use)
    assert tried == [9]


def test_another_problem_than_the_port_is_told() -> None:
    tried, use = taking(0)
    with pytest.raises(ConfigError, match="http-host"):
        with_preferred_port(None, 8000, use)
    assert tried == [8000]


# ---------------------------------------------------------------- as a whole


class Said:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def say(self, event: str, text: str, **facts: Any) -> None:
        self.events.append((event, text, facts))


def ask(url: str, method: str = "GET", body: object = None, token: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.request(method, url, json=body, headers=headers, timeout=10.0).raise_for_status().json()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_what_is_asked_of_the_window_reaches_the_peer_and_shows_in_its_history_and_events(tmp_path: Path) -> None:
    screen, sensors = Said(), Sensors(torch.device("cpu"))
    window = Window(JoinConfig(http_port=0), sensors)

    def status() -> PeerStatus:
        condition = window.condition
        return status_of(
            training={"step": 5},
            weight_override=condition.override,
            drained=condition.drained,
            signals=condition.signals(),
        )

    with NetworkThread() as thread:
        shown = window.open(thread, status, screen, None)  # type: ignore[arg-type]
        try:
            ((event, text, facts),) = screen.events
            token = Path(facts["file"]).read_text().strip()
            assert (event, facts["file"] in text) == ("token", True)
            assert token not in f"{text} {facts}"  # a log may be read by others
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                ask(f"{window.url}/v1/drain", "POST")
            report = {"value": 90.0, "ttl_seconds": 60.0}
            standing = ask(f"{window.url}/v1/signals/temperature", "PUT", report, token)
            assert [(s["name"], s["health"]) for s in standing["signals"]] == [("temperature", 0.5)]
            assert ask(f"{window.url}/v1/weight", "PUT", {"weight": 0.5}, token)["weight_override"] == 0.5
            assert ask(f"{window.url}/v1/drain", "POST", token=token)["drained"]
            assert window.condition.drained
            assert [event.kind for event in window.events.since(0)] == ["signal", "weight", "drained"]
            until(lambda: bool(window.history.points))
            assert ask(f"{window.url}/v1/history")["points"][0]["step"] == 5
        finally:
            window.close(thread)
            for one in shown:
                one.cancel()
            sensors.close()


def test_a_window_that_was_never_opened_gives_its_port_back() -> None:
    sensors = Sensors(torch.device("cpu"))
    window = Window(JoinConfig(http_port=0), sensors)
    port = window.port
    with NetworkThread() as thread:
        window.close(thread)
        again = Window(JoinConfig(http_port=port), sensors)
        assert again.port == port
        again.close(thread)
