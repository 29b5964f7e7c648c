"""One end of what `exchange.py` compares with: hivemind's averager, or a bare stream by hivemind's own API.

Reads commands, one a line (`round`, `quit`), and answers each with one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("HIVEMIND_LOGLEVEL", "CRITICAL")

import hivemind  # noqa: E402
import torch  # noqa: E402
from hivemind.compression import Float16Compression, NoCompression  # noqa: E402
from hivemind.p2p import P2P, PeerID  # noqa: E402
from hivemind.utils.multiaddr import Multiaddr  # noqa: E402

PIECE = 1 << 20
MATCHMAKING_SECONDS = 1.0  # a full group of two does not wait for it
STEP_SECONDS = 120.0


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def obey(commands: dict[str, Callable[[], float]]) -> None:
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        say(seconds=commands[line.strip()]())


def averager(options: dict[str, Any]) -> None:
    """`DecentralizedAverager` in groups of two."""
    dht = hivemind.DHT(initial_peers=options["initial_peers"], start=True, nat_port_map=False, use_relay=False)
    averaging = hivemind.DecentralizedAverager(
        [torch.full((options["elements"],), float(options["rank"]))],
        dht,
        start=True,
        prefix=f"bench{options['elements']}{options['codec']}",
        target_group_size=2,
        min_group_size=2,
        min_matchmaking_time=MATCHMAKING_SECONDS,
        request_timeout=MATCHMAKING_SECONDS / 2,
        compression=Float16Compression() if options["codec"] == "float16" else NoCompression(),
    )

    def step() -> float:
        began = time.perf_counter()
        if averaging.step(timeout=STEP_SECONDS) is None:
            raise RuntimeError("no group came together")
        return time.perf_counter() - began

    say(addresses=[str(a) for a in dht.get_visible_maddrs()])
    obey({"round": step})
    averaging.shutdown()
    dht.shutdown()


async def bare(options: dict[str, Any]) -> None:
    """The same bytes both ways: `reader.read(1 MiB)` and a copy, `writer.write(1 MiB)` and `drain`."""
    p2p = await P2P.create(
        initial_peers=options["initial_peers"] or None, nat_port_map=False, use_relay=False, idle_timeout=30
    )
    nbytes = 4 * options["elements"]
    mine, theirs = memoryview(bytearray(nbytes)), memoryview(bytearray(nbytes))

    async def swap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send() -> None:
            for start in range(0, nbytes, PIECE):
                writer.write(mine[start : start + PIECE])
                await writer.drain()

        async def fill() -> None:
            filled = 0
            while filled < nbytes:
                data = await reader.read(min(PIECE, nbytes - filled))
                theirs[filled : filled + len(data)] = data
                filled += len(data)

        await asyncio.gather(send(), fill())

    async def answer(_info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1):
                await swap(reader, writer)
        finally:
            writer.close()

    await p2p.add_binary_stream_handler("bench", answer)
    say(addresses=[str(a) for a in await p2p.get_visible_maddrs()])
    loop = asyncio.get_running_loop()
    ways = None
    while (line := (await loop.run_in_executor(None, sys.stdin.readline)).strip()) not in ("quit", ""):
        assert line == "round"
        if ways is None:
            partner = PeerID.from_base58(Multiaddr(options["initial_peers"][0])["p2p"])
            _, *ways = await p2p.call_binary_stream_handler(partner, "bench")
        reader, writer = ways
        began = time.perf_counter()
        writer.write(b"g")
        await swap(reader, writer)
        say(seconds=time.perf_counter() - began)
    await p2p.shutdown()


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    if given["kind"] == "averager":
        averager(given)
    else:
        asyncio.run(bare(given))
    sys.stdout.flush()
    os._exit(0)  # hivemind's forks and pools do not end by themselves
