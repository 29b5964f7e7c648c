"""Partners that wait for the end of an exchange."""

from __future__ import annotations

from p2p_elastic.peers.exchange.waiting_partners import IN_A_ROW_MAX, WAITING_MAX, WaitingPartners


def waiting(*partners: str) -> WaitingPartners:
    queue = WaitingPartners()
    for partner in partners:
        assert queue.join(partner)
    return queue


def test_they_come_in_the_order_in_which_they_asked() -> None:
    queue = waiting("b", "a")
    assert (queue.is_first("b"), queue.is_first("a")) == (True, False)
    queue.leave("b")
    assert queue.is_first("a")
    queue.leave("a")
    assert not queue.present
    assert not queue.is_first("a")


def test_one_that_was_asked_at_the_same_time_goes_before_the_others() -> None:
    queue = waiting("b", "a")
    queue.put_first("a")
    assert queue.is_first("a")
    queue.leave("a")
    assert queue.is_first("b")


def test_each_waits_once_and_few_wait() -> None:
    queue = waiting(*(f"peer {i}" for i in range(WAITING_MAX)))
    assert not queue.join("peer 0")
    assert not queue.join("another")
    queue.leave("peer 0")
    assert queue.join("another")


def test_they_go_before_an_own_exchange_but_not_for_ever() -> None:
    queue = waiting("b")
    for _ in range(IN_A_ROW_MAX):
        assert queue.go_first
        queue.answered()
    assert not queue.go_first
    queue.asked()
    assert queue.go_first
    queue.leave("b")
    assert not queue.go_first
