"""What a minute of many simulated peers costs, in this build and in another one: the production `Peer`, virtual time.

    python benchmarks/swarms/virtual_minute.py --other FOLDER [--peers 500] [--after 150]

Each peer announces itself every 5 s, reads every 3 s, makes a step each half second and exchanges once in 32 steps.
Both builds run at once, in a process each, so that what else the machine does slows both; counted is their own CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
ONE = "_one"  # the argument of a process that measures the build on its path


async def minute(peers: int, after: float) -> float:
    """CPU seconds of a minute of so many peers, begun within 5 s, after so many seconds."""
    from helpers.swarm import begin_as_equals, build_member, tiny_model

    from p2p_elastic.rules.schedule import Schedule
    from p2p_elastic.testing.virtual_network import SimulatedNetwork

    network, rng = SimulatedNetwork(), random.Random(0)
    members = [
        build_member(
            network,
            f"p{number}",
            model=tiny_model(number, width=4),
            seed=number,
            schedule=Schedule(probability=1 / 32),
            step_seconds=0.5,
            announce_seconds=5.0,
            refresh_seconds=3.0,
        )
        for number in range(peers)
    ]
    begin_as_equals(members)
    for member in members:
        member.loss = 1.0 + rng.random()

    async def live(number: int, phase: float) -> None:
        await asyncio.sleep(phase)
        await asyncio.gather(members[number].peer.run(), members[number].train(10**9))

    lives = [asyncio.ensure_future(live(number, 5.0 * rng.random())) for number in range(peers)]
    await asyncio.sleep(after)
    begun = time.process_time()
    await asyncio.sleep(60.0)
    spent = time.process_time() - begun
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)
    return spent


def begin(folder: Path, peers: int, after: float) -> subprocess.Popen[str]:
    """Measure the build in a folder, in a process of its own."""
    path = os.pathsep.join([str(folder), str(folder / "tests")])
    command = [sys.executable, __file__, "--peers", str(peers), "--after", str(after), "--other", ONE]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, text=True, stdout=subprocess.PIPE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=500)
    parser.add_argument("--after", type=float, default=150.0, help="seconds; until a swarm that began at once is calm")
    parser.add_argument("--other", required=True, help="where the other build is checked out")
    options = parser.parse_args()
    if options.other == ONE:
        import torch

        from p2p_elastic.testing.virtual_time import run_virtual

        torch.set_num_threads(1)
        logging.disable(logging.WARNING)
        print(run_virtual(minute(options.peers, options.after)))
        return
    both = [begin(folder, options.peers, options.after) for folder in (HERE, Path(options.other).resolve())]
    spent = [float(process.communicate()[0]) for process in both]
    print("| peers | build | CPU s of a minute | CPU ms per peer and minute |\n|---|---|---|---|")
    for name, seconds in zip(("this", "other"), spent, strict=True):
        print(f"| {options.peers} | {name} | {seconds:.1f} | {1000 * seconds / options.peers:.0f} |")
    print(f"\nThe other takes {spent[1] / spent[0]:.2f} times as much.")


if __name__ == "__main__":
    main()
