"""What is said of the versions that members run: once, and not for ever."""

from __future__ import annotations

import logging

import pytest

from p2p_elastic.peers.membership.versions import SAID_MAX, Versions
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.software import Software
from p2p_elastic.status.events import EventLog

OURS = Software(version="0.2.0", protocol=3)


def record(peer: str, version: str = "0.2.0", protocol: int = 3) -> PeerRecord:
    told = Software(version=version, protocol=protocol).told
    return PeerRecord(peer=peer, run="r", schema_hash="0" * 32, addresses=(told,))


def watched() -> tuple[Versions, EventLog]:
    events = EventLog(lambda: 0.0)
    return Versions(events), events


def said(events: EventLog) -> list[str]:
    return [event.text.split(". ")[0] for event in events.since(0)]


def test_that_members_differ_is_said_once_for_each_version_and_that_they_do_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    versions, events = watched()
    versions.look(OURS, [record("a")])
    assert said(events) == []
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            versions.look(OURS, [record("a"), record("b", "0.1.0")])
        versions.look(OURS, [record("a"), record("b", "0.1.0"), record("c", "0.1.0")])
        versions.look(OURS, [record("a"), record("b", "0.1.0"), record("c", "0.1.0"), record("d", "0.3.0", 4)])
        versions.look(OURS, [record("a"), record("b")])
        versions.look(OURS, [record("a"), record("b")])
    assert said(events) == [
        "members run different versions: 0.2.0 (protocol 3) here; 0.1.0 (protocol 3) at b",
        "members run different versions: 0.2.0 (protocol 3) here; 0.1.0 (protocol 3) at b, c; 0.3.0 (protocol 4) at d",
        "all members run the same version again: 0.2.0 (protocol 3)",
    ]
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 3


def test_a_member_that_does_not_say_runs_an_earlier_version() -> None:
    versions, events = watched()
    versions.look(OURS, [PeerRecord(peer="old", run="r", schema_hash="0" * 32)])
    assert said(events) == ["members run different versions: 0.2.0 (protocol 3) here; an earlier version at old"]


def test_a_member_that_tells_another_version_each_time_is_soon_not_listened_to() -> None:
    versions, events = watched()
    for i in range(100):
        versions.look(OURS, [record("liar", f"6.6.{i}"), record("a")])
        versions.look(OURS, [record("liar"), record("a")])
    assert len(said(events)) == 2 * SAID_MAX


def test_nobody_left_is_no_word_on_versions() -> None:
    versions, events = watched()
    versions.look(OURS, [record("a", "0.1.0")])
    versions.look(OURS, [])
    assert len(said(events)) == 1
