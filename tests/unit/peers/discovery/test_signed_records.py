"""What the DHT node accepts from others: signed entries of dictionaries, small, short-lived, and few per signer."""

from __future__ import annotations

import struct
import time

import pytest

from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.discovery import signed_records
from p2p_elastic.peers.discovery.signed_records import (
    DOMAIN,
    KEYS_PER_SIGNER,
    DHTProtocol,
    DHTRecord,
    MSGPackSerializer,
    SignedRecords,
)
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.records import RECORD_BYTES_MAX, RECORD_SECONDS_MAX

KEY = b"k" * 20


def everybodys(clock: SwarmClock) -> SignedRecords:
    """Of an open run."""
    return SignedRecords(clock, AccessList(Identity.generate(), clock))


def record(identity: Identity, *, key: bytes = KEY, body: bytes = b"{}", seconds: float = 30.0) -> DHTRecord:
    """An entry as an honest peer makes it."""
    expiration = time.time() + seconds
    message = DOMAIN + struct.pack("!HHd", len(key), len(identity.peer_bytes), expiration)
    message += key + identity.peer_bytes + body
    value = MSGPackSerializer.dumps(identity.sign(message) + body)
    return DHTRecord(key, MSGPackSerializer.dumps(identity.peer_bytes), value, expiration)


def changed(original: DHTRecord, **changes: object) -> DHTRecord:
    facts = {name: getattr(original, name) for name in ("key", "subkey", "value", "expiration_time")}
    return DHTRecord(**facts | changes)


def test_a_signed_entry_is_accepted() -> None:
    validator = everybodys(SwarmClock())
    assert validator.validate(record(Identity.generate()))
    assert validator.refused == 0


ME, OTHER = Identity.generate(), Identity.generate()
GOOD = record(ME)


@pytest.mark.parametrize(
    "bad",
    [
        changed(GOOD, subkey=MSGPackSerializer.dumps(OTHER.peer_bytes)),
        changed(GOOD, key=b"x" * 20),
        changed(GOOD, expiration_time=GOOD.expiration_time + 1.0),
        changed(GOOD, value=GOOD.value[:-1] + b"!"),
        changed(GOOD, value=b""),
        changed(GOOD, value=b"\xc1"),
        changed(GOOD, value=MSGPackSerializer.dumps({"no": "bytes"})),
        changed(GOOD, subkey=DHTProtocol.IS_REGULAR_VALUE),
        changed(GOOD, subkey=DHTProtocol.IS_DICTIONARY),
        changed(GOOD, subkey=MSGPackSerializer.dumps("a name")),
        record(ME, body=b" " * RECORD_BYTES_MAX),
        record(ME, seconds=RECORD_SECONDS_MAX + 3600.0),
    ],
    ids=[
        "under another's subkey",
        "under another key",
        "made to live longer",
        "changed",
        "empty",
        "not msgpack",
        "not bytes",
        "a plain value",
        "a whole dictionary",
        "no peer id",
        "too large",
        "too long-lived",
    ],
)
def test_anything_else_is_refused_and_counted(bad: DHTRecord) -> None:
    validator = everybodys(SwarmClock())
    assert not validator.validate(bad)
    assert validator.refused == 1


def test_a_signer_gets_a_few_keys_and_can_go_on_with_those() -> None:
    validator, greedy = everybodys(SwarmClock()), Identity.generate()
    keys = [bytes([i]) * 20 for i in range(KEYS_PER_SIGNER + 3)]
    assert [validator.validate(record(greedy, key=key)) for key in keys].count(True) == KEYS_PER_SIGNER
    assert validator.validate(record(greedy, key=keys[0]))
    assert validator.validate(record(Identity.generate(), key=keys[-1]))


def test_so_many_signers_are_remembered_and_no_more_until_their_records_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signed_records, "SIGNERS_REMEMBERED", 2)
    monkeypatch.setattr(signed_records, "SIGNERS_MAX", 3)
    now = [time.time()]
    validator = everybodys(SwarmClock(lambda: now[0], lambda: now[0]))
    first, *others = (record(Identity.generate(), seconds=30.0) for _ in range(5))
    assert [validator.validate(one) for one in (first, *others)] == [True, True, True, False, False]
    assert validator.validate(first)
    now[0] += 31.0
    assert validator.validate(record(Identity.generate(), seconds=60.0))
