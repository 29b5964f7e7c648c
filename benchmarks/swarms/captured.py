"""What hostile nodes can do to what others see of a large swarm: the production views and shards, virtual time.

    python benchmarks/swarms/captured.py [--peers 1000] [--hostile 0.2] [--seconds 120] [--seed N]

Hostile members announce themselves as all do, say that they have the lowest loss, the centre and a swarm of a million,
and as nodes of the DHT they show only each other. An entry is kept by the five nodes nearest to its key. After two
minutes all five nodes of one shard become theirs, as if they had chosen their places in the DHT; two minutes later they
answer nobody any more. Prints the share of hostile members in the views of honest ones.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from large.hostile_nodes import Member, Nodes, in_a_hostile_swarm

from p2p_elastic.peers.discovery.dht_keys import level_of, members_key, shard_of

CAPTURED = 3


def told(nodes: Nodes, members: Mapping[str, Member], when: str) -> str:
    honest = [member for name, member in members.items() if name not in nodes.hostile]
    share = {m.name: m.hostile_share for m in honest}
    level = level_of(len(members))
    there = [share[m.name] for m in honest if shard_of(m.name, level) == CAPTURED]
    seen = Counter(peer for m in honest for peer in m.view)
    sizes = [m.shards.count for m in honest]
    counts = [seen[m.name] for m in honest]
    return (
        f"| {when} | {100 * statistics.fmean(share.values()):.0f} % | {100 * max(share.values()):.0f} % "
        f"| {100 * statistics.fmean(there):.0f} % | {min(counts)} / {statistics.fmean(counts):.0f} "
        f"| {min(sizes):,} / {statistics.median(sizes):,.0f} / {max(sizes):,} |"
    )


async def measure(nodes: Nodes, members: Mapping[str, Member], seconds: float) -> None:
    key = members_key("run", level_of(len(members)), CAPTURED)
    for when, captured in (("hostile nodes", None), ("a shard is theirs", key), ("it is not any more", None)):
        nodes.captured = captured
        for _ in range(2):
            await asyncio.sleep(seconds / 2)
            print(told(nodes, members, f"{when}, {asyncio.get_running_loop().time():.0f} s"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--hostile", type=float, default=0.2)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each phase")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| when | hostile, of a view | most | in that shard | seen by: fewest / mean | believed size |")
    print("|---|---|---|---|---|---|")
    nodes = Nodes(options.peers, options.hostile, options.seed)
    in_a_hostile_swarm(lambda those, members: measure(those, members, options.seconds), nodes)


if __name__ == "__main__":
    main()
