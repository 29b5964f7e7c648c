"""The way out of a run: every transition of the table, those that are forbidden, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2p_elastic.peers.membership.departure import Departure, Way

DO: dict[str, Callable[[Departure], None]] = {
    "leave": lambda departure: departure.leave(),
    "hand_over": lambda departure: departure.hand_over(),
    "await_taker": lambda departure: departure.await_taker("b"),
    "await_nobody": lambda departure: departure.await_nobody(),
    "handed_over": lambda departure: departure.handed_over(),
}
PATHS = {
    Way.STAYING: (),
    Way.LEAVING: ("leave",),
    Way.HANDING_OVER: ("leave", "hand_over"),
    Way.AWAITING: ("leave", "hand_over", "await_taker"),
}
TABLE = {
    Way.STAYING: (Way.LEAVING, None, None, None, None),
    Way.LEAVING: (Way.LEAVING, Way.HANDING_OVER, Way.AWAITING, Way.LEAVING, Way.LEAVING),
    Way.HANDING_OVER: (Way.HANDING_OVER, Way.HANDING_OVER, Way.AWAITING, Way.HANDING_OVER, Way.LEAVING),
    Way.AWAITING: (Way.AWAITING, None, None, Way.HANDING_OVER, Way.LEAVING),
}


@pytest.mark.parametrize("number", range(len(DO)), ids=list(DO))
@pytest.mark.parametrize("way", TABLE, ids=lambda way: way.value)
def test_each_transition_leads_where_the_table_says_or_is_a_bug(way: Way, number: int) -> None:
    departure, expected = Departure(), TABLE[way][number]
    for name in PATHS[way]:
        DO[name](departure)
    assert departure.way is way
    if expected is None:
        with pytest.raises(AssertionError):
            list(DO.values())[number](departure)
    else:
        list(DO.values())[number](departure)
    now = way if expected is None else expected
    assert departure.way is now
    assert departure.leaving is (now is not Way.STAYING)
    assert departure.handing_over is (now in (Way.HANDING_OVER, Way.AWAITING))
    assert departure.awaited == ("b" if now is Way.AWAITING else None)
