"""What must hold in the end, whatever was done to the peers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from live_chaos.lives import Life, Watcher
from live_chaos.proxy import Proxies

from p2p_elastic.demo.processes import compare
from p2p_elastic.node.results import MODEL_FILE
from p2p_elastic.tasks import find_task

GONE_SECONDS = 10.0
MEMORY_MEGABYTES_MAX = 300.0  # of growth, for a peer and its p2pd, which alone takes up to 250 after bursts
LOOKS_MIN = 20
ACCURACY_MARGIN = 0.04  # of a peer that was started again moments ago, too


@dataclass
class Report:
    """What was done, and what is wrong with the outcome."""

    injected: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)  # its victim was not there
    wrong: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def check_proxies(report: Report, proxies: Proxies, lives: Iterable[Life], behind: Collection[int]) -> None:
    """Nobody found a way around them: what a p2pd is connected to is never the port of another p2pd."""
    direct = [
        connection
        for life in lives
        for daemon in life.daemons()
        for connection in daemon.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port in behind
    ]
    if direct:
        report.wrong.append(f"{len(direct)} connections go around the proxies")
    if not proxies.done["connections of a known peer"]:
        report.wrong.append("no connection went through a proxy")


def check_lives(report: Report, lives: Collection[Life]) -> None:
    """Who was not killed ended with exit code 0 and left a model; nobody did an exchange twice."""
    for life in lives:
        code = life.process.child.poll()
        if life.over in (None, "left") and code != 0:
            errors = (life.process.folder / "stderr.log").read_text(errors="replace").strip()[
                -300:
            ] or "it said nothing"
            report.wrong.append(f"{life.process.name}, which {life.over or 'survived'}, ended with {code}: {errors}")
        elif life.over in (None, "left") and life.steps() and not (life.output / MODEL_FILE).exists():
            report.wrong.append(f"{life.process.name} left no model")
    if all(life.over is not None for life in lives):
        report.wrong.append("nobody survived")
    lines = [(life.peer, line) for life in lives for line in life.lines()]
    added = Counter((peer, line["added"]) for peer, line in lines if "added" in line)
    completed = Counter((peer, line["exchange"]) for peer, line in lines if line.get("outcome") == "completed")
    for what, counts in (("applied", added), ("completed", completed)):
        twice = [key for key, times in counts.items() if times > 1]
        if twice:
            report.wrong.append(f"{len(twice)} exchanges were {what} twice by the same peer, such as {twice[0]}")
    report.facts |= {
        "lives": dict(Counter(life.over or "survived" for life in lives)),
        "moves added": len(added),
        "exchanges": dict(Counter(line["outcome"] for _, line in lines if "outcome" in line)),
    }


def check_leftovers(report: Report, lives: Iterable[Life], watcher: Watcher, temporary: Path) -> None:
    """No process is left; sockets only of what was killed: two for each p2pd, and hivemind removes none of those."""
    left = watcher.wait_for_none(GONE_SECONDS)
    if left:
        report.wrong.append(f"processes left: {left}")
    killed = sum(life.over == "killed" for life in lives) + report.injected["kill-daemon"]
    sockets = watcher.sockets_left()
    if len(sockets) > 2 * killed:
        report.wrong.append(f"{len(sockets)} sockets left, more than those of {killed} killed processes")
    report.facts |= {
        "processes": len(watcher.family),
        "sockets left": len(sockets),
        "peers and p2pd killed": killed,
        "temporary files left": sorted(path.name for path in temporary.iterdir()),
    }


def check_memory(report: Report, watcher: Watcher) -> None:
    """No peer grew much while it trained."""
    growth = {
        name: round(statistics.median(looks[-3:]) - statistics.median(looks[:3]))
        for name, looks in watcher.memory.items()
        if len(looks) >= LOOKS_MIN
    }
    report.facts["MB that each grew by"] = growth
    report.wrong += [f"{name} grew by {mb} MB" for name, mb in growth.items() if mb > MEMORY_MEGABYTES_MAX]


def check_accuracy(report: Report, survivors: Iterable[Life], task_name: str, data_dir: str | None) -> None:
    """How good the survivors' models are, and their average."""
    task = find_task(task_name)
    data = task.load(None if data_dir is None else Path(data_dir))
    models = [life.output for life in survivors if (life.output / MODEL_FILE).exists()]
    report.facts["accuracies"] = [round(compare(task, data, [m]).average_accuracy, 4) for m in models]
    if models:
        report.facts["accuracy of the average"] = round(compare(task, data, models).average_accuracy, 4)


def check_against(report: Report, undisturbed: float) -> None:
    """Each survivor is as good as a peer of an undisturbed run, but for the margin."""
    low = [a for a in report.facts["accuracies"] if a < undisturbed - ACCURACY_MARGIN]
    if low:
        report.wrong.append(f"accuracies {low}, {undisturbed:.4f} undisturbed")
