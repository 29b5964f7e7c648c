"""Peers as services of a real systemd: installed, watched, stopped, killed, hung, updated. `make services`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.linux.booted import PYTHON, Booted, booted, packages, why_not
from helpers.linux.container import until

BASE = os.environ.get("P2P_ELASTIC_MACHINE")
pytestmark = pytest.mark.skipif(why_not(BASE) is not None, reason=str(why_not(BASE)))
PROJECT = Path(__file__).parents[2]
VENV = "/opt/p2p-elastic"
COMMAND = f"{VENV}/bin/p2p-elastic"
FIRST, SECOND = "p2p-elastic-first", "p2p-elastic-second"
PORTS = {FIRST: 8870, SECOND: 8871}
JOIN = ("--host", "127.0.0.1", "--threads", "1", "--steps", "10000000", "--checkpoint-every", "3s")
NEXT = "0.1.999"
SECONDS = 90


def wheel(folder: Path, version: str | None = None) -> None:
    """Build the package of this checkout; as another version if one is given."""
    source = folder / "source"
    for name in ("p2p_elastic", "peers", "api"):
        shutil.copytree(PROJECT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    if version is not None:
        text = (source / "pyproject.toml").read_text()
        (source / "pyproject.toml").write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', text, count=1))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(source)


def pip(machine: Booted, folder: str) -> None:
    """Install as the guide says; without an index, since the machine has no network."""
    (found,) = machine.inside("sh", "-c", f"ls {folder}/*.whl").split()
    machine.inside(f"{VENV}/bin/pip", "install", "--upgrade", "--no-index", "--no-deps", found)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    now, later = tmp_path_factory.mktemp("now"), tmp_path_factory.mktemp("later")
    wheel(now)
    wheel(later, NEXT)
    binds = {str(now): "/srv/now", str(later): "/srv/later"}
    with booted(Path(str(BASE)), tmp_path_factory.mktemp("machine"), binds) as machine:
        machine.inside(PYTHON, "-m", "venv", VENV)
        site = f"{VENV}/lib/python3.{sys.version_info.minor}/site-packages"
        machine.inside("sh", "-c", f"printf '%s\\n' {' '.join(packages().values())} >{site}/of_the_tests.pth")
        pip(machine, "/srv/now")
        yield machine


def install(machine: Booted, name: str, *options: str) -> str:
    command = (COMMAND, "service", "install", "--system", "--name", name.removeprefix("p2p-elastic-"), "--")
    return machine.inside(*command, *JOIN, "--http-port", str(PORTS[name]), *options)


@pytest.fixture(scope="module")
def swarm(machine: Booted) -> Booted:
    """Two services that exchange, and have checkpoints."""
    assert "started; watch it with: journalctl" in install(machine, FIRST, "--task", "digits")
    trains(machine, FIRST)
    install(machine, SECOND, "--port", "0", "--initial-peer", machine.status(PORTS[FIRST])["network"]["addresses"][0])
    for name in PORTS:
        exchanges(machine, name)
        until(lambda name=name: machine.status(PORTS[name])["checkpoint"]["step"], SECONDS, "a checkpoint")  # type: ignore[misc]
    return machine


def trains(machine: Booted, name: str) -> int:
    def step() -> int:
        status = machine.status(PORTS[name])
        return int(status["training"]["step"]) if status["training"]["phase"] == "training" else 0

    return int(until(step, SECONDS, f"steps: {machine.journal(name)}"))


def exchanges(machine: Booted, name: str) -> None:
    def ok() -> int:
        return int(machine.status(PORTS[name])["exchanges"]["by_outcome"].get("completed", 0))

    until(ok, SECONDS, f"exchanges: {machine.journal(name)}")


def restarted(machine: Booted, name: str, restarts: int) -> None:
    """It runs again: systemd restarted it once more than before."""

    def again() -> bool:
        return int(machine.shown(name, "NRestarts")) > restarts and machine.shown(name, "ActiveState") == "active"

    until(again, SECONDS, f"a restart: {machine.journal(name)}")


def test_a_service_has_a_user_of_its_own_its_state_and_no_rights(swarm: Booted) -> None:
    assert swarm.shown(FIRST, "UnitFileState") == "enabled"
    pid = swarm.shown(FIRST, "MainPID")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", swarm.inside("cat", f"/proc/{pid}/status"), re.MULTILINE))
    assert int(facts["Uid"].split()[0]) in range(61184, 65520)  # of systemd's dynamic users
    assert {facts["CapEff"], facts["CapBnd"], facts["CapPrm"]} == {"0" * 16}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    state = swarm.inside("stat", "--format", "%a %u", "/var/lib/private/p2p-elastic/first/").split()
    assert state == ["700", facts["Uid"].split()[0]]
    seen = f"/proc/{pid}/root"  # the files as the service has them
    assert swarm.inside("sh", "-c", f"ls -A {seen}/home {seen}/root").split() == [f"{seen}/home:", f"{seen}/root:"]
    tried = swarm.inside("sh", "-c", f"touch {seen}/opt/x {seen}/etc/x {seen}/usr/x 2>&1; true").splitlines()
    assert len(tried) == 3
    assert all("Read-only file system" in line for line in tried)


def test_systemd_hears_that_it_is_alive_and_how_it_is(swarm: Booted) -> None:
    assert swarm.shown(FIRST, "StatusText").startswith("training: step")
    before = int(swarm.shown(FIRST, "WatchdogTimestampMonotonic"))
    until(lambda: int(swarm.shown(FIRST, "WatchdogTimestampMonotonic")) > before > 0, 30, "a sign of life")


def test_who_is_stopped_hands_over_and_goes_on_with_the_same_run_when_started(swarm: Booted) -> None:
    before = swarm.status(PORTS[SECOND])
    swarm.inside("systemctl", "stop", SECOND)
    assert [swarm.shown(SECOND, key) for key in ("ActiveState", "Result", "ExecMainStatus")] == [
        *("inactive", "success", "0")
    ]
    assert re.search(r"Handed the last parameters to \S+; said goodbye to 1 of 1 members", swarm.journal(SECOND))
    assert not swarm.inside("pgrep", "-f", "second.*p2pd", check=False)
    swarm.inside("systemctl", "start", SECOND)
    assert trains(swarm, SECOND) >= before["training"]["step"]
    after = swarm.status(PORTS[SECOND])
    assert (after["run"], after["peer"]) == (before["run"], before["peer"])


def test_who_is_killed_is_restarted_and_resumes_the_same_run(swarm: Booted) -> None:
    trains(swarm, FIRST)
    before, restarts = swarm.status(PORTS[FIRST]), int(swarm.shown(FIRST, "NRestarts"))
    swarm.inside("kill", "-9", swarm.shown(FIRST, "MainPID"))
    restarted(swarm, FIRST, restarts)
    assert trains(swarm, FIRST) >= before["checkpoint"]["step"] > 0
    after = swarm.status(PORTS[FIRST])
    assert (after["run"], after["peer"]) == (before["run"], before["peer"])
    assert "Resumed at step" in swarm.journal(FIRST)
    exchanges(swarm, FIRST)


def test_who_hangs_is_restarted_by_the_watchdog(swarm: Booted) -> None:
    trains(swarm, SECOND)
    swarm.inside("sh", "-c", f"mkdir -p /run/systemd/system/{SECOND}.service.d")
    short = f"printf '[Service]\\nWatchdogSec=6\\n' >/run/systemd/system/{SECOND}.service.d/short.conf"
    swarm.inside("sh", "-c", f"{short} && systemctl daemon-reload && systemctl restart {SECOND}")
    trains(swarm, SECOND)
    restarts = int(swarm.shown(SECOND, "NRestarts"))
    swarm.inside("kill", "-STOP", swarm.shown(SECOND, "MainPID"))
    restarted(swarm, SECOND, restarts)
    assert "Watchdog timeout" in swarm.journal(SECOND)
    trains(swarm, SECOND)
    swarm.inside("sh", "-c", f"rm -r /run/systemd/system/{SECOND}.service.d && systemctl daemon-reload")
    swarm.inside("systemctl", "restart", SECOND)


def test_members_are_updated_one_after_the_other_exchange_and_say_who_runs_what(swarm: Booted) -> None:
    trains(swarm, FIRST)
    trains(swarm, SECOND)
    run, version = (swarm.status(PORTS[FIRST])[key] for key in ("run", "version"))
    pip(swarm, "/srv/later")
    swarm.inside("systemctl", "restart", SECOND)
    exchanges(swarm, SECOND)
    assert (swarm.status(PORTS[SECOND])["version"], swarm.status(PORTS[SECOND])["run"]) == (NEXT, run)

    def members() -> list[str]:
        return [member["version"] for member in swarm.status(PORTS[FIRST])["members"]]

    until(lambda: members() == [NEXT], 60, "the new version")
    assert re.search(rf"different versions: {version} \(protocol \d+\) here; {NEXT}", swarm.journal(FIRST))
    shown = swarm.inside(COMMAND, "status", f"http://127.0.0.1:{PORTS[FIRST]}")
    assert f"{NEXT} (protocol" in shown
    swarm.inside("systemctl", "restart", FIRST)
    exchanges(swarm, FIRST)
    until(lambda: "all members run the same version again" in swarm.journal(SECOND), 60, "the same version")


def test_a_service_of_a_user_trains_stops_and_goes_on(machine: Booted) -> None:
    machine.inside("useradd", "--create-home", "--uid", "1500", "someone")
    machine.inside("loginctl", "enable-linger", "someone")
    until(lambda: machine.shown("user@1500", "ActiveState") == "active", 30, "the manager of the user")
    as_user = ("runuser", "-u", "someone", "--", "env", "HOME=/home/someone", "XDG_RUNTIME_DIR=/run/user/1500")
    options = (*JOIN, "--task", "digits", "--port", "0", "--http-port", "8880")
    said = machine.inside(*as_user, COMMAND, "service", "install", "--user", "--", *options)
    assert "started; watch it with: journalctl --follow --user-unit p2p-elastic-peer.service" in said
    until(lambda: machine.status(8880)["training"]["step"], SECONDS, "steps")
    run = machine.status(8880)["run"]
    control = (*as_user, "systemctl", "--user")
    machine.inside(*control, "stop", "p2p-elastic-peer")
    assert machine.inside(*control, "show", "-p", "ExecMainStatus", "--value", "p2p-elastic-peer") == "0"
    older, newer = (f"/home/someone/{folder}/p2p-elastic/peer/summary.json" for folder in (".config", ".local/state"))
    machine.inside("sh", "-c", f"test -e {older} || test -e {newer}")  # newer: since systemd 254
    machine.inside(*control, "start", "p2p-elastic-peer")
    until(lambda: machine.status(8880)["run"] == run, SECONDS, "the same run")
    machine.inside(*as_user, COMMAND, "service", "uninstall", "--user")
