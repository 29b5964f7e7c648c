"""Partners that declined as busy."""

from __future__ import annotations

import pytest

from p2p_elastic.health.trust import PARTNERS_MAX
from p2p_elastic.peers.exchange.busy_partners import (
    BUSY_SECONDS_MAX,
    BUSY_SECONDS_MIN,
    BusyPartners,
    free_in,
    told,
)
from p2p_elastic.protocol.messages import Decline, DeclineReason


def test_one_is_left_alone_for_as_long_as_it_says() -> None:
    busy = BusyPartners()
    busy.said("b", 0.25, now=10.0)
    busy.said("c", 0.75, now=10.0)
    assert (busy.at(10.0), busy.first_free(10.0)) == ({"b", "c"}, 0.25)
    assert busy.first_free(10.2) == pytest.approx(0.05)
    assert (busy.at(10.25), busy.first_free(10.25)) == ({"c"}, 0.5)
    assert (busy.at(10.75), busy.first_free(10.75)) == (set(), None)


@pytest.mark.parametrize(("said", "believed"), [(1000.0, BUSY_SECONDS_MAX), (0.0, BUSY_SECONDS_MIN)])
def test_what_is_believed_has_bounds(said: float, believed: float) -> None:
    busy = BusyPartners()
    busy.said("b", said, now=0.0)
    assert busy.first_free(0.0) == believed


def test_one_that_is_never_free_when_it_says_so_is_asked_ever_more_seldom() -> None:
    busy, now, pauses = BusyPartners(), 0.0, []
    for _ in range(10):
        busy.said("b", 0.0, now)
        pauses.append(busy.first_free(now) or 0.0)
        now += pauses[-1]
    assert pauses[:3] == pytest.approx([BUSY_SECONDS_MIN, 2 * BUSY_SECONDS_MIN, 4 * BUSY_SECONDS_MIN])
    assert pauses[-1] == pytest.approx(BUSY_SECONDS_MAX)
    busy.heard("b")
    assert busy.at(now) == set()
    busy.said("b", 0.0, now)
    assert busy.first_free(now) == pytest.approx(BUSY_SECONDS_MIN)


def test_memory_is_bounded() -> None:
    busy = BusyPartners()
    for i in range(2 * PARTNERS_MAX):
        busy.said(f"peer {i}", 1.0, now=0.0)
    assert len(busy.at(0.0)) == PARTNERS_MAX


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 0.25, 1.0, 86_400.0])
def test_what_one_peer_says_another_reads(seconds: float) -> None:
    decline = Decline(id="0" * 32, reason=DeclineReason.BUSY, detail=free_in(seconds))
    assert told(decline.detail) == pytest.approx(seconds, abs=0.0005)


@pytest.mark.parametrize(
    "detail",
    ["", "not begun", "free in nan s", "free in -1 s", "free in 1e9 s", f"free in {'9' * 100} s", "free in 1 s."],
)
def test_anything_else_says_nothing(detail: str) -> None:
    assert told(detail) is None
