"""`p2p-elastic status` against the real application, and against everything that is not a peer."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import pytest
from click.testing import CliRunner, Result
from helpers.asking import ask as get
from helpers.asking import served
from helpers.statuses import status_of
from rich.console import Console

from p2p_elastic import __version__
from p2p_elastic.api import bind
from p2p_elastic.cli.status import status
from p2p_elastic.client.reading import ANSWER_BYTES_MAX, tame
from p2p_elastic.client.status import PORT, BaseUrl, ask, ask_all, exit_code, parse_url
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import HTTP_PORT
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.screens.status import line, view
from p2p_elastic.status.schema import (
    BootstrapStatus,
    CentreStatus,
    ExchangeTotals,
    LeaderStatus,
    MemberStatus,
    PaceStatus,
    PeerStatus,
)

pytestmark = pytest.mark.processes

Serve = Callable[[socket.socket], None]
MEMBER = MemberStatus(peer="12D3KooWpartner1", addresses=(), state="suspect", step=7, loss=0.5, age_seconds=90)


def peer(read: Callable[[], PeerStatus] = status_of, port: int = 0) -> AbstractContextManager[str]:
    """The real application on that port, or a free one, in a thread."""
    return served(read, port=port)


@contextmanager
def impostor(serve: Serve) -> Iterator[str]:
    """Something on a free port that does `serve` with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def one(connection: socket.socket) -> None:
            with connection:
                connection.settimeout(10)
                with suppress(OSError):
                    serve(connection)

        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=work, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def saying(head: str, body: bytes = b"") -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

    return serve


def answering(**by_path: bytes) -> Serve:
    """200 with a JSON body for `status` and `health`."""

    def serve(connection: socket.socket) -> None:
        path = connection.recv(65536).split()[1].decode().rsplit("/", 1)[1]
        body = by_path.get(path, b'{"status": "ok"}')
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return serve


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(status_of().model_dump_json()) | changes).encode()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(status, [*arguments], catch_exceptions=False)


def problem_of(serve: Serve, seconds: float = 5.0) -> tuple[str, str]:
    with impostor(serve) as url:
        answer = ask(parse_url(url), seconds)
    assert answer.state == "unreachable"
    assert answer.problem is not None
    return answer.problem.kind, answer.problem.text


# ---------------------------------------------------------------- real peers


def test_the_run_as_a_whole_is_shown_as_text_and_as_json() -> None:
    with peer(lambda: status_of(members=(MEMBER,), network={"members_about": 90})) as url:
        told = CliRunner().invoke(status, ["--swarm", url])
        assert told.exit_code == 0
        assert "about 90 members, of which this shows 2" in told.output
        assert "suspect" in told.output
        swarm = json.loads(CliRunner().invoke(status, ["--swarm", "--json", url]).output)
        assert (swarm["members"], swarm["seen"], swarm["attention_in_all"]) == (90, 2, 1)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        both = CliRunner().invoke(status, ["--swarm", url, nobody])
        assert both.exit_code == 2
        assert "of which this shows 2" in both.output
        assert nobody in both.output
        alone = CliRunner().invoke(status, ["--swarm", nobody])
        assert alone.exit_code == 2
        assert "unreachable" in alone.output


def test_a_well_peer_is_shown_in_detail_and_exits_with_0() -> None:
    read = status_of(members=(MEMBER,), leaders=LeaderStatus(group="attic", leader="12D3A", leader_of_all=None,
                     snapshots_published=1, disbelieved={}))  # fmt: skip
    with peer(lambda: read) as url:
        result = run(url)
    assert result.exit_code == 0
    for expected in ("ok", url, "run digits", "training", "rule", "elastic", "weight     1", "3 completed", "suspect"):
        assert expected in result.output
    assert "partner1  suspect  7     0.5000  1       -      -         -          90 s ago" in result.output
    assert "leader this peer" in result.output


def test_a_budget_is_shown_where_there_is_one() -> None:
    pace = PaceStatus(max_bytes_per_second=5e5, bytes_per_second=4.8e5, wait_seconds=3.0, effective_period=52.0)
    with peer(lambda: status_of(pace=pace)) as url, peer(status_of) as free:
        said = "480.0 kB/s of 500.0 kB/s; an exchange about every 52 steps, the next in 3 s"
        assert said in run(url).output
        assert "budget" not in run(free).output


def test_who_cannot_be_dialled_and_who_relays_say_so() -> None:
    relay = {"places": 2, "circuits": 0, "bytes_passed_on": 64_000, "max_bytes_per_second": 1e6}
    hidden = {"reachable": False, "relays": ("12D3KooWGatU",)}
    with (
        peer(lambda: status_of(network=hidden)) as at_home,
        peer(lambda: status_of(network={"reachable": True, "relay": relay})) as outside,
        peer(status_of) as unknown,
    ):
        assert "members cannot dial this peer, through " in run(at_home).output
        assert "members can dial this peer; it leads to 2 others, and passed on 64" in run(outside).output
        assert "dialled" not in run(unknown).output


def test_a_peer_that_diverges_is_still_a_peer() -> None:
    with peer(lambda: status_of(training={"loss": 3e38, "steps_per_second": 2.0})) as url:
        result = run(url)
    assert result.exit_code == 0
    assert "loss       3e+38 " in result.output


def test_a_weight_has_two_digits() -> None:
    with peer(lambda: status_of(weight=0.615997)) as url, peer() as other:
        assert " 0.62 " in run(url, other).output


def test_failures_alarm_for_some_minutes_and_are_a_count_afterwards() -> None:
    for lately, said in ((2, "2 failed in the last 5 min"), (0, "")):
        totals = ExchangeTotals(by_outcome={Outcome.COMPLETED: 3, Outcome.TIMEOUT: 7}, failed_lately=lately)
        with peer(lambda totals=totals: status_of(exchanges=totals)) as url:  # type: ignore[misc]
            answers = ask_all([parse_url(url)], 5.0)
            console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="standard")
            console.print(view(answers))
            shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "7 timeout" in shown
        assert ("failed in the last" in shown, said in shown) == (lately > 0, True)
        assert ("\x1b[31m" in shown) == (lately > 0)  # red
        assert f"7 failed{' (2 lately)' if lately else ''}" in line(answers[0])


def test_it_says_how_long_training_still_takes() -> None:
    with peer(lambda: status_of(training={"step": 100, "steps_total": 400, "steps_per_second": 5.0})) as url:
        assert "5.0 steps/s   about 60 s left" in run(url).output


def test_who_only_holds_the_centre_has_no_steps() -> None:
    centre = CentreStatus(holder="12D3A", here=True, term=1, exchanges=9)
    with (
        peer(lambda: status_of(centre=centre, training={"phase": "holding", "metrics": {"accuracy": None}})) as url,
        peer() as other,
    ):
        alone, both, logged = run(url).output, run(url, other).output, line(ask(parse_url(url), 5.0))
    assert "role       does not train, holds the centre variable" in alone
    assert "step" not in alone
    assert "holding" in both
    assert "does not train" not in both  # the phase says it, in a column of its own
    assert "holding does not train, holds the centre variable accuracy" in logged


def test_a_degraded_peer_says_why_and_exits_with_1() -> None:
    with peer(lambda: status_of(training={"loss": math.nan})) as url:
        result = run(url)
    assert result.exit_code == 1
    assert "loss_not_finite: the loss is nan" in result.output


def test_several_peers_are_a_table_in_their_order_and_the_worst_decides() -> None:
    centre = CentreStatus(holder=None, here=False, term=2, exchanges=9)
    with peer() as first, peer(lambda: status_of(centre=centre, network={"restarts": 9})) as second:
        result = run(first, second)
        assert result.exit_code == 1
        assert run(first, second, "127.0.0.1:1").exit_code == 2
        assert run(first, first).output.count("ok") == run(first).output.count("ok")  # the same one, asked once
    rows = result.output.splitlines()
    assert rows[0].split()[:3] == ["health", "status", "at"]
    assert [row.split()[0] for row in rows[1:3]] == ["ok", "degraded"]
    assert "centre vacant, term 2, 9 exchanges" in rows[3]
    assert "centre_vacant: no member holds" in rows[4]
    assert "network_restarted: the network process" in rows[5]


def test_json_is_an_object_for_one_and_a_list_for_several() -> None:
    with peer(lambda: status_of(training={"loss": math.nan})) as url:
        one = json.loads(run("--json", url).stdout)
        several = json.loads(run("--json", url, "127.0.0.1:1").stdout)
    assert (one["state"], one["status"]["run"], one["status"]["training"]["loss"]) == ("degraded", "digits", None)
    assert one["health"]["reasons"][0]["code"] == "loss_not_finite"
    assert [(a["state"], a["problem"] and a["problem"]["kind"]) for a in several] == [
        ("degraded", None),
        ("unreachable", "refused"),
    ]


def test_a_peer_that_cannot_read_its_own_status_is_named_so() -> None:
    def broken() -> PeerStatus:
        raise RuntimeError

    with peer(broken) as url:
        result = run(url)
    assert result.exit_code == 2
    assert "the status of this peer could not be read; its log says why" in result.output


def test_a_name_that_the_peer_does_not_answer_for_is_explained() -> None:
    refusal = get("/v1/status", headers={"Host": "evil.example"})
    kind, text = problem_of(saying("HTTP/1.1 421 Misdirected Request", refusal.content))
    assert kind == "failing"
    assert "--http-allow-host" in text


def test_many_dead_peers_take_as_long_as_one() -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        urls = [stack.enter_context(impostor(lambda c: time.sleep(2))) for _ in range(8)]
        answers = ask_all([parse_url(url) for url in urls], 0.5)
    assert {a.problem.kind for a in answers if a.problem} == {"timed_out"}
    assert exit_code(answers) == 2
    assert time.monotonic() - began < 2.0


# ---------------------------------------------------------------- not peers


def test_nothing_there_is_refused_with_a_hint() -> None:
    result = run("127.0.0.1:1")
    assert result.exit_code == 2
    assert "refused: nothing listens there; is the peer running?" in result.output


def test_an_unknown_host_is_named() -> None:
    answer = ask(BaseUrl("no-such-host.invalid", 80), 5.0)
    assert answer.problem is not None
    assert "'no-such-host.invalid' is not known here" in answer.problem.text


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        (saying("HTTP/1.1 404 Not Found\nContent-Length: 0"), "it answers HTTP 404"),
        (
            saying("HTTP/1.1 302 Found\nLocation: http://evil/\x1b[2J\nContent-Length: 0"),
            "it redirects to http://evil/",
        ),
        (saying("HTTP/1.1 200 OK", b"<html>"), "no JSON"),
        (saying("HTTP/1.1 200 OK", b"\xff\xfe{}"), "no JSON"),
        (saying("HTTP/1.1 200 OK", b"[" * 200_000), "no JSON"),
        (saying("HTTP/1.1 200 OK", b"9" * 5000), "no JSON"),
        (saying("HTTP/1.1 200 OK", b"[]"), "its JSON is another"),
        (saying("HTTP/1.1 200 OK", b'{"hello": "world"}'), "its JSON is another"),
        (saying("HTTP/1.1 200 OK\nContent-Length: 100", b"{}"), "does not speak HTTP properly"),
        (saying("hello"), "does not speak HTTP properly"),
        (saying("\x13/multistream/1.0.0\n"), "that is a port for peers (libp2p)"),
        (lambda connection: None, "does not speak HTTP properly"),
    ],
)
def test_what_is_not_a_peer_is_said(serve: Serve, expected: str) -> None:
    kind, text = problem_of(serve)
    assert kind == "not_a_peer"
    assert expected in text
    assert "\x1b" not in text


def test_an_endless_body_is_cut_off() -> None:
    def endless(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 2**20)

    kind, text = problem_of(endless, 30.0)
    assert (kind, str(ANSWER_BYTES_MAX // 2**20) in text) == ("not_a_peer", True)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"])
def test_an_answer_that_drips_ends_with_the_deadline(head: bytes) -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.05)

    began = time.monotonic()
    kind, text = problem_of(drip, 0.5)
    assert kind == "timed_out"
    assert "no whole answer within 0.5 s" in text
    assert time.monotonic() - began < 2.0


# ---------------------------------------------------------------- other versions, hostile text


def test_unknown_fields_of_a_newer_version_are_named_and_the_rest_is_shown() -> None:
    training = status_of().training.model_dump() | {"gradient_norm": 3}
    with impostor(answering(status=changed(version="9.9", training=training, extra={"a": 1}))) as url:
        result = run(url)
    assert result.exit_code == 0
    assert f"runs p2p-elastic 9.9, this is {__version__}; not shown: extra, training.gradient_norm" in result.output
    assert "run digits" in result.output


def test_another_version_that_cannot_be_read_is_named() -> None:
    kind, text = problem_of(answering(status=changed(version="9.9", weight="heavy")))
    assert kind == "other_version"
    assert f"runs p2p-elastic 9.9, this is {__version__}: weight" in text


def test_unknown_fields_are_left_out_of_every_item_of_a_list() -> None:
    partner = {"peer": "B", "new": 1}
    partners = [partner, {"peer": "C", "last": status_record() | {"newer": 2}}, partner]
    read = changed(version="9.9", members=[MEMBER.model_dump() | {"new": 1}] * 2000, partners=partners)
    with impostor(answering(status=read)) as url:
        answer = ask(parse_url(url), 5.0)
    assert answer.status is not None
    assert (len(answer.status.members), len(answer.status.partners)) == (2000, 3)
    assert "not shown: members.new, partners.last.newer, partners.new" in answer.notes[0]


def status_record() -> dict[str, object]:
    numbers = dict.fromkeys(("step", "seconds", "bytes_sent", "bytes_received", "age_seconds"), 1)
    return {"id": "7c", "partner": "B", "initiated": True, "outcome": "completed"} | numbers


def test_the_largest_run_that_there_can_be_is_shown() -> None:
    peer, addresses = "12D3KooW" + "x" * 44, tuple(f"/ip4/10.100.100.{i}/tcp/40001" for i in range(100, 108))
    known = {"weight": 0.5, "steps_per_second": 12.125, "partners": (peer,) * 3, "heard_seconds": 1.0625}
    member = MemberStatus(
        peer=peer, addresses=addresses, state="alive", step=123_456, loss=0.5, age_seconds=2.125, **known
    )
    members = 17 * 1000  # keys of the directory, and what each holds
    with impostor(answering(status=changed(members=[member.model_dump()] * members))) as url:
        answer = ask(parse_url(url), 30.0)
    assert answer.status is not None
    assert len(answer.status.members) == members


def whole(start: bytes, item: bytes, count: int, end: bytes) -> bytes:
    return start + b",".join([item] * count) + end


HOSTILE = b'{"version": "9", "peer": "x", '


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (200, whole(HOSTILE + b'"members": [', b"0", 400_000, b"]}")),
        (200, whole(HOSTILE + b'"members": [', b"{}", 200_000, b"]}")),
        (200, whole(HOSTILE + b'"partners": [', b'{"": 0}', 100_000, b"]}")),
        (200, whole(HOSTILE + b'"junk": [', b'{"": 0}', 100_000, b"]}")),
        (200, HOSTILE + b",".join(b'"%d": 0' % i for i in range(200_000)) + b"}"),
        (200, whole(HOSTILE + b'"junk": [', b"[]", 5_000_000, b"]}")),
        (500, whole(b'{"detail": [', b"[]", 5_000_000, b"]}")),
    ],
    ids=["numbers", "empty", "objects", "unknown", "keys", "values", "failing"],
)
def test_a_hostile_answer_takes_little_memory(code: int, body: bytes) -> None:
    head = f"HTTP/1.1 {code} Code\nContent-Length: {len(body)}"
    tracemalloc.start()
    try:
        kind, _ = problem_of(saying(head, body), 30.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kind in ("not_a_peer", "other_version")
    assert peak < 100 * 2**20


def test_a_peer_without_health_is_judged_here() -> None:
    with impostor(answering(status=changed(), health=b"oops")) as url:
        answer = ask(parse_url(url), 5.0)
    assert answer.state == "ok"
    assert "health as judged here" in answer.notes[0]


EVIL = "a\x1b[31mb\x07c\u202ed\r\ne\u2028f\ud800[red]g[/nope]"


def test_hostile_text_moves_no_cursor_and_is_no_markup() -> None:
    member = MEMBER.model_dump() | {"peer": "x[/red]"}
    evil = json.dumps(
        json.loads(changed()) | {"run": EVIL, "task": EVIL, "peer": "[/bold]", "rule": EVIL, "members": [member]}
    ).encode()
    health = json.dumps({"status": "degraded", "reasons": [{"code": EVIL, "text": EVIL}]}).encode()
    with impostor(answering(status=evil, health=health)) as url:
        results = [run(url), run(url, "127.0.0.1:1"), run("--json", url)]
        shown = line(ask(parse_url(url), 5.0))
    for text in (*(result.output for result in results), shown):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800]", text)
    assert "[red]g[/nope]" in results[0].output
    assert "x[/red]" in results[0].output


@pytest.mark.parametrize("number", [10**400, -(2**63)])
def test_numbers_that_nothing_can_count_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        tame({"step": [number]})


def test_long_texts_are_cut() -> None:
    assert len(tame("x" * 10_000)) == 2000


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("8871", "http://127.0.0.1:8871"),
        ("box", "http://box:8870"),
        ("http://box:1/v1/status", "http://box:1"),
        ("http://box:1/", "http://box:1"),
        ("http://box:1/peers/3/health", "http://box:1/peers/3"),
        ("[::1]:90", "http://[::1]:90"),
        ("HTTP://Box:1", "http://box:1"),
    ],
)
def test_urls_are_taken_as_people_write_them(text: str, url: str) -> None:
    assert parse_url(text).url == url


@pytest.mark.parametrize(
    "text",
    ["", "http://", "https://box", "ftp://box", "box:99999", "box:x", "box:0", "/ip4/1.2.3.4/tcp/1", "a b", "u:p@b:1"],
)
def test_what_is_no_url_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="such as http://127.0.0.1:8870"):
        parse_url(text)
    assert run(text).exit_code == 2


def test_the_usual_port_is_that_of_join() -> None:
    assert PORT == HTTP_PORT


def test_help_is_quick_and_says_what_the_exit_codes_mean() -> None:
    code = (
        "import sys; from p2p_elastic.cli.status import status; import p2p_elastic.screens.status; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "hivemind", "fastapi", "uvicorn"} & set(loaded)
    assert "Exit code: 0 all are ok; 1" in run("--help").output


# ---------------------------------------------------------------- watching


@contextmanager
def watching(*arguments: str, first: str = "") -> Iterator[subprocess.Popen[str]]:
    code = f"{first}\nfrom p2p_elastic.cli.status import status; status()"
    command = [sys.executable, "-c", code, "--watch", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    found = next((row for row in process.stdout if text in row), None)
    assert found is not None, f"the output ended without {text!r}"
    return found


def test_watching_survives_a_peer_that_goes_and_comes_back() -> None:
    sock = bind("127.0.0.1", 0)
    port = str(sock.getsockname()[1])
    sock.close()
    with watching("--timeout", "2", port) as process:
        next_with(process, "unreachable refused")
        with peer(port=int(port)):
            assert "ok training step 0/?" in next_with(process, " ok ")
        next_with(process, "unreachable refused")
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 2


def test_watching_as_json_is_a_document_per_line() -> None:
    with peer() as url, watching("--json", url) as process:
        states = [json.loads(next_with(process, "{"))["state"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
    assert states == ["ok", "ok"]


def test_a_watch_that_ends_before_any_answer_exits_with_2() -> None:
    asked, done = threading.Event(), threading.Event()

    def never(connection: socket.socket) -> None:
        asked.set()
        done.wait(10)

    with impostor(never) as url, peer() as well, watching(url, well) as process:
        try:
            assert asked.wait(10)
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == 2
        finally:
            done.set()


HANGING_LOOKUP = """
import socket, threading
known = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more: threading.Event().wait() if host == "hangs" else known(host, *more)
"""


def test_a_name_lookup_that_hangs_hides_no_other_peer() -> None:
    with peer() as url, watching("--timeout", "0.2", "hangs", url, first=HANGING_LOOKUP) as process:
        killer = threading.Timer(20, process.kill)
        killer.start()
        try:
            assert "not even to the name lookup" in next_with(process, "hangs")
            next_with(process, " ok ")
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == 2
        finally:
            killer.cancel()


def test_a_narrow_terminal_is_no_error() -> None:
    totals = ExchangeTotals(by_outcome={Outcome.HALF: 1})
    read = status_of(
        members=(MEMBER,) * 40, exchanges=totals, network={"bootstrap": (BootstrapStatus(address="/ip4/x"),)}
    )
    with peer(lambda: read) as url:
        answers = ask_all([parse_url(url), BaseUrl("127.0.0.1", 1)], 5.0)
    for width in (10, 40, 200):
        for shown in (answers, answers[:1], answers[1:]):
            out = io.StringIO()
            Console(file=out, width=width, force_terminal=True).print(view(shown))
            assert out.getvalue()
