"""What a peer makes of itself: its speed, its signals, and the weight that follows from the worst of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.statuses import met

from p2p_elastic.health.causes import Timing
from p2p_elastic.peers.exchange.own_weight import STEP_RATE_SECONDS, Observed, StepRate, Weigher, judged
from p2p_elastic.peers.membership.liveness import Members, observe
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.status.schema import SignalStatus


def seen(**changes: Any) -> Observed:
    found = {"loss": 1.0, "initial_loss": 2.0, "steps_per_second": 10.0, "records": (), "period": 32.0, "addresses": ()}
    return Observed(**{**found, **changes})


def others(*facts: dict[str, Any]) -> Members:
    records = [
        PeerRecord.model_validate({"peer": f"p{n}", "run": "r", "schema_hash": "0" * 32, "loss": 1.0, **one})
        for n, one in enumerate(facts)
    ]
    return observe({}, records, now=0.0)


def healths(observed: Observed, members: Members | None = None) -> dict[str, float]:
    return {signal.name: signal.health for signal in judged(observed, members or {})}


# ---------------------------------------------------------------- speed


def test_the_step_rate_is_that_of_the_last_while() -> None:
    step_rate = StepRate()
    for second in range(0, 1000, 3):
        step_rate.mark(float(second), 10 * second)
    assert step_rate.steps_per_second == pytest.approx(10.0)
    for second in range(1000, 1000 + int(STEP_RATE_SECONDS) + 6, 3):
        step_rate.mark(float(second), 9990 + 2 * (second - 999))
    assert step_rate.steps_per_second == pytest.approx(2.0)
    assert step_rate.marks < 12


def test_a_step_rate_is_known_from_two_marks_on_and_what_came_before_the_first_step_does_not_count() -> None:
    step_rate = StepRate()
    for second in range(100):
        step_rate.mark(float(second), 0)
    assert step_rate.steps_per_second is None
    step_rate.mark(100.0, 5)
    step_rate.mark(100.0, 6)
    assert step_rate.steps_per_second is None
    step_rate.mark(101.0, 9)
    assert step_rate.steps_per_second == 4.0


def test_who_hangs_gets_slower_and_slower() -> None:
    step_rate = StepRate()
    step_rate.mark(0.0, 1)
    step_rate.mark(1.0, 11)
    rates = []
    for second in range(2, 40, 2):
        step_rate.mark(float(second), 11)
        rates.append(step_rate.steps_per_second or 0.0)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.0


# ---------------------------------------------------------------- signals


def test_nothing_speaks_against_a_peer_that_is_well() -> None:
    members = others({"steps_per_second": 10.0}, {"steps_per_second": 12.0})
    found = healths(seen(addresses=("/ip4/10.0.0.1/tcp/1",)), members)
    assert {"loss", "progress", "speed", "relayed", "comparison"} <= set(found)
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"broken": True}, "parameters"),
        ({"newcomer": True}, "newcomer"),
        ({"loss": math.nan}, "loss"),
        ({"loss": 4.1}, "loss"),
        ({"own": 0.0}, "comparison"),
        ({"steps_per_second": 0.0}, "speed"),
    ],
)
def test_each_reason_to_copy_has_a_signal_that_says_so(changes: dict[str, Any], name: str) -> None:
    members = others({"steps_per_second": 10.0}, {"steps_per_second": 10.0})
    found = {signal.name: signal for signal in judged(seen(**changes), members)}
    assert found[name].health == 0.0
    assert found[name].text


@pytest.mark.parametrize(
    ("timing", "address", "word"),
    [
        (Timing(4.0, 0.1, 9.0), "/ip4/192.168.1.8/tcp/1", "CPU is overloaded"),
        (Timing(1.0, 9.0, 0.1), "/ip4/192.168.1.8/tcp/1", "partners are busy"),
        (Timing(1.0, 0.1, 9.0), "/ip4/192.168.1.8/tcp/1", "faster network"),
        (Timing(1.0, 0.1, 9.0), "/ip4/127.0.0.1/tcp/1", "no network"),
    ],
)
def test_what_makes_parameters_old_is_said(timing: Timing, address: str, word: str) -> None:
    old = met("p0", Outcome.COMPLETED, staleness=99)
    members = others({"addresses": (address,)})
    found = judged(seen(records=(old,) * 3, period=8.0, timing=timing), members)
    assert word in next(signal.text for signal in found if signal.name == "staleness")


def test_peers_that_are_drained_or_ill_are_no_measure() -> None:
    ill = {"weight": 0.0, "loss": 0.001, "steps_per_second": 1e9}
    drained = {"drained": True, "loss": 0.001, "steps_per_second": 1e9}
    assert not {"progress", "speed"} & set(healths(seen(), others(ill, drained)))


def test_one_liar_about_its_loss_or_speed_harms_nobody() -> None:
    honest = {"loss": 1.0, "steps_per_second": 10.0}
    members = others({"loss": 0.0, "steps_per_second": 1e9}, honest, honest)
    assert set(healths(seen(), members).values()) == {1.0}


# ---------------------------------------------------------------- weight


def signal(health: float, name: str = "heat") -> SignalStatus:
    return SignalStatus(name=name, health=health)


def test_the_worst_signal_decides_and_comes_first() -> None:
    weigher = Weigher()
    assert weigher.weight == 1.0
    assert weigher.weigh([signal(0.9, "a"), signal(0.4, "b"), signal(0.7, "c")]) == 0.4
    assert [one.name for one in weigher.signals] == ["b", "c", "a"]
    assert weigher.weigh([]) == 1.0


def test_who_was_too_ill_to_count_has_to_be_better_for_a_while() -> None:
    weigher = Weigher()
    weights = [weigher.weigh([signal(health)]) for health in (0.2, 0.05, 0.2, 0.29, 0.3, 0.2)]
    assert weights == [0.2, 0.0, 0.0, 0.0, 0.3, 0.2]
