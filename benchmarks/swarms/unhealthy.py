"""What does one unhealthy peer do to the others? Four real processes on MNIST; the last of them gets ill.

    python benchmarks/swarms/unhealthy.py --data-dir DIR [--epochs 3] [--weighting ...] [--illness ...] > FILE
    python benchmarks/swarms/unhealthy.py --render FILE

    none       nothing: the undisturbed swarm
    diverging  a learning rate at which it diverges
    nan        its parameters turn to NaN at step 300
    slow       after each step it rests nine times as long
    hot        another program reports 95 °C, through PUT /v1/signals/temperature, at step 300

For each: final accuracy of every peer, what the ill one says about its weight and why, and how far the others trust it,
second by second. Writes one JSON document per line and run to standard output; progress to standard error.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2p_elastic.demo.processes import Process, Swarm

ILLNESSES = ("none", "diverging", "nan", "slow", "hot")
ILL_STEP = 300
START_SECONDS, RUN_SECONDS, LOOK_SECONDS = 180.0, 3600.0, 1.0


def main() -> None:
    if sys.argv[1:2] == ["ill"]:
        be_ill(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--render", type=Path, help="print what is in this file as Markdown")
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--weighting", nargs="*", choices=["dynamic", "fixed"], default=["dynamic", "fixed"])
    parser.add_argument("--illness", nargs="*", choices=ILLNESSES, default=list(ILLNESSES))
    options = parser.parse_args()
    if options.render is not None:
        print(render([json.loads(line) for line in options.render.read_text().splitlines()]))
        return
    del options.render
    for weighting in options.weighting:
        for illness in options.illness:
            with tempfile.TemporaryDirectory() as folder:
                result = run(options, weighting, illness, Path(folder))
            print(json.dumps({"options": vars(options), **result}), flush=True)
            others = ", ".join(f"{100 * a:.2f}" for a in result["accuracy_of_the_others"])
            print(f"{weighting:8} {illness:10} others {others}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace, weighting: str, illness: str, folder: Path) -> dict[str, Any]:
    """One swarm of four, from beginning to end."""
    meet, common = ["--wait-for-peers", "3"], ["--data-dir", options.data_dir, "--epochs", str(options.epochs)]
    token = ["--http-token-file", str(folder / "token")]
    with Swarm(folder) as swarm:
        founding = ["--task", options.task, "--weighting", weighting, "--shard", "1/4", "--seed", "1"]
        founder = swarm.start("peer-1", [*founding, *meet, *common, *token])
        swarm.listen_until(lambda: "listening" in founder.said, "starting the founder", START_SECONDS)
        joining = ["--initial-peer", founder.said["listening"]["addresses"][0], *meet, *common, *token]
        for i in (2, 3):
            swarm.start(f"peer-{i}", [*joining, "--shard", f"{i}/4", "--seed", str(i)])
        program = ("-m", "p2p_elastic") if illness in ("none", "hot") else (__file__, "ill", illness)
        ill = swarm.start("peer-4", [*joining, "--shard", "4/4", "--seed", "4"], program)
        watched = watch(swarm, ill, illness, token[1])
        others = [p.summary() for p in swarm.processes if p is not ill]
        accuracies = [s["test_accuracy"] for s in others]
        return {
            "weighting": weighting,
            "illness": illness,
            "accuracy_of_the_others": accuracies,
            "mean_of_the_others": statistics.mean(accuracies),
            "accuracy_of_the_ill": ill.summary()["test_accuracy"] if ill.ended_well() else None,
            "seconds_of_the_others": [s["seconds"] for s in others],
            "steps_of_the_ill": ill.last.get("step"),
            "watched": watched,
        }


def watch(swarm: Swarm, ill: Process, illness: str, token_file: str) -> list[dict[str, Any]]:
    """What everybody says about the ill one, until the others are done."""
    others = [p for p in swarm.processes if p is not ill]
    looks: list[dict[str, Any]] = []
    reported, began = False, time.monotonic()
    while not all(p.ended_well() for p in others):
        swarm.listen(LOOK_SECONDS)
        if time.monotonic() - began > RUN_SECONDS:
            raise TimeoutError(f"not over within {RUN_SECONDS:.0f} s")
        status = ask(ill, "v1/status")
        if status is None or status["training"]["phase"] != "training":
            continue
        step = status["training"]["step"]
        if illness == "hot" and not reported and step >= ILL_STEP:
            put(ill, "v1/signals/temperature", {"value": 95.0, "ttl_seconds": 3600.0}, token_file)
            reported = True
        looks.append(
            {
                "seconds": round(status["uptime_seconds"], 1),
                "step": step,
                "weight": status["weight"],
                "why": [f"{s['name']} {s['health']:.2f}: {s['text']}" for s in status["signals"] if s["health"] < 1.0],
                "trusted": [t for other in others if (t := trust_in(ill, other)) is not None],
            }
        )
    if not ill.ended_well():
        ill.child.terminate()  # the slow one: the others are done
        swarm.listen_until(lambda: "end" in ill.said, "ending the ill one", 60.0)
    return looks


def trust_in(ill: Process, other: Process) -> float | None:
    status = ask(other, "v1/status")
    if status is None:
        return None
    return next((p["trust"] for p in status["partners"] if p["peer"] == ill.said["listening"]["peer"]), None)


def ask(process: Process, path: str) -> dict[str, Any] | None:
    """An answer of a peer; None where it does not serve yet, or any more."""
    if "listening" not in process.said:
        return None
    try:
        with urllib.request.urlopen(f"{process.said['listening']['http']}/{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return None


def put(process: Process, path: str, body: dict[str, Any], token_file: str) -> None:
    headers = {"Authorization": f"Bearer {Path(token_file).read_text().strip()}", "Content-Type": "application/json"}
    url = f"{process.said['listening']['http']}/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


def render(runs: list[dict[str, Any]]) -> str:
    """Tables: what became of the others, and what was seen of the ill one."""
    undisturbed = {r["weighting"]: r["mean_of_the_others"] for r in runs if r["illness"] == "none"}
    lines = ["| weighting | illness | the others | their mean | against undisturbed | the ill one |", "|---" * 6 + "|"]
    for r in runs:
        each = " / ".join(f"{100 * a:.2f}" for a in r["accuracy_of_the_others"])
        mean, reference = r["mean_of_the_others"], undisturbed.get(r["weighting"])
        against = "" if reference is None else f"{100 * (mean - reference):+.2f}"
        ill = "-" if r["accuracy_of_the_ill"] is None else f"{100 * r['accuracy_of_the_ill']:.2f}"
        lines.append(f"| {r['weighting']} | {r['illness']} | {each} | {100 * mean:.2f} | {against} | {ill} |")
    return "\n".join([*lines, "", *(text for r in runs for text in _course(r))])


def _course(run: dict[str, Any]) -> list[str]:
    """What the ill one said of itself at ten moments, and how far the others trusted it."""
    looks = run["watched"]
    chosen = looks[:: max(1, len(looks) // 10)]
    rows = [
        f"| {look['step']} | {look['weight']:.2f} | {' / '.join(f'{t:.2f}' for t in look['trusted']) or '-'} | "
        f"{'; '.join(look['why']) or '-'} |"
        for look in chosen
    ]
    head = ["| its step | its weight | the others' trust in it | why |", "|---" * 4 + "|"]
    return [f"**{run['weighting']}, {run['illness']}**", "", *head, *rows, ""]


def be_ill(illness: str, arguments: list[str]) -> None:
    """Run `p2p-elastic` with these arguments as an ill peer: the illness is put into its trainer from outside."""
    from p2p_elastic.cli import main as cli
    from p2p_elastic.training.stepping import Stepping

    healthy, steps = Stepping.gradient, itertools.count(1)

    def gradient(stepping: Stepping, draw: Callable[[], Any]) -> float:
        began = time.monotonic()
        loss = healthy(stepping, draw)
        if illness == "nan" and next(steps) == ILL_STEP:
            for group in stepping.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.data.fill_(float("nan"))
        if illness == "slow":
            time.sleep(9.0 * (time.monotonic() - began))
        return loss

    Stepping.gradient = gradient  # type: ignore[method-assign, assignment]
    rates = ["--lr", "1.0"] if illness == "diverging" else []
    sys.argv = ["p2p-elastic", *arguments, *rates]
    cli.run()


if __name__ == "__main__":
    main()
