"""When a centre has no time for one more member."""

from __future__ import annotations

import pytest

from p2p_elastic.errors import ConfigError
from p2p_elastic.peers.centre.load import TURN_SECONDS, check_centre, turn_of


def refused(members: int, nbytes: float, rate: float | None, period: float) -> bool:
    try:
        check_centre(turn_of(members, nbytes), [rate] * members, period)
    except ConfigError:
        return True
    return False


def test_a_centre_has_time_for_so_many_as_get_half_of_what_they_ask_for() -> None:
    assert refused(41, 100e6, rate=1.0, period=4)
    assert not refused(41, 100e6, rate=1.0, period=8)
    assert not refused(38, 100e6, rate=1.0, period=4)
    assert refused(400, 100e6, rate=1.0, period=32)
    assert refused(41, 100e6, rate=50.0, period=32)


def test_a_small_model_that_asks_all_the_time_is_no_harm_while_its_turn_comes_soon() -> None:
    assert not refused(8, 4e6, rate=200.0, period=1)
    assert turn_of(8, 4e6) < 1.0 < TURN_SECONDS


def test_of_nobody_nothing_is_said_and_one_liar_is_not_the_median() -> None:
    assert not refused(1000, 100e6, rate=None, period=1)
    assert not refused(1000, 100e6, rate=10.0, period=float("inf"))
    check_centre(20.0, [0.1, 0.1, 1e9, None], period=1.0)


def test_who_would_be_one_too_many_is_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"every 20 s at best, 5 times the period of 8 steps.*--rule elastic-gossip"):
        check_centre(20.0, [2.0], period=8.0)
