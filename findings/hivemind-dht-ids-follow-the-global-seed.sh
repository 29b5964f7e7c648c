#!/bin/sh
# hivemind 1.1.12: the id of a DHT node comes from Python's global random generator, so that two programs which seed it
# alike have nodes of one id, and do not store anything at each other.
#
# Behaviour: `DHTNode.create()` takes `DHTID.generate()`, which calls `random.getrandbits`. Training programs seed that
# generator, usually all with the same number: `transformers.Trainer` does in its constructor (`set_seed(args.seed)`, 42),
# Lightning's `seed_everything` does. A node that meets another one of its own id leaves it out of every search as
# itself. It can read what the other one has, since that answers at the beginning; what it stores stays at home, with
# `store` returning True. Only peers that join the DHT before they build their Trainer are all right.
#
# Expected by most: ids of nodes are random whatever a program does with its seeds, or follow from the peer id.
# What helps: `DHTNode.create(node_id=DHTID.generate(peer_id_bytes), ...)`; with `hivemind.DHT` pass `node_id=`, too.
#
# Output seen (CPython 3.11, torch 2.14.1):
#   seeds 42 and 42: ids equal: True, stored: True, the other node has it: False
#   seeds 42 and 43: ids equal: False, stored: True, the other node has it: True
#
# Exits with 0 while this is so, and with 1 once it is not. Needs a Python of 3.10 to 3.13 with venv, and PyPI.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check hivemind==1.1.12 torch==2.14.1 'setuptools<81'
"$folder/venv/bin/python" -W ignore - <<'EOF'
import asyncio
import random
import sys

from hivemind.dht.node import DHTNode
from hivemind.p2p import P2P
from hivemind.utils.timed_storage import get_dht_time


async def try_out(first_seed, second_seed):
    p2ps = [await P2P.create(host_maddrs=["/ip4/127.0.0.1/tcp/0"])]
    random.seed(first_seed)
    first = await DHTNode.create(p2p=p2ps[0])
    p2ps.append(await P2P.create(host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=await p2ps[0].get_visible_maddrs()))
    random.seed(second_seed)
    second = await DHTNode.create(p2p=p2ps[1], initial_peers=await p2ps[0].get_visible_maddrs())
    stored = await second.store("key", b"value", get_dht_time() + 60)
    at_home = first.protocol.storage  # what the first node keeps itself
    there = len(at_home) > 0
    print(
        f"seeds {first_seed} and {second_seed}: ids equal: {first.node_id == second.node_id}, stored: {stored}, "
        f"the other node has it: {there}"
    )
    found = first.node_id == second.node_id, bool(stored), there
    for node in (second, first):
        await node.shutdown()
    for p2p in reversed(p2ps):
        await p2p.shutdown()
    return found


async def main():
    return await try_out(42, 42), await try_out(42, 43)


sys.exit(asyncio.run(main()) != ((True, True, False), (False, True, True)))
EOF
