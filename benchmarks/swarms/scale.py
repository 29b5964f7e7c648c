"""What becomes of views, averages and leaders in swarms of thousands of peers: the production `Peer`, virtual time.

    python benchmarks/swarms/scale.py [--peers 64 256 1000] [--only gossip leader succession split] [--seed N]

Peers announce themselves every 5 s, read every 3 s, make a step each second and exchange once in 32 steps. A thousand
begin within 5 s; a larger swarm doubles each 15 s from there. Half of them are killed after a minute and a half.
Prints a row for each number of peers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from helpers.swarm import Member, following_at
from helpers.topologies import LSGD, centre_of
from large.virtual_swarm import ANNOUNCE_SECONDS, Large, until

from p2p_elastic.rules.methods import Topology
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_time import run_virtual

Row = dict[str, object]
MINUTE = 60.0


async def gossip(swarm: Large) -> Row:
    """How fast the parameters come together, how even the views are, and what is left of links to the dead."""
    await asyncio.sleep(MINUTE / 2)
    before, begun = swarm.variance, time.process_time()
    await asyncio.sleep(MINUTE)
    cpu, views, alarms = time.process_time() - begun, swarm.views, swarm.partitions
    shrunk, peers = before / swarm.variance, len(swarm.members)
    await swarm.kill(list(swarm.members)[::2])
    links = []
    for _ in range(3):
        await asyncio.sleep(3 * ANNOUNCE_SECONDS)
        links.append(swarm.views.dead_links)
    after = swarm.views
    return {
        "CPU ms per peer and minute": f"{1000 * cpu / peers:.0f}",
        "variance falls by, in a minute": f"{shrunk:.1f}",
        "view": "{} / {:.0f} / {}".format(*views.sizes),
        "seen by": f"{views.seen_by[0]} / {views.seen_by[1]:.0f} ± {views.seen_by[2]:.0f}",
        "false alarms": alarms,
        "links to the dead after 15, 30, 45 s": " / ".join(f"{100 * share:.0f} %" for share in links),
        "then seen by": f"{after.seen_by[0]} / {after.seen_by[1]:.0f} ± {after.seen_by[2]:.0f}",
        "components": f"{views.parts}, {after.parts}",
    }


async def leader(swarm: Large) -> Row:
    """How long it takes until all follow a peer whose loss is the lowest from now on."""
    await asyncio.sleep(MINUTE / 2)
    best = max(swarm.members, key=lambda name: swarm.members[name].loss)
    swarm.members[best].loss = 0.1

    return await spread(swarm, "follow", lambda member: following_at(member.peer).leader == best)


async def succession(swarm: Large) -> Row:
    """How long it takes until all know the new place of a centre variable whose holder was killed."""
    await asyncio.sleep(2 * MINUTE)

    def seats() -> list[str]:
        return [name for name, member in swarm.members.items() if centre_of(member).here]

    def knows(member: Member) -> bool:
        held = swarm.members.get(centre_of(member).holder or "")
        return held is not None and centre_of(held).here

    before = seats()
    clock = max(centre_of(member).exchanges for member in swarm.members.values())
    await swarm.kill(before)
    told = await spread(swarm, "know the new one", knows)
    after = seats()
    lost = clock - max(centre_of(swarm.members[name]).exchanges for name in after)
    return {"centres before": len(before), **told, "centres after": len(after), "exchanges lost": f"{lost} of {clock}"}


async def spread(swarm: Large, what: str, knows: Callable[[Member], bool]) -> Row:
    """After how many seconds shares of the members know something."""
    told: Row = {}
    begun = asyncio.get_running_loop().time()

    def known_by(share: float) -> Callable[[], bool]:
        return lambda: sum(map(knows, swarm.members.values())) >= share * len(swarm.members)

    for share, text in ((0.5, f"half {what} after"), (0.99, "99 %"), (1.0, "all")):
        came = await until(known_by(share), 180.0)
        told[text] = "never" if came is None else f"{asyncio.get_running_loop().time() - begun:.0f} s"
    rounds = 2 * math.log2(len(swarm.members))
    return {**told, "2 log2 N announcements": f"{rounds * ANNOUNCE_SECONDS:.0f} s"}


async def split(swarm: Large) -> Row:
    """Who sees that half of the swarm is out of reach for two minutes, and how long the averages need after it."""
    await asyncio.sleep(MINUTE)
    swarm.split()
    await asyncio.sleep(2 * MINUTE)
    seen, parts = swarm.partitions, swarm.views.parts
    swarm.heal()
    healed = await until(lambda: swarm.views.parts == 1, 120.0)
    again = await until(lambda: swarm.partitions == 0, 120.0)
    return {
        "see the partition": f"{seen} of {len(swarm.members)}",
        "components then": parts,
        "one component after": f"{healed} s",
        "no partition after": f"{again} s",
    }


CENTRE = Policy(elastic(0.2), Schedule(period=50), topology=Topology.CENTRE)
SCENES = {
    "gossip": (gossip, None),
    "leader": (leader, LSGD),
    "succession": (succession, CENTRE),
    "split": (split, None),
}


def measure(scene: Callable[..., object], peers: int, policy: Policy | None, seed: int) -> Row:
    async def main() -> Row:
        swarm = Large(peers, policy, seed)
        try:
            await swarm.begin()
            found: Row = await scene(swarm)  # type: ignore[misc]
            return found
        finally:
            await swarm.end()

    begun = time.process_time()
    found = run_virtual(main())
    return {"peers": f"{peers:,}", **found, "CPU s in all": f"{time.process_time() - begun:.0f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=[64, 256, 1000])
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in options.only:
        scene, policy = SCENES[name]
        for number, peers in enumerate(options.peers):
            row = measure(scene, peers, policy, options.seed)
            if not number:
                print(f"\n| {' | '.join(row)} |\n|{'---|' * len(row)}", flush=True)
            print(f"| {' | '.join(map(str, row.values()))} |", flush=True)


if __name__ == "__main__":
    main()
