"""What the DHT node accepts from others: signed entries of dictionaries, small, short-lived, and few per signer."""

from __future__ import annotations

import struct
import time

import pytest
from helpers.private_runs import Member, Time

from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.discovery import signed_records
from p2p_elastic.peers.discovery.signed_records import (
    DOMAIN,
    KEYS_PER_SIGNER,
    DHTProtocol,
    DHTRecord,
    MSGPackSerializer,
    SignedRecords,
    chain_and_body,
    signed_bytes,
    with_chain,
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


# -- private runs ------------------------------------------------------------------------------------------------------


def private() -> tuple[Time, Member, SignedRecords]:
    time = Time()
    founder = Member(time)
    return time, founder, SignedRecords(time.clock, founder.access)


def entry(time: Time, identity: Identity, chain: bytes, seconds: float = 30.0) -> DHTRecord:
    expiration = time.clock.now() + seconds
    body = with_chain(chain, b"{}")
    value = identity.sign(signed_bytes(KEY, identity.peer_bytes, expiration, body)) + body
    return DHTRecord(KEY, MSGPackSerializer.dumps(identity.peer_bytes), MSGPackSerializer.dumps(value), expiration)


def test_in_a_private_run_a_record_brings_the_ticket_of_its_signer() -> None:
    time, founder, validator = private()
    guest, stranger = founder.invites(time), Identity.generate()
    assert validator.validate(entry(time, founder.identity, b""))
    assert validator.validate(entry(time, guest.identity, guest.access.chain))
    assert founder.access.allows(guest.peer)
    for chain in (b"", guest.access.chain, guest.access.chain[:-1], b"x" * 127):
        assert not validator.validate(entry(time, stranger, chain))
    assert not validator.validate(record(stranger))
    assert validator.refused == 5


def test_a_ticket_that_ended_does_not_spoil_the_other_records_of_a_key() -> None:
    time, founder, validator = private()
    guest = founder.invites(time, seconds=60)
    time.passes(61)
    assert validator.validate(entry(time, guest.identity, guest.access.chain))
    assert not founder.access.allows(guest.peer)


def test_what_comes_before_a_body_is_as_long_as_it_says() -> None:
    assert chain_and_body(with_chain(b"", b"body")) == (b"", b"body")
    assert chain_and_body(b"") == chain_and_body(b"x") == (b"", b"")
    assert chain_and_body(struct.pack("!H", 9) + b"short") == (b"short", b"")
