from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import statuses
from pydantic import ValidationError

from p2p_elastic.health.checks import judge, why_not_ready
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.schema import (
    BootstrapStatus,
    CentreStatus,
    ExchangeRecord,
    ExchangeTotals,
    MemberStatus,
    OtherModel,
    PartitionStatus,
    PeerStatus,
    SignalStatus,
)

MEMBER = MemberStatus(
    peer="12D3B", addresses=("/ip4/10.0.0.2/tcp/4001",), state="alive", step=90, loss=1.0, age_seconds=1
)
REACHED = BootstrapStatus(address="/ip4/10.0.0.2/tcp/4001/p2p/12D3B")
UNREACHED = BootstrapStatus(address="/ip4/10.0.0.3/tcp/4001/p2p/12D3C", problem="connection refused")
FAILED = (Outcome.UNREACHABLE, Outcome.TIMEOUT, Outcome.BROKEN, Outcome.REFUSED, Outcome.HALF)


def status_of(*, training: Any = None, network: Any = None, **changes: Any) -> PeerStatus:
    """A peer that trains well with one other peer, but for the changes."""
    return statuses.status_of(
        training={"step": 90, **(training or {})},
        network={"attached": True, **(network or {})},
        **{"exchanges": ExchangeTotals(), "members": (MEMBER,), **changes},
    )


def exchanges_of(*outcomes: Outcome, partner: str = "12D3B") -> tuple[ExchangeRecord, ...]:
    """One exchange per outcome, the oldest first."""
    return tuple(
        ExchangeRecord(
            id=f"x{index}",
            partner=partner,
            initiated=True,
            outcome=outcome,
            step=index,
            seconds=0.1,
            bytes_sent=1,
            bytes_received=1,
            age_seconds=len(outcomes) - index,
        )
        for index, outcome in enumerate(outcomes)
    )


def codes(status: PeerStatus) -> list[str]:
    health = judge(status)
    assert (health.status == "ok") == (not health.reasons)
    return [reason.code for reason in health.reasons]


def test_a_peer_that_trains_with_others_is_ok() -> None:
    assert codes(status_of()) == []


def test_a_swarm_of_two_that_lost_one_is_told_so() -> None:
    split = PartitionStatus(lost=1, before=1, away=1, left=0, seconds=12.0, steps=40)
    [reason] = judge(status_of(partition=split)).reasons
    assert reason.text.startswith("the only other member vanished 12 s ago: it crashed, or the network is split. ")
    assert "goes on alone" in reason.text


@pytest.mark.parametrize(("left", "goes_on"), [(2, "with 2 others;"), (1, "with 1 other;"), (0, "alone;")])
def test_members_that_vanished_together_are_said_until_they_are_back(left: int, goes_on: str) -> None:
    split = PartitionStatus(lost=3, before=5, away=3, left=left, seconds=12.0, steps=40)
    status = status_of(partition=split)
    assert codes(status) == ["partitioned"]
    (reason,) = judge(status).reasons
    assert "3 of 5 members vanished together 12 s ago" in reason.text
    assert goes_on in reason.text


def test_initial_peers_none_of_which_answers_are_named_with_their_problems() -> None:
    other = BootstrapStatus(address="/dns4/nowhere/tcp/1", problem="no such host")
    status = status_of(network={"attached": False, "bootstrap": (UNREACHED, other)})
    assert codes(status) == ["bootstrap_unreachable"]
    text = judge(status).reasons[0].text
    assert all(
        part in text for part in (UNREACHED.address, "connection refused", other.address, "no such host", "check")
    )


@pytest.mark.parametrize(
    "network",
    [
        {"attached": False, "bootstrap": (REACHED, UNREACHED)},
        {"attached": True, "bootstrap": (UNREACHED,)},
        {"attached": False, "bootstrap": ()},
    ],
)
def test_one_way_into_the_network_is_enough(network: dict[str, Any]) -> None:
    assert codes(status_of(network=network)) == []


def test_a_peer_that_was_told_of_others_and_finds_none_is_degraded() -> None:
    joined = {"bootstrap": (REACHED,)}
    suspect = MEMBER.model_copy(update={"state": "suspect"})
    assert codes(status_of(network=joined, members=())) == ["no_members"]
    assert codes(status_of(network=joined, members=(suspect,))) == ["no_members"]
    assert codes(status_of(network=joined, members=(suspect, MEMBER))) == []
    drained = MEMBER.model_copy(update={"drained": True})
    assert codes(status_of(network=joined, members=(suspect, drained))) == ["members_drained"]
    assert codes(status_of(network=joined, members=(), uptime_seconds=30.0)) == []
    assert codes(status_of(network=joined, members=(), training={"phase": "waiting"})) == []


def test_who_is_alone_hears_how_many_are_dead_and_since_when() -> None:
    joined = {"bootstrap": (REACHED,)}
    dead = [MEMBER.model_copy(update={"state": "dead", "heard_seconds": seconds}) for seconds in (90.0, 40.0)]
    [reason] = judge(status_of(network=joined, members=tuple(dead))).reasons
    assert "2 are dead, the last one heard 40 s ago" in reason.text


def test_a_founder_may_be_alone() -> None:
    assert codes(status_of(network={"attached": False}, members=())) == []


def test_a_peer_that_holds_the_centre_and_makes_no_steps_is_ok() -> None:
    holding = {"phase": "holding", "loss": None, "seconds_since_step": 1000.0}
    centre = CentreStatus(holder="12D3A", here=True, term=1, exchanges=10)
    assert judge(status_of(training=holding, centre=centre)).status == "ok"


def test_a_centre_that_nobody_holds_is_degraded() -> None:
    vacant = CentreStatus(holder=None, here=False, term=1, exchanges=10)
    (reason,) = judge(status_of(centre=vacant)).reasons
    assert reason.code == "centre_vacant"
    assert "takes it over" in reason.text
    assert judge(status_of(centre=vacant, uptime_seconds=5.0)).status == "ok"


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_degraded(loss: float) -> None:
    assert codes(status_of(training={"loss": loss})) == ["loss_not_finite"]


def test_tensors_that_are_not_finite_are_named() -> None:
    (reason,) = judge(status_of(not_finite=("0.mask", "1.mask", "2.mask", "3.mask"))).reasons
    assert reason.code == "tensors_not_finite"
    assert "0.mask, 1.mask, 2.mask and 1 more" in reason.text


def test_peers_with_another_model_are_named_with_the_first_difference() -> None:
    known = OtherModel(peer="C", schema_hash="2" * 32, difference="0.weight is [3, 2] here and [3, 4] there")
    unknown = OtherModel(peer="B", schema_hash="1" * 32, difference=None)
    (reason,) = judge(status_of(other_models=(unknown, known))).reasons
    assert reason.code == "schema_differs"
    for words in ("C trains another model", "2 such peers", "[3, 2] here and [3, 4] there", "same model everywhere"):
        assert words in reason.text
    (reason,) = judge(status_of(other_models=(unknown,))).reasons
    assert "B trains another model in this run: in what is not known yet" in reason.text


def test_members_of_another_protocol_are_named_and_what_is_to_be_done() -> None:
    other = MEMBER.model_copy(update={"version": "0.3.0", "protocol": 4})
    (reason,) = judge(status_of(protocol=3, members=(other,))).reasons
    assert reason.code == "protocol_differs"
    for words in ("0.1.0 (protocol 3) here", "0.3.0 (protocol 4) at 12D3B", "stop all peers", "same version"):
        assert words in reason.text


def test_members_of_another_version_or_of_one_that_is_not_known_are_no_fault() -> None:
    other = MEMBER.model_copy(update={"version": "0.3.0", "protocol": 3})
    assert codes(status_of(protocol=3, members=(other, MEMBER))) == []
    assert codes(status_of(protocol=None, members=(other.model_copy(update={"protocol": 4}),))) == []


def test_no_loss_yet_is_ok() -> None:
    assert codes(status_of(training={"loss": None})) == []


def test_a_training_that_makes_no_steps_is_degraded() -> None:
    assert codes(status_of(training={"seconds_since_step": 61.0})) == ["stalled"]
    assert codes(status_of(training={"seconds_since_step": 60.0})) == []
    assert codes(status_of(training={"seconds_since_step": 61.0, "phase": "done"})) == []


def test_a_drained_peer_is_degraded() -> None:
    reasons = judge(status_of(drained=True)).reasons
    assert [reason.code for reason in reasons] == ["drained"]
    assert "/v1/resume" in reasons[0].text


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"signals": (SignalStatus(name="heat", health=0.0, text="97 °C"),)}, "heat: 97 °C"),
        ({"weight_override": 0.0}, "DELETE /v1/weight"),
    ],
)
def test_a_peer_that_counts_for_nothing_is_degraded_and_says_why(changes: dict[str, Any], word: str) -> None:
    reasons = judge(status_of(weight=0.0, **changes)).reasons
    assert [reason.code for reason in reasons] == ["weight_zero"]
    assert word in reasons[0].text


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0.01},
        {"weight": 0.0, "signals": (SignalStatus(name="newcomer", health=0.0),)},
        {"weight": 0.0, "training": {"phase": "waiting"}},
    ],
)
def test_a_peer_that_counts_or_is_about_to_is_ok(changes: dict[str, Any]) -> None:
    assert judge(status_of(**changes)).status == "ok"


def test_five_failures_in_a_row_are_degraded() -> None:
    assert codes(status_of(last_exchanges=exchanges_of(Outcome.COMPLETED, *FAILED))) == ["exchanges_failing"]


@pytest.mark.parametrize("last", [Outcome.COMPLETED, Outcome.DECLINED])
def test_an_answer_ends_a_row_of_failures_in_whatever_order_the_records_are(last: Outcome) -> None:
    records = exchanges_of(*FAILED, last)
    assert codes(status_of(last_exchanges=records)) == []
    assert codes(status_of(last_exchanges=records[::-1])) == []


@pytest.mark.parametrize(("load", "advice"), [(4.0, "CPU is overloaded: 4 threads want each core"), (1.0, "network")])
def test_a_busy_machine_is_not_sent_to_its_network(load: float, advice: str) -> None:
    late = exchanges_of(*[Outcome.TIMEOUT] * 5)
    (reason,) = judge(
        status_of(last_exchanges=late, signals=(SignalStatus(name="load", health=1.0, value=load),))
    ).reasons
    assert advice in reason.text
    assert ("network" in reason.text) == (load < 2.0)


def test_four_failures_are_too_few_to_tell() -> None:
    assert codes(status_of(last_exchanges=exchanges_of(*FAILED[:4]))) == []


def test_a_network_that_dies_again_and_again_is_degraded() -> None:
    assert codes(status_of(network={"restarts": 2})) == []
    assert codes(status_of(network={"restarts": 3})) == ["network_restarted"]


def test_a_network_that_ended_is_degraded_and_says_why() -> None:
    failed = status_of(network={"failure": "NetworkError: it keeps dying"})
    assert codes(failed) == ["network_failed"]
    assert "it keeps dying" in judge(failed).reasons[0].text


def test_every_reason_is_given() -> None:
    status = status_of(
        training={"loss": math.nan, "seconds_since_step": 100.0},
        network={"attached": False, "bootstrap": (UNREACHED,), "restarts": 9},
        members=(),
        last_exchanges=exchanges_of(*FAILED),
    )
    assert codes(status) == [
        "bootstrap_unreachable",
        "no_members",
        "loss_not_finite",
        "stalled",
        "exchanges_failing",
        "network_restarted",
    ]
    assert all(len(reason.text.split()) > 5 for reason in judge(status).reasons)


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        ("starting", "not_training"),
        ("waiting", "not_training"),
        ("training", None),
        ("holding", None),
        ("finishing", None),
        ("done", "not_training"),
    ],
)
def test_a_peer_is_ready_while_it_trains(phase: str, code: str | None) -> None:
    reason = why_not_ready(status_of(training={"phase": phase}))
    assert (reason and reason.code) == code


def test_a_peer_without_addresses_is_not_ready() -> None:
    reason = why_not_ready(status_of(network={"addresses": ()}))
    assert reason is not None
    assert reason.code == "no_addresses"


def test_a_verdict_refuses_change_and_unknown_fields() -> None:
    verdict = judge(status_of())
    with pytest.raises(ValidationError, match="frozen"):
        verdict.status = "degraded"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        type(verdict)(status="ok", colour="green")  # type: ignore[call-arg]
