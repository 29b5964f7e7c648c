"""A run as a whole: what is put together of what peers see, and who needs attention."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from helpers.statuses import status_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from p2p_elastic.screens.swarm import bars, view
from p2p_elastic.status.schema import MemberStatus, PartnerStatus, PeerStatus
from p2p_elastic.status.swarm import ATTENTION_MAX, BINS, SwarmStatus, spread_of, swarm_of


def member(name: str, **changes: Any) -> MemberStatus:
    fine = {"addresses": (), "version": "0.1.0", "protocol": 4, "state": "alive", "step": 1000, "loss": 0.5}
    return MemberStatus(**{"peer": name, "steps_per_second": 10.0, "age_seconds": 2.0, **fine, **changes})


def asked(*members: MemberStatus, **changes: Any) -> PeerStatus:
    training = {"loss": 0.5, "step": 1000, "steps_per_second": 10.0}
    return status_of(protocol=4, members=members, training=training, **changes)


def reasons(swarm: SwarmStatus) -> dict[str, tuple[str, ...]]:
    return {one.peer: tuple(one.reasons) for one in swarm.attention}


OTHERS = [member(name) for name in "bcdef"]


def test_a_peer_alone_is_a_run_of_one() -> None:
    swarm = swarm_of([status_of()])
    assert (swarm.members, swarm.seen, swarm.states) == (1, 1, {"alive": 1})
    assert swarm.attention == ()
    assert swarm_of([status_of(training={"loss": math.nan})]).loss is None


def test_the_peer_that_is_asked_counts_and_the_dead_do_not() -> None:
    swarm = swarm_of([asked(*OTHERS, member("g", state="dead", loss=9.0), member("h", drained=True))])
    assert (swarm.seen, swarm.members) == (7, 7)
    assert swarm.states == {"alive": 6, "dead": 1, "drained": 1}
    assert swarm.loss is not None
    assert (swarm.loss.count, swarm.loss.highest) == (7, 0.5)
    assert reasons(swarm) == {"g": ("dead",), "h": ("drained",)}
    assert swarm.steps_per_second_in_all == pytest.approx(70.0)


def test_of_a_large_run_it_is_a_sample() -> None:
    swarm = swarm_of([asked(*OTHERS, network={"members_about": 600})])
    assert (swarm.seen, swarm.members) == (6, 600)
    assert swarm.steps_per_second_in_all == pytest.approx(6000.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": 0.9}, "loss 0.9, half of the others below 0.5"),
        ({"loss": math.nan}, "loss nan, half of the others below 0.5"),
        ({"weight": 0.25}, "weight 0.25"),
        ({"steps_per_second": 2.0}, "2 steps/s, half of the others above 10"),
        ({"step": 100}, "at step 100, three quarters of the others beyond 1,000"),
        ({"state": "suspect"}, "suspect"),
        ({"version": "0.2.0"}, "runs 0.2.0 (protocol 4)"),
        ({"version": None}, "runs unknown"),
    ],
)
def test_who_is_unusual_needs_attention(changes: dict[str, Any], reason: str) -> None:
    assert reasons(swarm_of([asked(*OTHERS, member("odd", **changes))])) == {"odd": (reason,)}


@pytest.mark.parametrize("changes", [{"loss": 0.54}, {"loss": 0.1}, {"loss": None}, {"steps_per_second": 40.0}])
def test_who_is_not_does_not(changes: dict[str, Any]) -> None:
    assert reasons(swarm_of([asked(*OTHERS, member("other", **changes))])) == {}


def test_of_two_nobody_is_unusual() -> None:
    assert reasons(swarm_of([asked(member("b", loss=5.0, steps_per_second=0.1))])) == {}


def test_what_several_peers_see_counts_once_as_it_was_heard_last() -> None:
    first = asked(member("b", step=900, age_seconds=4.0), member("z", step=800), peer="a")
    second = asked(member("a", step=1), member("b", step=950, age_seconds=1.0), *OTHERS[1:], peer="z")
    partner = PartnerStatus(peer="c", trust=0.0, reasons=("does badly here", "is far away"))
    doubting = second.model_copy(update={"partners": (partner,)})
    swarm = swarm_of([first, doubting, status_of(run="another", peer="x")])
    assert swarm.seen == 7
    assert swarm.step is not None
    assert (swarm.step.lowest, swarm.step.highest) == (950, 1000)  # of a and z what they say themselves
    assert reasons(swarm) == {"c": ("trusted 0 by z: does badly here; is far away",)}


def test_those_with_the_most_reasons_come_first_and_not_all_are_named() -> None:
    odd = [member(f"p{number:02}", weight=0.1) for number in range(30)]
    swarm = swarm_of([asked(*OTHERS, *odd, member("worst", weight=0.1, state="suspect"))])
    assert len(swarm.attention) == ATTENTION_MAX
    assert swarm.attention_in_all == 31
    assert swarm.attention[0].peer == "worst"


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50))
def test_a_spread_is_in_order_and_counts_all(numbers: list[float]) -> None:
    spread = spread_of(numbers)
    assert spread is not None
    places = [spread.lowest, spread.quarter, spread.median, spread.three_quarters, spread.highest]
    assert all(one <= other + 1e-6 for one, other in itertools.pairwise(places))
    assert (sum(spread.bins), len(spread.bins), spread.count) == (len(numbers), BINS, len(numbers))


def test_a_terminal_shows_all_of_it_and_no_markup_of_others() -> None:
    hostile = member("[bold red]x[/]", loss=7.0, version="[link=http://x]1[/link]")
    with Console(width=160, record=True, quiet=False, file=None, force_terminal=False) as console:
        console.begin_capture()
        console.print(view(swarm_of([asked(*OTHERS, hostile, network={"members_about": 1234})])))
        shown = console.end_capture()
    assert "about 1,234 members, of which this shows 7" in shown
    assert "1 to look at" in shown
    assert "[link=http://x]1[/link]" in shown
    assert "7.0000" in shown
    assert bars((0, 4, 8)) == " ▄█"
