"""Does each alert of `docker/alerts.yaml` fire for real? Six peers, a real Prometheus, and each trouble in turn.

    python benchmarks/swarms/alerts.py [--stay SECONDS]          (Linux, root for the full disk; Prometheus)

The rules are those of the file; only the time for which a condition must last (`for`) is shortened to two seconds.
Prints a table: what was done, what fired, and after how many seconds. `--stay` keeps all as it is then, to look at it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from helpers.daemons import daemons_of
from helpers.running import kill
from live_chaos.disk import BALLAST, SmallDisk
from live_chaos.disk import why_not as no_disk
from live_chaos.launch import rest_between_steps
from live_chaos.lives import RESTING
from monitoring.prometheus import ALERTS, Prometheus, prometheus, rules, why_not

from p2p_elastic.demo.processes import Process, Swarm

JOB, TWICE, NAMES = "p2p-elastic", "p2p-elastic-founded-twice", "p2p-elastic-two-names"
FOR, REST_SECONDS = "2s", 0.005
START_SECONDS, FIRE_SECONDS = 300.0, 300.0


class Fired(NamedTuple):
    """One alert that fired."""

    alert: str
    done: str
    seconds: float


def main() -> None:
    if sys.argv[1:2] == ["hangs"]:
        hang_while(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stay", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    if (reason := why_not() or no_disk()) is not None:
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        fired = run(Path(folder), options.stay)
    missing = {rule["alert"] for rule in rules()} - {one.alert for one in fired}
    print(render(fired))
    if missing:
        raise SystemExit(f"did not fire: {', '.join(sorted(missing))}")


def hang_while(file: Path, arguments: list[str]) -> None:
    """Be a peer whose training hangs for as long as a file is there."""
    from p2p_elastic.cli.main import run as command
    from p2p_elastic.training.meter import Meter

    rest_between_steps(REST_SECONDS)
    stepped = Meter.stepped

    def step(meter: Meter, loss: float | None = None) -> None:
        stepped(meter, loss)
        while file.exists():
            time.sleep(0.1)

    Meter.stepped = step  # type: ignore[method-assign, assignment]
    sys.argv = ["p2p-elastic", *arguments]
    command()


def run(folder: Path, stay: float) -> list[Fired]:
    """Start all, provoke all, and tell what fired."""
    with SmallDisk(folder / "disk") as disk, Swarm(folder / "peers", RESTING) as swarm:
        peers = begin(swarm, disk, folder / "hang")
        targets = {name: target(peer) for name, peer in peers.items()}
        jobs = {
            JOB: [targets[name] for name in ("founder", "hangs", "full", "cut")],
            TWICE: [targets["twice-1"], targets["twice-2"]],
            NAMES: [targets["founder"], targets["twice-1"]],
        }
        with prometheus(folder / "prometheus", jobs, alerts=shortened(folder)) as watching:
            swarm.listen_until(watching.ready, "Prometheus", START_SECONDS)
            swarm.listen_until(lambda: len(watching.query("up == 1")) == 8, "scrapes", START_SECONDS)
            before = {alert for alert, instance in watching.firing() if instance in jobs[JOB]}
            say(f"before anything is done there fire for the swarm: {', '.join(before) or 'none'}; {watching.url}")
            trouble = Trouble(swarm, peers, watching)
            provoke(trouble, disk, folder / "hang")
            say(f"all is done; for {stay:.0f} s it stays so: {watching.url}/alerts")
            swarm.listen(stay)
            return trouble.fired


def begin(swarm: Swarm, disk: SmallDisk, hang: Path) -> dict[str, Process]:
    """A run of four, and two runs of one peer each that have the same name."""
    long = ["--for", "2h", "--checkpoint-every", "5s"]
    founder = swarm.start("founder", [*long, "--run", "watched", "--probability", "1/8"])
    swarm.listen_until(lambda: "joinable" in founder.said, "the founder", START_SECONDS)
    joining = [*long, "--initial-peer", founder.said["listening"]["addresses"][0]]
    peers = {
        "founder": founder,
        "hangs": swarm.start("hangs", joining, (__file__, "hangs", str(hang))),
        "full": swarm.start("full", [*joining, "--output", str(disk.folder / "output")]),
        "cut": swarm.start("cut", joining),
        "twice-1": swarm.start("twice-1", [*long, "--run", "twice"]),
        "twice-2": swarm.start("twice-2", [*long, "--run", "twice"]),
    }
    swarm.listen_until(lambda: all("step" in p.last for p in peers.values()), "beginning to train", START_SECONDS)
    run_of_four = [peers[name] for name in ("founder", "hangs", "full", "cut")]
    swarm.listen_until(lambda: all(p.last["members"] == 3 for p in run_of_four), "meeting", START_SECONDS)
    return peers


class Trouble:
    """Does something to a peer, and waits until Prometheus says so."""

    def __init__(self, swarm: Swarm, peers: dict[str, Process], watching: Prometheus) -> None:
        self.swarm, self.peers, self._watching = swarm, peers, watching
        self.fired: list[Fired] = []

    def expect(
        self, alert: str, name: str, what: str, since: float | None = None, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until an alert fires for a peer, or for the job if no peer is named, and do something meanwhile."""
        began = time.monotonic() if since is None else since
        wanted = (alert, target(self.peers[name]) if name else "")

        def fires() -> bool:
            meanwhile()
            return wanted in self._watching.firing()

        self.swarm.listen_until(fires, f"{alert} ({what})", FIRE_SECONDS)
        self.fired.append(Fired(alert, what, time.monotonic() - began))
        say(f"{alert}: {what}: {self.fired[-1].seconds:.0f} s")

    def over(self, alert: str, name: str) -> None:
        """Wait until an alert does not fire any more."""
        gone = (alert, target(self.peers[name]))
        self.swarm.listen_until(lambda: gone not in self._watching.firing(), f"the end of {alert}", FIRE_SECONDS)

    def write(self, name: str, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """Change something at a peer over HTTP."""
        token = Path(os.environ["XDG_STATE_HOME"], "p2p-elastic", "http-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        url = f"{self.peers[name].said['listening']['http']}{path}"
        request = urllib.request.Request(url, json.dumps(body or {}).encode(), headers, method=method)
        urllib.request.urlopen(request, timeout=30).close()


def provoke(trouble: Trouble, disk: SmallDisk, hang: Path) -> None:
    """Each trouble in turn."""
    trouble.expect("TwoRuns", "", "two peers found a run of the same name, each for itself")
    trouble.write("founder", "POST", "/v1/drain")
    trouble.expect("PeerDegraded", "founder", "the peer is drained (POST /v1/drain)")
    trouble.write("founder", "POST", "/v1/resume")
    trouble.over("PeerDegraded", "founder")
    hang.touch()
    hung = time.monotonic()
    trouble.write("full", "PUT", "/v1/signals/temperature", {"value": 95, "ttl_seconds": 3600})
    trouble.expect("PeerHot", "full", "95 °C are reported (PUT /v1/signals/temperature)")
    trouble.write("founder", "PUT", "/v1/signals/memory", {"value": 0.03, "ttl_seconds": 3600})
    trouble.expect("MemoryShort", "founder", "3 % left are reported (PUT /v1/signals/memory)")
    filled = time.monotonic()
    disk.fill()
    trouble.expect("DiskFull", "full", "a tmpfs of 8 MB is full", filled)
    # The room of a checkpoint that was deleted just then would take the next one.
    trouble.expect("CheckpointLate", "full", "the same: no checkpoint can be written", filled, lambda: top_up(disk))
    trouble.expect("PeerStalled", "hangs", "the training loop hangs between two steps", hung)
    cut = trouble.peers["cut"]
    (daemon,) = daemons_of(cut.child.pid)
    stopped = time.monotonic()
    daemon.send_signal(signal.SIGSTOP)
    trouble.expect("Partition", "cut", "its p2pd is stopped (SIGSTOP): nothing goes in or out", stopped)
    trouble.expect("PeerAlone", "cut", "the same", stopped)
    killed = time.monotonic()
    kill(trouble.swarm, cut)
    daemon.kill()
    trouble.expect("PeerDown", "cut", "its process is killed (SIGKILL)", killed)


def top_up(disk: SmallDisk) -> None:
    """Fill what has become free."""
    with contextlib.suppress(OSError), (disk.folder / BALLAST).open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))


def target(peer: Process) -> str:
    return str(peer.said["listening"]["http"]).removeprefix("http://")


def shortened(folder: Path) -> Path:
    """The rules, but what they wait for need not last."""
    document = yaml.safe_load(ALERTS.read_text())
    for rule in (rule for group in document["groups"] for rule in group["rules"]):
        rule["for"] = FOR
    path = folder / "alerts.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def render(fired: list[Fired]) -> str:
    """As Markdown."""
    rows = [f"| `{one.alert}` | {one.done} | {one.seconds:.0f} s |" for one in fired]
    return "\n".join(("| alert | what was done | fired after |", "|---|---|---|", *rows))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
