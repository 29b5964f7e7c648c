"""How many exchanges two real peers complete while an attacker announces members that are not there, or offers in vain.

    python benchmarks/swarms/floods.py [--seconds 60] [--only quiet,refusing] [--python PYTHON]

For each case two peers of a fresh run train the digits, alone for `--seconds` and then under it:

    refusing   50 announced members whose ports refuse
    silent     50 whose ports accept and say nothing
    identities 3,000 announced members whose ports refuse
    offers     one member that makes 100 offers per second and gives each up at once

`--python` runs the peers by another interpreter, such as that of an earlier build; the attacker is of this one. Prints
one JSON document; the ratio of the rates of exchanges is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2p_elastic.demo.processes import Process, Swarm
from p2p_elastic.errors import DirectoryError, PartnerUnreachable
from p2p_elastic.peers.discovery.dht_keys import members_key
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.discovery.signed_records import signed_bytes
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.framing import pack
from p2p_elastic.protocol.messages import Offer
from p2p_elastic.protocol.records import PeerRecord

from hivemind.dht.routing import DHTID  # isort: skip  # after ours has silenced it

START_SECONDS, RECORD_SECONDS = 120.0, 60.0
CASES = {"quiet": 0, "refusing": 50, "silent": 50, "identities": 3000, "offers": 0}


def status(process: Process) -> dict[str, Any]:
    with urllib.request.urlopen(process.said["listening"]["http"] + "/v1/status", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


class Attacker:
    """One process with many identities.

    Args:
        near: a peer of the run.
        count: how many members it announces.
        port: at which they are said to be.
    """

    def __init__(self, near: dict[str, Any], addresses: Sequence[str], count: int, port: int) -> None:
        self._near, self._addresses = near, tuple(addresses)
        self._network = LiveNetwork(Identity.generate(), self._addresses)
        self._identities = [Identity.generate() for _ in range(count)]
        self._port, self._sequence, self.offers = port, int(time.time() * 1000), 0

    def record(self, identity: Identity, *addresses: str) -> PeerRecord:
        facts = {"peer": identity.peer, "run": self._near["run"], "schema_hash": self._near["schema_hash"]}
        self._sequence += 1
        return PeerRecord(**facts, step=1000, sequence=self._sequence, addresses=addresses)

    async def announce(self) -> None:
        """All of them, for ever, as often as a peer does; as many as it manages."""
        key = members_key(self._near["run"])
        key_bytes = DHTID.generate(source=key).to_bytes()
        node = self._network.dht._node  # no peer announces others
        while True:
            for identity in self._identities:
                where = f"/ip4/127.0.0.1/tcp/{self._port}/p2p/{identity.peer}"
                body = self.record(identity, where).model_dump_json(exclude_defaults=True).encode()
                end = self._network.clock.now() + RECORD_SECONDS
                value = identity.sign(signed_bytes(key_bytes, identity.peer_bytes, end, body)) + body
                with self._network.clock.as_current(), contextlib.suppress(Exception):
                    await node.store(key=key, subkey=identity.peer_bytes, value=value, expiration_time=end)
            await asyncio.sleep(max(1.0, 5.0 - 0.01 * len(self._identities)))

    async def offer(self) -> None:
        """To a peer that trains, a hundred per second, each given up at once; as a member."""
        me, target = self._network.identity, self._addresses[0].rsplit("/", 1)[-1]
        facts = {"run": self._near["run"], "schema_hash": self._near["schema_hash"]}
        there = PeerRecord(peer=target, addresses=self._addresses, **facts)
        with contextlib.suppress(DirectoryError):
            await self._network.directory.announce(self.record(me, *self._network.host.addresses))
        while True:
            self.offers += 1
            offer = Offer(
                id=f"{self.offers:032x}",
                peer=me.peer,
                **facts,
                elements=self._near["elements"],
                codec="none",
                step=1000,
                loss=0.1,
                weight=1.0,
            )
            with contextlib.suppress(PartnerUnreachable):
                stream = await self._network.transport.open(there)
                await stream.send(pack(offer))
                await asyncio.sleep(0.005)
                stream.abort()
            await asyncio.sleep(0.005)

    async def during(self, seconds: float, *, offers: bool) -> None:
        await self._network.open("127.0.0.1", 0)
        try:
            assert await self._network.directory.attach()
            work = asyncio.ensure_future(self.offer() if offers else self.announce())
            await asyncio.sleep(seconds)
            work.cancel()
        finally:
            await self._network.close()


def completed(peers: Sequence[Process]) -> int:
    return sum(status(peer)["exchanges"]["by_outcome"].get("completed", 0) for peer in peers)


def rate(peers: Sequence[Process], wait: Any) -> dict[str, float]:
    before, steps, began = completed(peers), [status(p)["training"]["step"] for p in peers], time.monotonic()
    wait()
    seconds = time.monotonic() - began
    made = sum(status(p)["training"]["step"] - s for p, s in zip(peers, steps, strict=True))
    done = completed(peers) - before
    return {"exchanges_per_second": round(done / seconds, 3), "per_1000_steps": round(1000 * done / max(1, made), 2)}


def case(name: str, seconds: float, python: str) -> dict[str, Any]:
    options = ["--epochs", "1000000"]
    with contextlib.ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        silent = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        swarm = opened.enter_context(
            Swarm(Path(folder), launch=lambda command, **given: subprocess.Popen([python, *command[1:]], **given))
        )
        with socket.create_server(("127.0.0.1", 0)) as gone:
            refusing = gone.getsockname()[1]
        first = swarm.start("first", options)
        swarm.listen_until(lambda: "founded" in first.said, "starting", START_SECONDS)
        address = first.said["listening"]["addresses"][0]
        second = swarm.start("second", [*options, "--initial-peer", address])
        peers = [first, second]
        swarm.listen_until(lambda: second.last.get("step", 0) > 500, "training", START_SECONDS)
        quiet = rate(peers, lambda: swarm.listen(seconds))
        if name == "quiet":
            return {"before": quiet, "under_it": rate(peers, lambda: swarm.listen(seconds))}
        near = status(first) | {"elements": 85_002}
        attacker = Attacker(near, [address], CASES[name], silent.getsockname()[1] if name == "silent" else refusing)
        under = rate(peers, lambda: asyncio.run(attacker.during(seconds, offers=name == "offers")))
        after = status(first)
        return {
            "before": quiet,
            "under_it": under,
            "ratio": round(under["per_1000_steps"] / quiet["per_1000_steps"], 3),
            "weight": after["weight"],
            "members": len(after["members"]),
            "status_kb": round(len(json.dumps(after)) / 1e3),
            "partition": after["partition"],
            "offers": attacker.offers,
            "declined_by_us": after["exchanges"]["declined_by_us"],
            "outcomes": after["exchanges"]["by_outcome"],
            "skipped": after["exchanges"]["skipped"],
            "unreachable_seconds": [
                round(partner["last"]["seconds"], 1)
                for peer in peers
                for partner in status(peer)["partners"]
                if partner["last"] and partner["last"]["outcome"] == "unreachable"
            ],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--python", default=sys.executable, help="of another build")
    options = parser.parse_args()
    found = {name: case(name, options.seconds, options.python) for name in options.only.split(",")}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
