"""What a member runs, told in a way that earlier versions can read, and read with distrust."""

from __future__ import annotations

import json

import pytest

from p2p_elastic import __version__
from p2p_elastic.common.addresses import usable
from p2p_elastic.common.page_address import is_page
from p2p_elastic.health.causes import on_one_machine
from p2p_elastic.protocol.messages import PROTOCOL_VERSION
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.software import OURS, VERSION_CHARACTERS_MAX, Software, is_software, read_software

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
PLACE = "/ip4/192.0.2.1/tcp/31330"
FIELDS_BEFORE = {
    *("peer", "run", "schema_hash", "addresses", "step", "loss", "weight", "steps_per_second", "drained", "partners"),
    *("group", "centre", "sequence", "left"),
}


def record(*addresses: str) -> PeerRecord:
    return PeerRecord(peer=PEER, run="r", schema_hash="0" * 32, addresses=addresses)


def test_what_a_peer_runs_is_read_from_its_record_and_its_addresses_are_the_others() -> None:
    assert Software(version=__version__, protocol=PROTOCOL_VERSION) == OURS
    told = PeerRecord.model_validate_json(record(PLACE, OURS.told).model_dump_json())
    assert told.software == OURS
    assert told.places == (PLACE,)
    assert record(PLACE).software is None


def test_earlier_versions_read_the_record_and_dial_the_other_addresses() -> None:
    """They refuse fields that they do not know, and leave out what they cannot dial."""
    told = record(PLACE, OURS.told)
    assert set(json.loads(told.model_dump_json(exclude_defaults=True))) <= FIELDS_BEFORE  # as it travels
    assert [address.where for address in usable(PEER, told.addresses)] == [PLACE]
    assert not is_page(OURS.told)


def test_it_says_nothing_about_the_machine() -> None:
    assert on_one_machine(["/ip4/10.0.0.1/tcp/1"], [["/ip4/10.0.0.1/tcp/2", OURS.told]])


@pytest.mark.parametrize("version", ["0.1.0", "1!2.0rc1.post3+local-1_2", "9" * VERSION_CHARACTERS_MAX, "0+unknown"])
def test_any_version_that_a_package_may_have_is_told_and_read(version: str) -> None:
    runs = Software(version=version, protocol=1000)
    assert read_software([PLACE, runs.told]) == runs


@pytest.mark.parametrize(
    "text",
    [
        f"/p2p-elastic/{'9' * (VERSION_CHARACTERS_MAX + 1)}/protocol/3",
        "/p2p-elastic//protocol/3",
        "/p2p-elastic/<b>/protocol/3",
        "/p2p-elastic/../protocol/3",
        "/p2p-elastic/0.1.0\n/protocol/3",
        "/p2p-elastic/0.1.0/protocol/0",
        "/p2p-elastic/0.1.0/protocol/1001",
        "/p2p-elastic/0.1.0/protocol/\u0663",
        "/p2p-elastic/0.1.0/protocol/3/http",
        "/p2p-elastic/0.1.0",
    ],
)
def test_what_a_hostile_member_tells_is_as_nothing_told(text: str) -> None:
    assert is_software(text)
    assert read_software([text]) is None
    assert read_software([text, OURS.told]) == OURS
