"""Several processes with one identity."""

from __future__ import annotations

from helpers.peer_parts import record

from p2p_elastic.peers.membership.instances import LOOKS_ALONE, TAKEN_OVER, Instances

FIRST = 1000


def announced(records: int = 1) -> Instances:
    """A process that has announced so many records."""
    own = Instances(FIRST)
    own.sequence += records
    return own


def test_alone_there_is_no_other_process() -> None:
    own = announced()
    assert own.saw(None) is None
    assert [own.saw(record("a", own.sequence)) for _ in range(9)] == [None] * 9
    assert own.sequence == FIRST + 1


def test_a_record_of_an_earlier_life_is_another_process_only_once_it_is_renewed() -> None:
    own = announced()
    assert own.saw(record("a", 500)) is None
    assert own.saw(record("a", 500)) is None
    assert own.saw(record("a", 501)) == "earlier"


def test_one_that_began_later_and_replaced_our_record_is_told_once() -> None:
    own = announced()
    assert own.saw(record("a", 5000)) == "later"
    assert own.saw(record("a", 5001)) is None


def test_before_our_first_record_one_that_began_later_counts_once_it_is_renewed() -> None:
    own = Instances(FIRST)
    assert own.saw(record("a", 5000)) is None
    assert own.saw(record("a", 5001)) == "later"


def test_once_a_later_process_has_ended_we_count_on_past_its_records() -> None:
    own = announced()
    own.saw(record("a", 5000))
    for _ in range(LOOKS_ALONE):
        assert own.sequence == FIRST + 1
        own.saw(record("a", own.sequence))
    assert own.sequence == 5000 + TAKEN_OVER
    own.sequence += 1
    assert own.saw(record("a", 9000)) == "later"  # a third one is told again


def test_looks_that_find_our_record_count_only_in_a_row() -> None:
    own = announced()
    for _ in range(3):
        own.saw(record("a", 5000))
        for _ in range(LOOKS_ALONE - 1):
            own.saw(record("a", own.sequence))
    assert own.sequence == FIRST + 1


def test_the_goodbye_of_a_later_process_is_outlasted_at_once() -> None:
    own = announced()
    assert own.saw(record("a", 7000, left=True)) is None
    assert own.sequence == 7000 + TAKEN_OVER
    assert own.saw(record("a", 500, left=True)) is None  # one of an earlier life says nothing
    assert own.sequence == 7000 + TAKEN_OVER
