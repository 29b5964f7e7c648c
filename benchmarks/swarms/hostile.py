"""Send what no honest peer sends to a real peer that trains with another one, and watch its memory and its exchanges.

    python benchmarks/swarms/hostile.py [--rounds 50]

Every attack of a round opens a libp2p stream of its own and sends for as long as it is let. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from p2p_elastic.common.addresses import parse_address
from p2p_elastic.demo.processes import Process, Swarm
from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.framing import CHUNK_HEADER, MESSAGE_HEADER, pack
from p2p_elastic.protocol.messages import Offer
from p2p_elastic.protocol.records import PeerRecord

FLOOD_BYTES = 8 << 20
START_SECONDS = 120.0


def attacks(me: str, run: str, schema_hash: str, elements: int) -> dict[str, bytes]:
    """What is sent first; each is followed by FLOOD_BYTES of zeros."""
    offer = Offer(
        id="0" * 32,
        peer=me,
        run=run,
        schema_hash=schema_hash,
        elements=elements,
        codec="none",
        step=1,
        loss=None,
        weight=1,
    )
    liar = offer.model_copy(update={"peer": Identity.generate().peer})
    return {
        "garbage": b"\x17" * 4096,
        "a message of 4 GiB": MESSAGE_HEADER.pack(b"PXE1", 1, 2**32 - 1),
        "a chunk of 4 GiB": pack(offer) + CHUNK_HEADER.pack(2**32 - 1, 0),
        "a model of 10 GB": pack(offer.model_copy(update={"elements": 2_500_000_000})),
        "another's peer id": pack(liar),
        "an endless offer": MESSAGE_HEADER.pack(b"PXE1", 1, 4096) + b"[" * 4096,
    }


async def attack(network: LiveNetwork, target: PeerRecord, first: bytes) -> None:
    with contextlib.suppress(PartnerUnreachable, asyncio.TimeoutError):
        stream = await network.transport.open(target)
        await stream.send(first)
        with contextlib.suppress(PartnerUnreachable, asyncio.TimeoutError):
            for _ in range(FLOOD_BYTES >> 18):
                await asyncio.wait_for(stream.send(bytes(1 << 18)), 1.0)
        stream.abort()


def status(process: Process) -> dict[str, Any]:
    with urllib.request.urlopen(process.said["listening"]["http"] + "/v1/status", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def megabytes(process: Process) -> dict[str, float]:
    parent = psutil.Process(process.child.pid)
    return {p.name(): round(p.memory_info().rss / 1e6, 1) for p in [parent, *parent.children()]}


async def bombard(process: Process, rounds: int) -> dict[str, Any]:
    hello, now = process.said["listening"], status(process)
    network = LiveNetwork(Identity.generate(), ())
    await network.open("127.0.0.1", 0)
    try:
        assert parse_address(hello["addresses"][0]).peer == hello["peer"]
        target = PeerRecord(
            peer=hello["peer"], run=now["run"], schema_hash=now["schema_hash"], addresses=tuple(hello["addresses"])
        )
        kinds = attacks(network.identity.peer, now["run"], now["schema_hash"], elements=84_490)
        memory = [megabytes(process)]
        for i in range(rounds):
            await asyncio.gather(*(attack(network, target, first) for first in kinds.values()))
            if i % max(1, rounds // 5) == 0:
                memory.append(megabytes(process))
        memory.append(megabytes(process))
        return {"attacks": rounds * len(kinds), "kinds": list(kinds), "memory_mb": memory, "before": now}
    finally:
        await network.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder)) as swarm:
        victim = swarm.start("victim", ["--epochs", "1000000"])
        swarm.listen_until(lambda: "listening" in victim.said, "starting", START_SECONDS)
        address = victim.said["listening"]["addresses"][0]
        friend = swarm.start("friend", ["--epochs", "1000000", "--initial-peer", address])
        swarm.listen_until(lambda: friend.last.get("step", 0) > 500, "training", START_SECONDS)
        report = asyncio.run(bombard(victim, options.rounds))
        after, before = status(victim), report.pop("before")
        report["streams_refused"] = after["network"]["streams_refused"]
        report["declined"] = after["exchanges"]["declined_by_us"]
        report["exchanges_completed"] = [s["exchanges"]["by_outcome"]["completed"] for s in (before, after)]
        report["steps"] = [s["training"]["step"] for s in (before, after)]
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
