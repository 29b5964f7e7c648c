"""Members that said goodbye, and the records from before it."""

from __future__ import annotations

from helpers.peer_parts import record

from p2p_elastic.peers.membership.tombstones import DEPARTED_MAX, Departed
from p2p_elastic.protocol.records import RECORD_SECONDS_MAX, PeerRecord


def left(departed: Departed, *records: PeerRecord, now: float = 1.0) -> list[tuple[str, int]]:
    """Those that remain."""
    return [(r.peer, r.sequence) for r in departed.without(records, now)]


def test_records_up_to_the_goodbye_are_left_out_and_others_stay() -> None:
    departed = Departed()
    departed.remember(record("b", 5), sequence=7, now=0.0)
    assert left(departed, record("b", 6), record("b", 7), record("c", 1)) == [("c", 1)]
    assert departed.peers == ("b",)


def test_a_newer_record_is_a_peer_that_came_back_and_it_is_forgotten_that_it_left() -> None:
    departed = Departed()
    departed.remember(record("b", 5), sequence=7, now=0.0)
    assert left(departed, record("b", 8)) == [("b", 8)]
    assert departed.get("b") is None


def test_once_no_old_record_can_be_about_any_more_a_goodbye_counts_no_more() -> None:
    departed = Departed()
    departed.remember(record("b", 5), sequence=7, now=10.0)
    assert left(departed, record("b", 5), now=10.0 + RECORD_SECONDS_MAX) == []
    assert left(departed, record("b", 5), now=10.1 + RECORD_SECONDS_MAX) == [("b", 5)]


def test_of_two_goodbyes_the_last_one_counts() -> None:
    departed = Departed()
    departed.remember(record("b", 5), sequence=7, now=0.0)
    departed.remember(record("b", 8), sequence=9, now=3.0, asked=True)
    gone = departed.get("b")
    assert gone == (record("b", 8), 9, 3.0 + RECORD_SECONDS_MAX, True)


def test_memory_is_bounded_and_the_oldest_are_forgotten_first() -> None:
    departed = Departed()
    for number in range(DEPARTED_MAX):
        departed.remember(record(f"p{number}"), sequence=1, now=0.0)
    departed.remember(record("p0"), sequence=2, now=0.0)  # again: it is the latest now
    departed.remember(record("new"), sequence=1, now=0.0)
    assert len(departed.peers) == DEPARTED_MAX
    assert departed.get("p1") is None
    assert departed.peers[-2:] == ("p0", "new")
