"""`p2p-elastic doctor`: each check from injected facts, and the whole against a real founder on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from helpers.daemons import daemons_of

from p2p_elastic.checkpoint.store import KEPT
from p2p_elastic.cli.main import doctor, join
from p2p_elastic.doctor import probes
from p2p_elastic.doctor import report as doctor_module
from p2p_elastic.doctor.checks import (
    CHECKPOINTS,
    PACKAGES,
    Finding,
    Gpu,
    Package,
    check_cpu,
    check_daemon,
    check_device,
    check_disk,
    check_memory,
    check_packages,
    check_python,
    disk_vectors,
)
from p2p_elastic.doctor.network import Reach, check_reaches, check_run, choose, valid_addresses
from p2p_elastic.doctor.reachability import (
    PortProblem,
    check_addresses,
    check_http_host,
    check_port,
    check_reachable,
    scope_of,
)
from p2p_elastic.doctor.task import check_batch, look_at_data, source_of
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.discovery.dht_keys import NAMESPACE
from p2p_elastic.peers.discovery.live_network import LiveNetwork, NetworkThread
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.tasks import TASKS, find_task, initial_model

pytestmark = pytest.mark.processes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[3]
GOOD = {name: Package("999.0") for name in PACKAGES}
FOUNDER = Identity.generate()
ADDRESS = f"/ip4/192.168.1.7/tcp/31330/p2p/{FOUNDER.peer}"
SCHEMA = ParameterVector(initial_model(find_task("digits"), 0)).schema_hash


def manifest(**changes: Any) -> RunManifest:
    options = JoinConfig(**changes.pop("options", {}))
    found = options.found("attic", FOUNDER.peer, "digits", SCHEMA, find_task("digits").recipe)
    return found.model_copy(update=changes)


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


# ---------------------------------------------------------------- software


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 9, 1), "failure"), ((3, 10, 0), "ok"), ((3, 12, 9), "ok"), ((3, 14, 2), "ok"), ((3, 15, 0), "warning")],
)
def test_the_version_of_python(version: tuple[int, int, int], level: str) -> None:
    assert check_python(version).level == level


def test_good_packages_are_one_line_and_bad_ones_are_named_with_a_command() -> None:
    assert levels(check_packages(GOOD)) == ["ok"]
    bad = {"torch": Package("2.1.9+cpu"), "rich": Package(None), "hivemind": Package("1.1.12", "ImportError: no p2pd")}
    findings = check_packages(GOOD | bad)
    texts = {f.text: f.advice for f in findings}
    assert "torch 2.1.9+cpu is older than 2.3" in texts
    assert texts["rich is not installed"] == "pip install --upgrade 'rich>=13.7'"
    assert "hivemind 1.1.12 cannot be imported: ImportError: no p2pd" in texts
    assert levels(findings) == ["failure"] * 3


def test_a_version_of_exactly_the_oldest_is_enough() -> None:
    assert levels(check_packages({"torch": Package("2.3.0a0+git"), "pillow": Package("10")})) == ["ok"]


def test_the_packages_are_those_of_the_distribution() -> None:
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = {re.split(r"[>;]", entry)[0]: re.search(r">=([\d.]+)", entry) for entry in listed}
    for python_3_10_only in ("async-timeout", "tomli"):
        wanted.pop(python_3_10_only)
    assert {name: oldest for name, (_, oldest) in PACKAGES.items() if name != "protobuf"} == {
        name: match[1] for name, match in wanted.items() if match
    }


def test_p2pd_must_be_there_and_executable() -> None:
    path = Path("/x/p2pd")
    assert [check_daemon(path, *facts).level for facts in ((True, True), (True, False), (False, False))] == [
        "ok",
        "failure",
        "failure",
    ]
    assert check_daemon(None, False, False).level == "failure"
    found, exists, executable = probes.daemon()
    assert (found is not None, exists, executable) == (True, True, True)


# ---------------------------------------------------------------- machine


@pytest.mark.parametrize(("load", "level"), [(None, "ok"), (0.1, "ok"), (9.0, "warning")])
def test_load(load: float | None, level: str) -> None:
    assert check_cpu(2, load).level == level


@pytest.mark.parametrize(("free", "level"), [(None, "ok"), (10**10, "ok"), (10**9, "warning"), (10**8, "failure")])
def test_memory_against_five_model_sizes(free: int | None, level: str) -> None:
    finding = check_memory(free, model_bytes=100_000_000, data_bytes=50_000_000)
    assert finding.level == level
    assert "about 1.2 GB needed: 5 x model of 100.0 MB, data 50.0 MB" in finding.text


def test_without_a_gpu_what_is_trained_is_in_memory_too() -> None:
    code, found = report()  # digits: 0.34 MB
    assert code == 0
    assert "8 x model of" in found["memory"][0]["text"]
    assert "11 x model of" in report("--optimizer", "adahessian")[1]["memory"][0]["text"]
    assert "9 x model of" in report("--optimizer", "muon")[1]["memory"][0]["text"]
    assert "10 x model of" in report("--outer", "nesterov")[1]["memory"][0]["text"]


@pytest.mark.parametrize(("free", "level"), [(10**10, "ok"), (10**9, "warning"), (10**8, "failure")])
def test_memory_of_the_gpu(free: int, level: str) -> None:
    assert check_device("cuda", Gpu("H200", free, 2 * 10**10), 100_000_000 * 3).level == level
    assert check_device("cpu", None, 10**12).level == "ok"
    assert "1.5 GB for the model" in check_device("cuda", Gpu("H200", free, 2 * 10**10), 3 * 10**8, outer=True).text


def test_disk() -> None:
    folder = Path("runs")
    facts = ((None, "Permission denied"), (10**6, None), (10**8, None), (10**10, None))
    found = [check_disk("output", folder, free, problem, 10**7) for free, problem in facts]
    assert levels(found) == ["failure", "failure", "warning", "ok"]
    assert found[0].advice == "choose another folder with --output"


def test_the_disk_must_hold_the_checkpoints_too() -> None:
    assert CHECKPOINTS == KEPT + 1
    assert disk_vectors(saves=False) == 2
    assert disk_vectors(saves=True) == 2 + 3 * 2  # model and momentum
    assert disk_vectors(saves=True, optimizer="adahessian") == 2 + 3 * 3
    assert disk_vectors(saves=True, outer=True) == 2 + 3 * 4  # slow parameters and their momentum


def test_the_disk_is_tried_without_making_the_folder(tmp_path: Path) -> None:
    folder, free, problem = probes.disk(tmp_path / "a" / "b")
    assert (folder, problem) == (tmp_path, None)
    assert free
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert probes.disk(tmp_path / "file" / "runs")[2]


# ---------------------------------------------------------------- ports


def test_ports() -> None:
    found = [
        check_port("port", "--port", *facts)
        for facts in (
            (31330, False, None),
            (31330, False, PortProblem("taken", "")),
            (31330, True, PortProblem("taken", "")),
            (80, True, PortProblem("port", "this user may not open it")),
            (0, True, None),
        )
    ]
    assert levels(found) == ["ok", "warning", "failure", "failure", "ok"]
    host = check_port("port", "--port", 1, True, PortProblem("host", "10.9.9.9 is no address of this machine"))
    assert (host.level, host.advice) == ("failure", "give an address of this machine with --host, or leave it out")


def test_a_taken_port_is_found_though_p2pd_would_share_it() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        problem = probes.port_problem("127.0.0.1", taken.getsockname()[1])
    assert problem is not None
    assert problem.kind == "taken"
    assert probes.port_problem("127.0.0.1", 0) is None
    foreign = probes.port_problem("192.0.2.1", 0), probes.port_problem("no.such.host.invalid", 0)
    assert [p and p.kind for p in foreign] == ["host", "host"]


def test_a_status_for_the_network_is_a_warning() -> None:
    assert check_http_host("127.0.0.1") is None
    finding = check_http_host("0.0.0.0")
    assert finding is not None
    assert finding.level == "warning"


# ---------------------------------------------------------------- reachability


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        *(("127.0.0.1", "loopback"), ("::1", "loopback"), ("192.168.1.7", "private"), ("10.0.0.1", "private")),
        *(("100.64.1.1", "private"), ("169.254.1.1", "link"), ("fe80::1", "link"), ("fd00::1", "private")),
        *(("8.8.8.8", "public"), ("2606:4700::1111", "public"), ("example.org", "name")),
    ],
)
def test_from_where_an_address_can_be_used(host: str, scope: str) -> None:
    assert scope_of(host) == scope


def test_addresses_are_sorted_by_who_can_use_them() -> None:
    addresses = [f"/ip4/{host}/tcp/1/p2p/{FOUNDER.peer}" for host in ("127.0.0.1", "10.0.0.1", "8.8.8.8")]
    texts = [finding.text for finding in check_addresses(addresses, frozenset({"10.0.0.1", "127.0.0.1"}), False)]
    assert texts[0].startswith("from the internet")
    assert texts[1] == "from the same network (private addresses): /ip4/10.0.0.1/tcp/1"
    assert texts[2] == "from this machine only: /ip4/127.0.0.1/tcp/1"
    assert "this peer is seen at /ip4/8.8.8.8/tcp/1" in texts[3]


@pytest.mark.parametrize(
    ("addresses", "announce", "port", "expected"),
    [
        (["/ip4/10.0.0.1/tcp/1"], [], None, "only private addresses"),
        (["/ip4/8.8.8.8/tcp/1"], [], None, "whether a firewall blocks it is not seen from here"),
        (["/ip4/127.0.0.1/tcp/1"], [], None, "nobody on another machine"),
        (["/ip4/8.8.8.8/tcp/1"], ["/ip4/8.8.8.8/tcp/1"], 1, "whether /ip4/8.8.8.8/tcp/1 leads here is not seen"),
        (["/ip4/8.8.8.8/tcp/1"], ["/ip4/8.8.8.8/tcp/1"], None, "without --port another port is taken"),
        (["/ip4/127.0.0.1/tcp/1"], ["/ip4/127.0.0.1/tcp/1"], 1, "no other machine can use"),
    ],
)
def test_reachability_is_never_more_than_a_warning(
    addresses: list[str], announce: list[str], port: int | None, expected: str
) -> None:
    finding = check_reachable(addresses, announce, port)
    assert finding.level == "warning"
    assert expected in finding.text
    assert finding.advice


# ---------------------------------------------------------------- initial peers and runs


def test_addresses_that_are_none_are_failures_and_do_not_hide_the_others() -> None:
    good, findings = valid_addresses([ADDRESS, "192.168.1.7:31330", "/ip4/1.2.3.4/tcp/31330"], "initial-peer")
    assert good == [ADDRESS]
    assert levels(findings) == ["failure", "failure"]
    assert "multiaddr such as" in (findings[0].advice or "")
    assert valid_addresses([ADDRESS.replace("/p2p/", "/ipfs/")], "initial-peer") == ([ADDRESS], [])
    assert valid_addresses(["/ip4/203.0.113.5/tcp/31330"], "announce") == (["/ip4/203.0.113.5/tcp/31330"], [])


def test_one_address_that_works_is_enough() -> None:
    works, dead = Reach(ADDRESS, None, ("192.168.1.7",), 0.001, 0.02), Reach(ADDRESS, "refused")
    assert levels(check_reaches([works, dead])) == ["ok", "warning", "ok"]
    assert levels(check_reaches([dead, dead])) == ["failure", "failure"]


def test_another_clock_than_the_swarms_is_no_failure_but_is_told() -> None:
    clock = check_reaches([Reach(ADDRESS, None, (), 0.001, 0.02)], clock_ahead=-3600.0)[-1]
    assert (clock.check, clock.level) == ("clock", "ok")
    assert "-3600.0 s" in clock.text


def test_a_run_that_fits_and_ways_in_which_it_does_not() -> None:
    assert levels(check_run(manifest(), 3, JoinConfig())) == ["ok", "ok"]
    assert "3 members" in check_run(manifest(), 3, JoinConfig())[0].text
    contradicted = check_run(manifest(), 1, JoinConfig(moving_rate=0.25))
    assert levels(contradicted) == ["ok", "failure", "ok"]
    assert "moving-rate" in contradicted[1].text
    assert levels(check_run(manifest(rule="unheard-of"), None, JoinConfig())) == ["ok", "failure", "ok"]
    foreign = check_run(manifest(task="unheard-of"), None, JoinConfig())[-1]
    assert (foreign.level, "not installed here" in foreign.text) == ("failure", True)
    other = check_run(manifest(schema_hash="0" * 32), None, JoinConfig())[-1]
    assert (other.level, "another model" in other.text) == ("failure", True)


def test_a_run_that_nobody_can_join_is_a_failure_that_says_why() -> None:
    refused = {"attic": ConfigError("batch-size", 2**20, "allowed: at most 65536")}
    chosen, findings = choose((), None, refused)
    assert (chosen, levels(findings)) == (None, ["failure"])
    assert findings[0].text == "batch-size: got 1048576; allowed: at most 65536"
    assert levels(check_batch(1258, 1257)) == ["failure"]
    assert check_batch(1257, 1257) == check_batch(10**4, None) == []


def test_which_run() -> None:
    one, two = manifest(), manifest(run="cellar")
    assert choose((one,), None) == (one, [])
    assert choose((one, two), "cellar") == (two, [])
    for manifests, wanted, said in (((), None, "none announced a run"), ((one,), "x", "they know attic")):
        chosen, findings = choose(manifests, wanted)
        assert (chosen, levels(findings), said in findings[0].text) == (None, ["failure"], True)
    assert "several runs are there" in choose((one, two), None)[1][0].text


# ---------------------------------------------------------------- data


def test_the_data_set_of_every_task_is_known() -> None:
    sources = {name: source_of(task) for name, task in TASKS.items()}
    here = {name for name, source in sources.items() if source is None}
    assert here == {"digits", "stdlib-gpt", "stdlib-gpt-small"}  # they come with this package and with Python


def test_data_that_come_along_are_loaded() -> None:
    found = look_at_data(find_task("digits"), None)
    assert (found.finding.level, found.data_bytes > 100_000, found.download_bytes) == ("ok", True, 0)


@pytest.mark.parametrize("name", ["mnist", "cifar10-resnet20"])
def test_data_to_download_are_looked_for_but_not_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)
    task = find_task(name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        there = look_at_data(task, tmp_path, lambda _: [url])
    assert (there.finding.level, there.download_bytes > 0) == ("ok", True)
    gone = look_at_data(task, tmp_path, lambda _: [url])
    assert gone.finding.level == "failure"
    assert "--data-dir" in (gone.finding.advice or "")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert look_at_data(task, tmp_path, lambda _: [url]).finding.level == "warning"
    assert list(tmp_path.iterdir()) == []


def test_damaged_data_are_a_failure(tmp_path: Path) -> None:
    task = find_task("mnist")
    source = source_of(task)
    assert source is not None
    for file in source.files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"nonsense")
    finding = look_at_data(task, tmp_path).finding
    assert (finding.level, "damaged" in finding.text) == ("failure", True)


# ---------------------------------------------------------------- the command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, ["--host", "127.0.0.1", "--port", "0", "--http-port", "0", *arguments])


def report(*arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code, and findings by check."""
    result = run("--json", *arguments)
    by_check: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
    return result.exit_code, by_check


@pytest.fixture(scope="module")
def founder() -> Iterator[str]:
    """The address of a real founder of run attic, with its record and manifest in the DHT."""
    network = LiveNetwork(FOUNDER, ())
    with NetworkThread() as thread:
        thread.call(network.open("127.0.0.1", 0))
        network.directory.found(manifest())
        record = PeerRecord(peer=FOUNDER.peer, run="attic", schema_hash=SCHEMA)
        thread.call(network.directory.announce(record))
        yield network.host.addresses[0]
        thread.call(network.close())


def test_a_real_founder_is_met_and_its_run_found_and_nothing_is_left_behind(founder: str, tmp_path: Path) -> None:
    before = set(daemons_of(os.getpid()))
    wrong_port = founder.replace(f"/tcp/{founder.split('/')[4]}/", "/tcp/1/")
    stranger = f"{founder.split('/p2p/')[0]}/p2p/{Identity.generate().peer}"
    peers = [option for address in (founder, wrong_port, stranger) for option in ("--initial-peer", address)]
    code, found = report(*peers, "--output", str(tmp_path / "out"))
    assert code == 0
    by_address = {f["text"].split(": ", 1)[0]: f for f in found["initial-peer"]}
    assert "it is that peer" in by_address[founder]["text"]
    assert "refused" in by_address[wrong_port]["text"]
    assert "wrong peer id" in by_address[stranger]["text"]
    assert [by_address[a]["level"] for a in (founder, wrong_port, stranger)] == ["ok", "warning", "warning"]
    assert "run attic: task digits" in found["run"][0]["text"]
    assert found["run"][0]["text"].endswith("1 member")
    assert found["task"][0]["level"] == found["clock"][0]["level"] == "ok"
    assert set(daemons_of(os.getpid())) == before
    assert list(tmp_path.iterdir()) == []


def test_a_dead_initial_peer_is_a_failure_and_says_what_to_do() -> None:
    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{FOUNDER.peer}"
    result = run("--initial-peer", dead)
    assert result.exit_code == 1
    assert "refused: nothing listens there" in result.output
    assert "what would be trained is not known" in result.output
    assert "Not ready" in result.output


def test_a_contradiction_to_the_run_is_found_before_joining(founder: str) -> None:
    code, found = report("--initial-peer", founder, "--task", "mnist", "--run", "attic")
    assert code == 1
    assert "leave the option out to take the run's" in found["run"][1]["text"]


def test_a_founder_to_be_on_loopback_is_ready_with_a_warning() -> None:
    result = run()
    assert result.exit_code == 0
    assert "warning reachable    nobody on another machine can dial this peer" in result.output
    assert "Ready: replace `doctor` by `join`." in result.output


def test_a_taken_port_and_an_unknown_task_are_failures() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, found = report("--port", port, "--task", "unheard-of")
    assert code == 1
    assert [found[check][0]["level"] for check in ("port", "task")] == ["failure", "failure"]


def test_broken_software_is_said_and_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [("torch", Package("2.5", "OSError: libcudart.so.12: cannot open shared object file"))]
    monkeypatch.setattr(doctor_module.probes, "packages", lambda: iter(broken))
    code, found = report()
    assert code == 1
    assert "libcudart" in found["packages"][0]["text"]
    assert "port" not in found


def test_an_option_out_of_range_is_bad_usage() -> None:
    assert run("--port", "99999").exit_code == 2


def test_what_cannot_be_founded_is_found_before_founding() -> None:
    code, found = report("--rule", "lsgd", "--period", "16", "--global-period", "40")
    assert code == 1
    assert "cannot be founded like this: global-period: got 40; a multiple of the period, 16" in found["run"][0]["text"]


def test_a_part_of_the_data_without_examples_is_found_before_founding() -> None:
    code, found = report("--shard", "1300/1300")
    assert code == 1
    assert "shard 1300/1300 of 1,257 examples is empty" in found["data"][1]["text"]


def test_key_files_are_looked_at_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token that all may read")
    (tmp_path / "token").chmod(0o644)
    new, bad = tmp_path / "keys" / "new", str(tmp_path / "token")
    code, found = report("--identity", str(new), "--http-token-file", bad)
    assert code == 1
    assert (found["identity"][0]["level"], found["token"][0]["level"]) == ("ok", "failure")
    assert "chmod 600" in found["token"][0]["text"]
    Identity.load_or_create(new)
    (tmp_path / "token").chmod(0o600)
    code, found = report("--identity", str(new), "--http-token-file", bad)
    assert (found["identity"][0]["level"], found["token"][0]["level"]) == ("ok", "failure")
    assert "without spaces" in found["token"][0]["text"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "token"]
    assert new.is_file()


def test_options_that_change_nothing_here_are_taken_and_their_values_checked(tmp_path: Path) -> None:
    file = tmp_path / "peer.toml"
    file.write_text('batch-size = 64\nprobability = "1/8"\n')
    others = ("--shard", "2/4", "--rule", "easgd", "--steps", "10", "--verbose", "--log-format", "json")
    assert run(*others, "--config", str(file)).exit_code == 0
    assert "--shard" not in run("--help").output.split("Options:")[1]
    assert "shard: got '5/4'" in run("--shard", "5/4").output
    file.write_text('resume = "runs/mine"')
    assert "the doctor reads no checkpoint" in run("--config", str(file)).output


def test_names_stay_in_step_with_join() -> None:
    options = {parameter.name for parameter in doctor.params} - {"as_json", "link", "step_seconds"}
    assert options == {parameter.name for parameter in join.params} - {"resume"}
    assert NAMESPACE == "p2p-elastic/1"


def test_ctrl_c_ends_it_without_a_traceback() -> None:
    code = "from p2p_elastic.cli.main import doctor; doctor()"
    nobody = f"/ip4/192.0.2.77/tcp/31330/p2p/{FOUNDER.peer}"
    command = [sys.executable, "-u", "-c", code, "--host", "127.0.0.1", "--port", "0", "--initial-peer", nobody]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        shown = ""
        while "libp2p " not in shown:
            row = process.stdout.readline()
            assert row, shown
            shown += row
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (1, 130)  # 1 where the address was refused at once
    assert "Traceback" not in rest
    assert psutil.wait_procs(children, timeout=5)[1] == []
