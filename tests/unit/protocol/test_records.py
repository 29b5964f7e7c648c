"""A peer's record as it is stored: each of its addresses names the peer only once it is read."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from p2p_elastic.common.addresses import CHARACTERS_MAX
from p2p_elastic.protocol.records import PeerRecord, read_record, record_body
from p2p_elastic.protocol.software import OURS

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
RELAY = "12D3KooWGatUQqPDRqPqkeFZyoEW6vGhPkXJr6LyN7ZgVvbLKGbW"
RELAYED = f"/ip4/192.0.2.9/tcp/9/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"
PAGE = "/ip4/192.0.2.1/tcp/8080/http"


def record(*addresses: str) -> PeerRecord:
    return PeerRecord(peer=PEER, run="r", schema_hash="0" * 32, addresses=addresses)


def test_what_is_read_is_what_was_written_and_the_id_travels_once() -> None:
    home = record(f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}", f"/ip6/2001:db8::1/tcp/1/p2p/{PEER}", PAGE, OURS.told)
    assert read_record(record_body(home)) == home
    assert record_body(home).count(PEER.encode()) == 1


def test_a_relayed_address_names_relay_and_peer() -> None:
    assert read_record(record_body(record(RELAYED))).addresses == (RELAYED,)
    assert json.loads(record_body(record(RELAYED)))["addresses"] == [RELAYED]


def test_an_address_of_another_peer_stays_what_it_is() -> None:
    other = f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}"
    assert read_record(record_body(record(other))).addresses == (other,)


def test_an_address_that_is_too_long_with_the_id_is_left_out() -> None:
    short, long = (f"/dns/{'x' * (size - 5)}" for size in (100, CHARACTERS_MAX))
    read = read_record(record(short, long).model_dump_json().encode())
    assert read.addresses == (f"{short}/p2p/{PEER}",)
    assert PeerRecord.model_validate(read.model_dump()) == read


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ValidationError):
        read_record(b'{"peer":"a"}')
