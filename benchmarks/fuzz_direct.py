"""Show strangers' bytes to a port for direct connections, and to what reads the messages that lead there.

    python benchmarks/fuzz_direct.py [--messages 1000000] [--greetings 20000] [--proofs 20000] [--seed 1]

Messages: Offer, Accept, Fetch, Given and Route as a peer writes them, with bytes changed, cut, put in or doubled: each
is read, or refused with the error of a peer that breaks the protocol. Greetings: a port at which a partner is awaited
gets random bytes and silence. Proofs: the right token, and then a wrong number or proof. Afterwards the partner is
heard as before. Exits with 1 if anything else happens, or if memory grew by more than
MEGABYTES_MAX after a tenth of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import sys
from collections.abc import Callable

from p2p_elastic.bench.figures import resident_bytes
from p2p_elastic.errors import RemoteProtocolError
from p2p_elastic.peers.direct.sealing import TAG_BYTES, Agreed
from p2p_elastic.peers.direct.tcp_wire import DirectPort, TcpWire
from p2p_elastic.protocol.framing import MESSAGE_HEADER, pack, unpack_body, unpack_header
from p2p_elastic.protocol.messages import Accept, Direct, Fetch, Given, Offer, Route

LOOPBACK, TOKEN, ID = "127.0.0.1", "0" * 31 + "1", "0" * 32
MEGABYTES_MAX = 20.0
AT_ONCE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--greetings", type=int, default=20_000)
    parser.add_argument("--proofs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    found = {"messages": messages(rng, options.messages)}
    found |= asyncio.run(connections(rng, options.greetings, options.proofs))
    json.dump(found, sys.stdout, indent=1)
    print()
    grew = max(part["grew_megabytes"] for part in found.values())
    sys.exit(int(grew > MEGABYTES_MAX or not found["afterwards"]["partner_heard"]))


def messages(rng: random.Random, count: int) -> dict[str, float]:
    """Changed messages: how many were read all the same, and how many were refused."""
    direct = Direct(secret="a" * 64, aes=True, token=TOKEN, port=4001, dials=True, held=(TOKEN,))
    asked = {"peer": "b", "run": "r", "schema_hash": ID, "elements": 10, "codec": "none"}
    written = [
        pack(Offer(id=ID, **asked, step=1, loss=0.5, weight=1.0, direct=direct)),
        pack(Accept(id=ID, peer="b", schema_hash=ID, step=1, loss=None, weight=1.0, direct=direct)),
        pack(Fetch(id=ID, **asked, origin="b", part=(0, 5), direct=direct)),
        pack(Given(id=ID, origin="b", step=1, loss=0.5, direct=direct)),
        pack(Route(id=ID, direct=True)),
    ]
    read = refused = 0
    memory = Memory(count)
    for number in range(count):
        data = changed(rng, rng.choice(written))
        try:
            kind, length = unpack_header(data[: MESSAGE_HEADER.size].ljust(MESSAGE_HEADER.size, b"\0"))
            unpack_body(kind, data[MESSAGE_HEADER.size :][:length])
            read += 1
        except RemoteProtocolError:
            refused += 1
        memory.look(number)
    return {"read": read, "refused": refused, "grew_megabytes": memory.grew}


def changed(rng: random.Random, data: bytes) -> bytes:
    """The same with one to four changes, more often in its body than in its header."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if len(out) else 0
        what = rng.randrange(5)
        if what == 0 and out:
            out[at] = rng.randrange(256)
        elif what == 1:
            del out[at : at + rng.randint(1, 8)]
        elif what == 2:
            out[at:at] = rng.choice([b'"', b"null", b"1e999", b"[", b"{", b"-1", rng.randbytes(4)])
        elif what == 3:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        else:
            del out[at + 1 :]
    return bytes(out)


class Memory:
    """What this process holds, since a tenth of the work was done: before, caches fill."""

    def __init__(self, count: int) -> None:
        self._first, self._every = count // 10, max(1, count // 100)
        self._begin = self._most = 0

    def look(self, number: int) -> None:
        if number >= self._first and number % self._every == 0:
            self._begin = self._begin or (resident_bytes() or 0)
            self._most = max(self._most, resident_bytes() or 0)

    @property
    def grew(self) -> float:
        return (self._most - self._begin) / 1e6


async def connections(rng: random.Random, greetings: int, proofs: int) -> dict[str, dict[str, float]]:
    """Strangers at a port, and the partner after them."""
    wire = TcpWire()
    await wire.listen(LOOPBACK, DirectPort(0))
    agreed = Agreed(*(Direct(secret=half * 64, aes=True, token=TOKEN, dials=False) for half in "ab"))
    expected = wire.expect("partner", TOKEN)
    expected.agree(agreed, 2)

    def greet(words: bytes) -> bytes:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, wire.port), 5.0) as plain:
            plain.sendall(words)
            if rng.random() < 0.99:
                plain.shutdown(socket.SHUT_WR)
            return plain.recv(4096)
        return b""

    async def many(count: int, words: Callable[[], bytes]) -> dict[str, float]:
        memory, before = Memory(count), wire.refused.total()
        for start in range(0, count, AT_ONCE):
            said = [words() for _ in range(min(AT_ONCE, count - start))]
            answers = await asyncio.gather(*(asyncio.to_thread(greet, one) for one in said))
            assert not any(answers), answers
            memory.look(start)
        return {"refused": wire.refused.total() - before, "grew_megabytes": memory.grew}

    def garbage() -> bytes:
        return rng.randbytes(rng.choice([0, 1, 5, 17, 33, 64, 600, 20_000]))

    def right(number: int) -> bytes:
        shown, proof = bytes.fromhex(TOKEN) + bytes([number]), bytearray(TAG_BYTES)
        agreed.seals(number)[0].seal(b"", proof, shown)
        return shown + bytes(proof)

    def wrong() -> bytes:
        changed = bytearray(right(rng.choice([0, 1, 2, 255])))
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        return bytes(changed[: rng.choice([33, 33, 33, rng.randrange(33)])])

    found = {"greetings": await many(greetings, garbage), "proofs": await many(proofs, wrong)}
    heard = [len(await asyncio.to_thread(greet, right(number))) for number in (0, 1)]
    await expected.all_here()
    found["afterwards"] = {"partner_heard": heard == [TAG_BYTES] * 2, "grew_megabytes": 0.0}
    await wire.close()
    return found


if __name__ == "__main__":
    main()
