"""Show what strangers could send to a private run: changed tickets, lists, records and introductions.

    python benchmarks/fuzz_admission.py [--inputs 1000000] [--seed 1]

Chains of tickets, lists of revocations, records with a chain before them, and whole introductions, as a member writes
them, with bytes changed, cut, put in or doubled, and random bytes. Each is refused; one that happens to be as it was
before counts as unchanged. Exits with 1 if anything else is let in, if another error comes, or if memory grew by more
than MEGABYTES_MAX after a tenth of them. Signatures are checked for real, so a million takes some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import struct
import sys
import time
from collections import Counter

from p2p_elastic.bench.figures import resident_bytes
from p2p_elastic.errors import NotAdmitted, PartnerUnreachable
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.admission.tickets import Root
from p2p_elastic.peers.discovery.signed_records import (
    DHTRecord,
    MSGPackSerializer,
    SignedRecords,
    signed_bytes,
    with_chain,
)
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.roles import Role

MEGABYTES_MAX = 20.0
KEY, DAY = b"k" * 20, 86_400


class Bytes:
    """A stream of which everything was sent already."""

    def __init__(self, partner: str, data: bytes) -> None:
        self.partner, self._data, self.sent = partner, data, bytearray()

    async def send(self, data: bytes | memoryview) -> None:
        self.sent += data

    async def receive_into(self, buffer: memoryview) -> None:
        if len(self._data) < len(buffer):
            raise PartnerUnreachable("the stream ended", partner=self.partner)
        buffer[:], self._data = self._data[: len(buffer)], self._data[len(buffer) :]

    async def close(self) -> None: ...

    def abort(self) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    found = asyncio.run(fuzzed(random.Random(options.seed), options.inputs))
    found["seconds"] = round(time.monotonic() - began, 1)
    json.dump(found, sys.stdout, indent=1)
    print()
    sys.exit(int(found["let_in"] > 0 or found["grew_megabytes"] > MEGABYTES_MAX))


async def fuzzed(rng: random.Random, count: int) -> dict[str, float]:
    clock = SwarmClock()
    founder, guest, stranger = Identity.generate(), Identity.generate(), Identity.generate()
    access = AccessList(founder, clock)
    access.enter(Root("lab", founder.peer))
    invite = access.invite(Role.TRAINER, DAY, ("/ip4/192.0.2.1/tcp/1",))
    chain = invite.chain_for(guest)
    access.revoke(Identity.generate().peer)
    lists, validator = access.revoked, SignedRecords(clock, access)
    introductions = Introductions(None, access, rng)  # type: ignore[arg-type]  # nothing is asked here
    introduction = struct.pack("!I", len(chain)) + chain + struct.pack("!I", len(lists)) + lists
    outcomes, start = Counter[str](), 0
    for number in range(count):
        if number % 100 == 0:
            await asyncio.sleep(0)  # nothing here waits: without a turn of the loop its timers would pile up
        if number == count // 10:
            start = resident_bytes()
        kind = number % 4
        original = (chain, lists, chain, introduction)[kind]
        data = changed(rng, original)
        if data == original:
            outcomes["unchanged"] += 1
            continue
        before = access.revoked
        if kind == 0:
            let_in = admitted(access, guest.peer, data)
        elif kind == 1:
            let_in = merged(access, data) or access.revoked != before
        elif kind == 2:
            let_in = validator.validate(record(stranger, data, clock))
        else:
            stream = Bytes(rng.choice((guest, stranger)).peer, data)
            await introductions.answer(stream)  # type: ignore[arg-type]
            # The chain may have come whole, and what was changed be what nobody reads: then its peer is let in rightly.
            whole = data[: 4 + len(chain)] == introduction[: 4 + len(chain)] and stream.partner == guest.peer
            let_in = stream.sent[:1] == b"\x01" and not whole
        outcomes["let in" if let_in else "refused"] += 1
    grew = (resident_bytes() - start) / 1e6
    return {
        "inputs": count,
        "refused": outcomes["refused"],
        "unchanged": outcomes["unchanged"],
        "let_in": outcomes["let in"],
        "grew_megabytes": round(grew, 1),
    }


def changed(rng: random.Random, data: bytes) -> bytes:
    """As a careless or hostile peer may send it."""
    how, at = rng.randrange(5), rng.randrange(len(data))
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + rng.randbytes(1) + data[at + 1 :]
    if how == 2:
        return data[:at] + rng.randbytes(rng.randrange(1, 200)) + data[at:]
    return data + data[:at] if how == 3 else rng.randbytes(rng.randrange(600))


def admitted(access: AccessList, peer: str, chain: bytes) -> bool:
    try:
        access.admit(peer, chain)
    except NotAdmitted:
        return False
    return True


def merged(access: AccessList, lists: bytes) -> bool:
    try:
        access.merge(lists)
    except NotAdmitted:
        return False
    return False


def record(signer: Identity, chain: bytes, clock: SwarmClock) -> DHTRecord:
    """Signed by a stranger, with the chain of somebody else."""
    expiration, body = clock.now() + 30.0, with_chain(chain[:65535], b"{}")
    signed = signer.sign(signed_bytes(KEY, signer.peer_bytes, expiration, body)) + body
    return DHTRecord(KEY, MSGPackSerializer.dumps(signer.peer_bytes), MSGPackSerializer.dumps(signed), expiration)


if __name__ == "__main__":
    main()
