"""Trouble a swarm of real peers on this machine, and say whether it lived through it.

    python -m tests.live_chaos --seed 1 --seconds 120 --peers 5

Prints the plan, what was done, and the verdict. Where something is wrong the folder with all logs is kept, and the exit
code is 1. Needs root for --namespaces and for a full disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from live_chaos import disk, namespaces
from live_chaos.plan import NAMESPACE_KINDS, PROCESS_KINDS, PROXY_KINDS, draw
from live_chaos.run import ALIVE_MAX, Settings, live_through

from p2p_elastic.errors import P2PElasticError


def main() -> int:
    options = parse()
    if options.namespaces and (reason := namespaces.why_not()) is not None:
        raise SystemExit(reason)
    disk_problem = disk.why_not()
    if disk_problem is not None:
        print(f"no full disk: {disk_problem}")
    link_kinds = list(NAMESPACE_KINDS if options.namespaces else PROXY_KINDS)
    process_kinds = [k for k in PROCESS_KINDS if k != "full-disk" or disk_problem is None]
    if options.kinds:
        process_kinds = [k for k in process_kinds if k in options.kinds]
        link_kinds = [k for k in link_kinds if k in options.kinds]
    folder = options.output or Path(tempfile.mkdtemp(prefix="live-chaos-"))
    settings = Settings(
        folder=folder / "troubled",
        peers=options.peers,
        task=options.task,
        data_dir=options.data_dir,
        seed=options.seed,
        rest=options.rest,
        burst=options.burst,
        namespaces=options.namespaces,
        clock=options.clock,
        slow_disk=options.slow_disk,
        small_disk=disk_problem is None,
    )
    plan = draw(options.seed, options.seconds, options.peers, process_kinds, link_kinds)
    print("The plan:", *plan, sep="\n")
    undisturbed = None
    if not options.no_reference:
        quiet = replace(settings, folder=folder / "undisturbed", clock=0.0, slow_disk=0.0)
        undisturbed = statistics.median(live_through(quiet, []).facts["accuracies"])
    try:
        report = live_through(settings, plan, undisturbed)
    except P2PElasticError as error:  # it did not even come together
        print(f"Wrong:\n    {error}\nThe logs are in {folder}")
        return 1
    facts = {"injected": dict(report.injected), "passed over": dict(report.passed_over), **report.facts}
    print(json.dumps({**facts, "accuracy undisturbed": undisturbed}, indent=2))
    print("Wrong:" if report.wrong else "Nothing is wrong.", *report.wrong, sep="\n    ")
    if report.wrong or options.output:
        print(f"The logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return bool(report.wrong)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long something is done to them")
    parser.add_argument("--peers", type=int, default=4, help=f"at most {ALIVE_MAX}")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--rest", type=float, default=0.005, help="seconds that each peer sleeps after a step")
    parser.add_argument("--burst", type=int, default=3, help="peers that come and go in each burst")
    parser.add_argument("--kinds", nargs="*", help="only these kinds of faults")
    parser.add_argument("--namespaces", action="store_true", help="network namespaces instead of proxies (root)")
    parser.add_argument("--clock", type=float, default=0.0, metavar="SECONDS", help="wrong clocks of every other peer")
    parser.add_argument("--slow-disk", type=float, default=0.0, metavar="SECONDS", help="of each fsync and rename")
    parser.add_argument("--no-reference", action="store_true", help="leave out the undisturbed run")
    parser.add_argument("--output", type=Path, help="keep all logs here")
    options = parser.parse_args()
    if not 2 <= options.peers <= ALIVE_MAX:
        parser.error(f"--peers: 2 to {ALIVE_MAX}")
    return options


if __name__ == "__main__":
    sys.exit(main())
