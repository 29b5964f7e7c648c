from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest
from helpers.asking import ask as get
from helpers.asking import assert_free, served
from helpers.statuses import status_of
from pydantic import BaseModel, ValidationError

from p2p_elastic import api
from p2p_elastic.api import ApiServer, bind, create_app
from p2p_elastic.api.schemas import Peers
from p2p_elastic.api.server import REQUEST_HEAD_BYTES_MAX
from p2p_elastic.errors import ConfigError
from p2p_elastic.health import checks as health
from p2p_elastic.health import diagnose as why
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.events import KINDS
from p2p_elastic.status.history import History
from p2p_elastic.status.schema import FAILED_LATELY_SECONDS, BootstrapStatus, MemberStatus, PartnerStatus, PeerStatus

READS = {"/health", "/ready", "/v1/status", "/v1/peers", "/v1/swarm", "/v1/why", "/v1/history"}
READS |= {"/v1/events", "/metrics"}
README = (Path(api.__file__).parent / "README.md").read_text(encoding="utf-8")
OF_STATUS = READS - {"/v1/history"}
WRITES = {"/v1/signals/{name}": {"put", "delete"}, "/v1/weight": {"put", "delete"}}
WRITES |= {path: {"post"} for path in ("/v1/drain", "/v1/resume", "/v1/invites", "/v1/revocations")}


# The application


def test_health_is_200_when_ok_and_when_degraded() -> None:
    answer = get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reasons": []})
    answer = get("/health", lambda: status_of(training={"loss": math.nan}))
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert [reason["code"] for reason in answer.json()["reasons"]] == ["loss_not_finite"]


def test_ready_is_200_while_training_and_503_with_the_reason_otherwise() -> None:
    answer = get("/ready")
    assert (answer.status_code, answer.json()) == (200, {"ready": True})
    answer = get("/ready", lambda: status_of(training={"phase": "waiting"}))
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert answer.json()["reason"]["code"] == "not_training"


def test_status_comes_back_as_the_same_value() -> None:
    status = status_of(network={"bootstrap": (BootstrapStatus(address="/ip4/10.0.0.2/tcp/1"),)})
    answer = get("/v1/status", lambda: status)
    assert answer.headers["content-type"] == "application/json"
    assert PeerStatus.model_validate_json(answer.content) == status


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_null_in_valid_json(loss: float) -> None:
    answer = get("/v1/status", lambda: status_of(training={"loss": loss}))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert answer.status_code == 200
    assert json.loads(answer.text, parse_constant=refuse)["training"]["loss"] is None


def test_peers_are_the_members_and_the_partners() -> None:
    member = MemberStatus(peer="B", addresses=("/ip4/10.0.0.2/tcp/1",), state="alive", step=1, loss=None, age_seconds=1)
    partners = (PartnerStatus(peer="C", trust=0.5, exchanges={Outcome.HALF: 1}), PartnerStatus(peer="B"))
    answer = get("/v1/peers", lambda: status_of(members=(member,), partners=partners))
    assert Peers.model_validate_json(answer.content) == Peers(members=(member,), partners=partners)
    assert answer.json()["partners"][0]["exchanges"] == {"half": 1}


def test_why_says_what_is_in_the_way() -> None:
    answer = get("/v1/why", lambda: status_of(drained=True))
    assert (answer.status_code, answer.json()["progressing"]) == (200, False)
    assert "drained" in {reason["code"] for reason in answer.json()["reasons"]}


def test_history_is_the_curve_so_far_and_empty_where_none_is_kept() -> None:
    assert get("/v1/history").json() == {"points": []}
    history = History()
    history.observe(status_of(training={"loss": math.nan, "step": 7, "validation_accuracy": 0.5}))
    (point,) = get("/v1/history", history=history).json()["points"]
    assert point == {
        **{
            "seconds": 100.0,
            "step": 7,
            "loss": None,
            "accuracy": 0.5,
            "metrics": {},
            "weight": 1.0,
            "steps_per_second": None,
        }
    }


def test_an_error_in_status_is_a_500_in_json_and_its_details_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> PeerStatus:
        raise RuntimeError("secret")

    for path in OF_STATUS:
        answer = get(path, fails)
        assert answer.status_code == 500
        assert "log" in answer.json()["detail"]
        assert "secret" not in answer.text
    assert caplog.text.count("RuntimeError: secret") == len(OF_STATUS)


def test_the_status_is_read_anew_for_each_request_in_the_thread_that_serves() -> None:
    threads = []

    def status() -> PeerStatus:
        threads.append(threading.current_thread())
        return status_of()

    get("/health", status)
    get("/v1/status", status)
    assert threads == [threading.current_thread()] * 2


def test_answers_refuse_change() -> None:
    peers = Peers(members=(), partners=())
    with pytest.raises(ValidationError, match="frozen"):
        peers.members = ()  # type: ignore[misc]


def test_unknown_paths_and_methods_are_refused_in_json() -> None:
    assert (get("/nothing").status_code, get("/nothing").json()) == (404, {"detail": "Not Found"})
    reads = {path: "GET, HEAD" for path in ("/v1/status", "/openapi.json", "/")}
    for path, allowed in {**reads, "/v1/weight": "DELETE, PUT"}.items():
        answer = get(path, method="PATCH")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json() == {"detail": f"this address answers to {allowed}"}


# The documentation


def test_openapi_lists_every_operation_with_all_its_answers() -> None:
    document = get("/openapi.json").json()
    assert {path: set(methods) for path, methods in document["paths"].items()} == {p: {"get"} for p in READS} | WRITES
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        assert {"200", "500"} <= set(operation["responses"])
        for code, response in operation["responses"].items():
            ((kind, content),) = response["content"].items()
            assert kind.startswith("text/") or "$ref" in content["schema"]
            if int(code) >= 400 and operation["operationId"] != "ready":
                assert content["schema"]["$ref"] == "#/components/schemas/Problem"


def test_openapi_says_which_operations_need_the_token() -> None:
    document = get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == (path in WRITES)
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_docs_lists_endpoints_and_fields_and_needs_no_other_host() -> None:
    answer = get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.search(r"//|<script|<link|url\(|@import", answer.text)
    for words in (
        *READS,
        *WRITES,
        "NewWeight",
        "Bearer TOKEN",
        "text/event-stream",
        "last-event-id",
        "PeerStatus",
        "by_outcome",
        "seconds_since_step",
        "share of the validation split, 0..1",
    ):
        assert words in answer.text


def test_every_link_within_docs_has_its_target() -> None:
    text = get("/docs").text
    assert "`" not in text
    assert "<code>progress</code>" in text
    targets = re.findall(r'href="#([^"]+)"', text)
    assert targets
    assert all(f'id="{target}"' in text for target in targets)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_may_load_nothing_from_elsewhere_and_show_in_no_frame(path: str) -> None:
    answer = get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "script-src": "'unsafe-inline'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


def test_root_is_the_page_that_is_installed() -> None:
    page = Path(api.__file__).parent / "static" / "index.html"
    assert get("/").text == page.read_text(encoding="utf-8")


def test_the_page_shows_each_part_of_the_status() -> None:
    page = get("/").text
    told_elsewhere = {
        "schema_hash",
        "codec",
        "network",
        "partition",
        "not_finite",
        "other_models",
        "disk",
    }  # for programs, or among the reasons of /health
    for name in PeerStatus.model_fields.keys() - told_elsewhere:
        assert re.search(rf"\b{name}\b", page), name


def test_the_page_is_alarmed_by_failures_for_as_long_as_they_are_counted_as_late() -> None:
    assert f"const FAILED_LATELY_SECONDS = {FAILED_LATELY_SECONDS:.0f};" in get("/").text


def test_the_readme_names_every_address_and_every_code() -> None:
    codes = re.findall(r"^    (\w+(?:, \w+)*) {2,}", f"{why.__doc__}{health.__doc__}", re.MULTILINE)
    assert len(codes) > 15
    for word in (*READS, *WRITES, *", ".join(codes).split(", ")):
        assert word in README, word


def test_the_readme_and_the_documentation_name_every_kind_of_event() -> None:
    told = get("/openapi.json").json()["paths"]["/v1/events"]["get"]["description"]
    page = README.split("## GET /v1/events")[1].split("\n## ")[0]
    for kind in KINDS:
        assert re.search(rf"\b{kind}\b", told), kind
        assert f"`{kind}`" in page, kind


def fields_left_out(value: object) -> list[str]:
    if isinstance(value, BaseModel):
        below = [field for name in value.model_fields_set for field in fields_left_out(getattr(value, name))]
        return [*sorted(type(value).model_fields.keys() - value.model_fields_set), *below]
    return [field for one in value for field in fields_left_out(one)] if isinstance(value, tuple) else []


@pytest.mark.parametrize(("path", "kind"), [("/v1/status", PeerStatus), ("/v1/peers", Peers)])
def test_an_example_in_the_readme_has_every_field_of_an_answer(path: str, kind: type[BaseModel]) -> None:
    example = README.split(f"$ curl http://127.0.0.1:8870{path}\n")[1].split("```")[0]
    assert fields_left_out(kind.model_validate_json(example.replace("[...]", "[]"))) == []


def test_the_readme_shows_each_part_of_the_status_that_is_not_always_there() -> None:
    parts = PeerStatus.model_fields.keys() - {"checkpoint", "weight_override", "protocol"}  # null in old ones only
    absent = [name for name in parts if PeerStatus.model_fields[name].default is None]
    assert len(absent) == 8
    for name in absent:
        shown, _ = json.JSONDecoder().raw_decode(README.split(f'\n"{name}":')[1])
        value = getattr(status_of(**{name: shown}), name)
        assert value is not None
        assert fields_left_out(value) == []


# The server


def address_of(url: str) -> tuple[str, int]:
    parsed = httpx.URL(url)
    assert parsed.port is not None
    return parsed.host, parsed.port


def test_a_server_in_a_thread_answers_and_ends_though_connections_are_kept_alive() -> None:
    with httpx.Client() as client, served() as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert client.get(f"{url}/health").json()["status"] == "ok"
        assert client.get(f"{url}/v1/status").json()["run"] == "digits"


def test_a_server_ends_though_a_client_never_finishes_its_request() -> None:
    with socket.socket() as client, served() as url:
        client.settimeout(5)
        client.connect(address_of(url))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal")
        assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_a_server_ends_though_a_client_never_reads_its_answers() -> None:
    many = status_of(members=tuple(_member(index) for index in range(20_000)))
    asked = threading.Event()

    def status() -> PeerStatus:
        asked.set()
        return many

    with socket.socket() as client, served(status) as url:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address_of(url))
        client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(5)


def _member(index: int) -> MemberStatus:
    address = f"/ip4/10.0.0.2/tcp/{index}"
    return MemberStatus(peer=f"12D3{index}", addresses=(address,) * 4, state="alive", step=1, loss=1.0, age_seconds=1)


def test_a_failing_status_does_not_kill_the_server() -> None:
    errors = [RuntimeError("once")]

    def status() -> PeerStatus:
        if errors:
            raise errors.pop()
        return status_of()

    with served(status) as url, httpx.Client() as client:
        assert client.get(f"{url}/health").status_code == 500
        assert client.get(f"{url}/health").status_code == 200


def test_a_head_that_does_not_end_is_refused() -> None:
    with socket.socket() as client, served() as url:
        client.settimeout(5)
        client.connect(address_of(url))
        client.sendall(b"GET /health HTTP/1.1\r\nx: " + b"x" * (REQUEST_HEAD_BYTES_MAX + 1))
        assert client.recv(12) == b"HTTP/1.1 400"


def test_ipv6_urls_have_brackets() -> None:
    try:
        bind("::1", 0).close()
    except ConfigError:
        pytest.skip("no IPv6 on this machine")
    with served(host="::1") as url:
        assert re.fullmatch(r"http://\[::1\]:\d+", url)
        assert httpx.get(f"{url}/health").status_code == 200


def test_serving_in_the_main_thread_leaves_the_signals_alone() -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(one) for one in signals]
    during: list[object] = []

    def status() -> PeerStatus:
        during.extend(signal.getsignal(one) for one in signals)
        return status_of()

    async def serve_once() -> None:
        server = ApiServer(create_app(status), bind("127.0.0.1", 0))
        task = asyncio.create_task(server.serve())
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{server.url}/health")).status_code == 200
        await server.close()
        await task

    # asyncio.run would install a handler of its own.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(serve_once())
    loop.close()
    assert during == before
    assert [signal.getsignal(one) for one in signals] == before


def test_a_cancelled_server_frees_its_port() -> None:
    async def cancelled() -> int:
        sock = bind("127.0.0.1", 0)
        port: int = sock.getsockname()[1]
        server = ApiServer(create_app(status_of), sock)
        task = asyncio.create_task(server.serve())
        async with httpx.AsyncClient() as client:
            await client.get(f"{server.url}/health")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await server.close()
        return port

    assert_free("127.0.0.1", asyncio.run(cancelled()))


def test_a_server_closed_before_it_served_never_serves() -> None:
    async def closed() -> int:
        sock = bind("127.0.0.1", 0)
        port: int = sock.getsockname()[1]
        server = ApiServer(create_app(status_of), sock)
        await server.close()
        await server.serve()
        return port

    assert_free("127.0.0.1", asyncio.run(closed()))


def test_a_taken_port_is_named_with_a_way_out() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"http-port: got {port}; it is in use on 127.0.0.1; .*--http-port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="http-port") as caught:
        bind("127.0.0.1", port)
    assert caught.value.got == port


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "", "x" * 70])
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"http-host: .*--http-host") as caught:
        bind(host, 0)
    assert caught.value.got == host
