"""What peers tell each other while nobody exchanges: bytes, CPU, memory and connections per peer. Linux, root.

    python benchmarks/swarms/control.py --peers 2,8,16                 # this build
    python benchmarks/swarms/control.py --peers 2,8,16 --other FOLDER  # and the one checked out there, in turns

Each peer is a p2pd and a directory, which announces itself and looks at the members as often as a peer does; nothing
trains. All peers of a swarm share one Python process, so CPU and memory of Python are in it what they are for N peers,
divided by N. They run in a network namespace of their own, and every byte between them crosses its loopback: counted
are those bytes, headers of TCP and IP included, and divided by N. What a peer sends is that; it receives as much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUN = "control"
ANNOUNCE_SECONDS, REFRESH_SECONDS = 5.0, 3.0  # as a peer does by default
SETTLE_SECONDS_PER_PEER, SETTLE_SECONDS = 1.0, 20.0
HASH = "0" * 32
COLUMNS = {
    "kB": "kB sent",
    "packets": "packets sent",
    "python_cpu": "CPU s, Python",
    "p2pd_cpu": "CPU s, p2pd",
    "p2pd_mb": "MB, p2pd",
    "connections": "connections",
    "seen": "members seen",
}


async def swarm(count: int, seconds: float) -> dict[str, float]:
    """A swarm in this process, in whatever namespace it is; per peer and minute."""
    import psutil

    from p2p_elastic.peers.discovery.live_network import LiveNetwork
    from p2p_elastic.peers.transport.identity import Identity

    networks: list[Any] = []
    lives: list[asyncio.Task[None]] = []
    try:
        for number in range(count):
            initial = [networks[0].host.addresses[0]] if networks else []
            networks.append(LiveNetwork(Identity.generate(), initial))
            await networks[-1].open("127.0.0.1", 0)
            await networks[-1].stay_attached()
            lives.append(asyncio.ensure_future(take_part(networks[-1], number)))
        await asyncio.sleep(SETTLE_SECONDS + SETTLE_SECONDS_PER_PEER * count)
        daemons = [psutil.Process(network.host.pids[1]) for network in networks]
        before, began = readings(daemons), time.monotonic()
        await asyncio.sleep(seconds)
        minutes = (time.monotonic() - began) / 60.0
        after = readings(daemons)
        found = {key: (after[key] - before[key]) / count / minutes for key in before}
        found["p2pd_mb"] = sum(daemon.memory_info().rss for daemon in daemons) / count / 1e6
        open_ones = sum(sum(one.status == "ESTABLISHED" for one in daemon.net_connections("tcp")) for daemon in daemons)
        found["connections"] = open_ones / count
        if ended := [life for life in lives if life.done()]:
            ended[0].result()
        seen = [len([r for r in await network.directory.members() if not r.left]) for network in networks]
        found["seen"] = sum(seen) / count
        return found
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        await asyncio.gather(*(network.close() for network in networks))


async def take_part(network: Any, number: int) -> None:
    """Announce and look, as a peer does that trains nothing."""
    directory, rng = network.directory, random.Random(number)
    if number == 0:
        directory.found(manifest(network.identity.peer))
    else:
        await directory.until_attached()
        while not (there := await attempt(directory.runs())):  # hivemind has no event for it  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        directory.join(there[0])

    async def announce() -> None:
        for sequence in range(1, 1 << 30):
            await attempt(directory.own(RUN))
            await attempt(directory.announce(record(network.identity.peer, sequence)))
            await asyncio.sleep(ANNOUNCE_SECONDS * rng.uniform(0.9, 1.1))

    async def look() -> None:
        while True:
            await attempt(directory.members())
            await asyncio.sleep(REFRESH_SECONDS * rng.uniform(0.9, 1.1))

    await asyncio.gather(announce(), look())


async def attempt(work: Any) -> Any:
    from p2p_elastic.errors import P2PElasticError

    try:
        return await work
    except P2PElasticError as error:
        print(error, file=sys.stderr)


def record(peer: str, sequence: int) -> Any:
    from p2p_elastic.protocol.records import PeerRecord
    from p2p_elastic.protocol.software import OURS

    told = {"addresses": (OURS.told,), "partners": (peer,) * 3, "loss": 0.123456789, "steps_per_second": 12.3456789}
    return PeerRecord(peer=peer, run=RUN, schema_hash=HASH, step=100 * sequence, sequence=sequence, **told)


def manifest(founder: str) -> Any:
    from p2p_elastic.protocol.manifest import RunManifest

    training = {"rule": "elastic-gossip", "moving_rate": 0.5, "period": 32, "probability": None, "codec": "none"}
    more = {"batch_size": 32, "learning_rate": 0.1, "momentum": 0.9, "init_seed": 0}
    return RunManifest(run=RUN, task="digits", schema_hash=HASH, founder=founder, **training, **more)


def readings(daemons: list[Any]) -> dict[str, float]:
    """Counters that grow: of this namespace's loopback, this process and these."""
    line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    numbers = [int(text) for text in line.split(":")[1].split()]
    own = os.times()
    return {
        "kB": numbers[8] / 1e3,
        "packets": numbers[9],
        "python_cpu": own.user + own.system,
        "p2pd_cpu": sum(sum(daemon.cpu_times()[:2]) for daemon in daemons),
    }


def measured(folder: Path, count: int, seconds: float) -> dict[str, float]:
    """Run a swarm of a build in a namespace of its own."""
    worker = ["unshare", "--net", sys.executable, str(Path(__file__).resolve()), "--swarm", str(count)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [*worker, "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, cwd="/", stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="2,4,8,16,24")
    parser.add_argument("--other", type=Path, help="the folder of another build")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--swarm", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.swarm:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        print(json.dumps(asyncio.run(swarm(asked.swarm, asked.seconds))))
        return
    builds = {"this": Path(__file__).resolve().parents[2], **({"other": asked.other} if asked.other else {})}
    print("| peers | build | " + " | ".join(COLUMNS.values()) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for count in map(int, asked.peers.split(",")):
        for name, folder in builds.items():
            found = measured(folder, count, asked.seconds)
            print(f"| {count} | {name} | " + " | ".join(f"{found[key]:.3g}" for key in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
