from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import pytest
from helpers import statuses

from p2p_elastic.health.checks import judge
from p2p_elastic.health.diagnose import DECLINES, NOT_TRAINING, Why, why
from p2p_elastic.protocol.messages import DeclineReason
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.schema import (
    BootstrapStatus,
    CentreStatus,
    ExchangeRecord,
    ExchangeTotals,
    LeaderStatus,
    LinkStatus,
    MemberStatus,
    PaceStatus,
    PartnerStatus,
    PeerStatus,
    Phase,
    SignalStatus,
)

MEMBER = MemberStatus(
    peer="B", addresses=("/ip4/10.0.0.2/tcp/4001",), state="alive", step=90, loss=1.0, age_seconds=1.0
)
UPDATED = MEMBER.model_copy(update={"version": "0.2.0", "protocol": 3})
SUSPECT = MEMBER.model_copy(update={"state": "suspect"})
DRAINED = MEMBER.model_copy(update={"drained": True})
REACHED = BootstrapStatus(address="/ip4/10.0.0.2/tcp/4001/p2p/B")
UNREACHED = BootstrapStatus(address="/ip4/10.0.0.3/tcp/4001/p2p/C", problem="refused: nothing listens there")
SKEWED = BootstrapStatus(address="/ip4/10.0.0.3/tcp/4001/p2p/C", problem="its clock is +100 s from ours: (NTP)")
SEATED = CentreStatus(holder="12D3A", here=True, term=1, exchanges=10)
VACANT = CentreStatus(holder=None, here=False, term=1, exchanges=10)
LEADERLESS = LeaderStatus(group="attic", leader=None, leader_of_all=None, snapshots_published=0, disbelieved={})


def record(
    outcome: Outcome = Outcome.COMPLETED, reason: str | None = None, *, age: float = 1.0, partner: str = "B"
) -> ExchangeRecord:
    numbers: dict[str, Any] = {"step": 1, "seconds": 0.1, "bytes_sent": 1, "bytes_received": 1}
    return ExchangeRecord(
        id=f"{outcome.value} {reason} {age}",
        partner=partner,
        initiated=True,
        outcome=outcome,
        reason=reason,
        age_seconds=age,
        **numbers,
    )


def totals(**changes: Any) -> ExchangeTotals:
    return ExchangeTotals(**{"by_outcome": {Outcome.COMPLETED: 1, Outcome.DECLINED: 100}, **changes})


def status_of(*, training: Any = None, network: Any = None, **changes: Any) -> PeerStatus:
    """A peer that trains, and whose last exchange came about long ago; it is the table that says why."""
    return statuses.status_of(
        training={"step": 90, "seconds_since_step": 0.1, **(training or {})},
        network={"attached": True, **(network or {})},
        **{"exchanges": totals(), "members": (MEMBER,), "uptime_seconds": 1000.0, **changes},
    )


def codes(answer: Why) -> list[str]:
    return [reason.code for reason in answer.reasons]


def text_of(code: str, status: PeerStatus) -> str:
    return next(reason.text for reason in why(status).reasons if reason.code == code)


def test_a_peer_that_trains_and_exchanges_progresses_and_nothing_is_in_the_way() -> None:
    assert why(status_of(last_exchanges=(record(),))) == Why(progressing=True, reasons=())


WELL = {"last_exchanges": (record(),)}
IN_THE_WAY: list[tuple[str, dict[str, Any], list[str]]] = [
    ("not_training", {"training": {"phase": "waiting"}, "members": ()}, ["--wait-for-peers", "0 are there"]),
    ("not_training", {"training": {"phase": "starting"}}, ["log"]),
    ("not_training", {"training": {"phase": "done"}, **WELL}, ["end"]),
    ("no_members", {"members": ()}, ["'digits'", "--initial-peer"]),
    ("no_members", {"members": (SUSPECT,)}, ["1 known"]),
    ("no_members", {"members": (), "network": {"bootstrap": (REACHED,)}, "uptime_seconds": 1.0}, ["alone"]),
    (
        "alone_bootstrap_unreachable",
        {"members": (), "network": {"attached": False, "bootstrap": (UNREACHED,)}},
        ["/p2p/C", "nothing listens", "firewall"],
    ),
    (
        "all_decline",
        {"last_exchanges": (*(record(Outcome.DECLINED, "other-run", age=a) for a in (1, 2)), record(age=900))},
        ["2 x other-run", "--run"],
    ),
    ("all_decline", {"last_exchanges": (record(Outcome.DECLINED, "drained"),)}, ["1 x drained", "/v1/resume"]),
    ("all_decline", {"last_exchanges": (record(Outcome.DECLINED, "new-words"),)}, ["1 x new-words"]),
    (
        "unreachable",
        {
            "last_exchanges": (
                *(record(Outcome.UNREACHABLE, "no route", partner=p, age=ord(p)) for p in "BCDE"),
                record(Outcome.TIMEOUT, age=70),
            )
        },
        ["4 of the last 5", "B, C, D and 1 more", "(no route)", "NAT"],
    ),
    ("timeouts", {"last_exchanges": (record(Outcome.TIMEOUT),)}, ["silent", "with B;"]),
    ("broken", {"last_exchanges": (record(Outcome.HALF),)}, ["same version", "logs"]),
    ("broken", {"partners": (PartnerStatus(peer="B", last=record(Outcome.BROKEN, "cut")),)}, ["cut"]),
    ("schema_differs", {"exchanges": totals(declined_by_us={"other-schema": 3})}, ["3 exchanges", "same version"]),
    (
        "schema_differs",
        {"last_exchanges": (record(Outcome.REFUSED, "the partner accepted with schema 1, offered was 2"),)},
        ["1 exchanges", "same version"],
    ),
    ("clock_skew", {"network": {"bootstrap": (REACHED, SKEWED)}}, ["/p2p/C", "+100 s", "NTP"]),
    ("clock_skew", {"network": {"records_ignored": 7}, "members": ()}, ["7 records", "ntp"]),
    ("drained", {"drained": True, **WELL}, ["/v1/resume"]),
    ("members_drained", {"members": (DRAINED, DRAINED)}, ["(2)", "/v1/resume"]),
    ("loss_not_finite", {"training": {"loss": math.nan}, **WELL}, ["learning rate"]),
    (
        "weight_zero",
        {"weight": 0.0, "signals": (SignalStatus(name="heat", health=0.0, text="97 °C"),)},
        ["copies", "heat: 97 °C"],
    ),
    ("weight_zero", {"weight": 0.0, "weight_override": 0.0}, ["operator", "DELETE /v1/weight"]),
    ("newcomer", {"weight": 0.0, "signals": (SignalStatus(name="newcomer", health=0.0),)}, ["copies a partner"]),
    (
        "partners_not_finite",
        {"partners": tuple(PartnerStatus(peer=p, left_out=("mask", "gate")) for p in "BC")},
        ["mask, gate at B; mask, gate at C", "all else does"],
    ),
    (
        "trusts_nobody",
        {"partners": tuple(PartnerStatus(peer=p, trust=0.0, reasons=("worse by 2 nats",)) for p in "BC")},
        ["B (worse by 2 nats)", "C ("],
    ),
    ("stalled", {"training": {"seconds_since_step": 100.0}, **WELL}, ["100 s", "hangs"]),
    ("centre_vacant", {"centre": VACANT, "uptime_seconds": 5.0}, ["takes it over"]),
    ("no_leader", {"leaders": LEADERLESS}, ["'attic'", "how well"]),
    (
        "no_leader",
        {"leaders": LEADERLESS.model_copy(update={"disbelieved": {"X": "claims too much"}})},
        ["X claims too much"],
    ),
    ("network_failed", {"network": {"failure": "it keeps dying"}, **WELL}, ["it keeps dying", "start it again"]),
    (
        "unclear",
        {"exchanges": totals(skipped={"leader not believed": 4}), "last_exchanges": (record(age=999),)},
        ["4 x leader not believed", "--verbose"],
    ),
]


@pytest.mark.parametrize(("code", "changes", "words"), IN_THE_WAY)
def test_what_is_in_the_way_has_a_code_and_says_what_to_do(
    code: str, changes: dict[str, Any], words: list[str]
) -> None:
    status = status_of(**changes)
    answer = why(status)
    assert code in codes(answer)
    assert not answer.progressing
    assert len(set(codes(answer))) == len(answer.reasons)
    text = text_of(code, status)
    assert all(word in text for word in words), text


HINTS: list[tuple[dict[str, Any], list[str]]] = [
    ({**WELL, "not_finite": ("mask",)}, ["tensors_not_finite"]),
    ({"exchanges": ExchangeTotals()}, ["not_due_yet"]),
    ({"exchanges": ExchangeTotals(), "members": ()}, ["no_members", "not_due_yet"]),
    ({**WELL, "weight": 0.0}, ["weight_zero"]),
    ({**WELL, "exchanges": totals(declined_by_us={"other-schema": 1})}, ["schema_differs"]),
    ({**WELL, "protocol": 3, "members": (UPDATED,)}, ["versions_differ"]),
    ({**WELL, "protocol": 3, "members": (MEMBER, MEMBER)}, ["versions_differ"]),
    ({**WELL, "protocol": 2, "members": (UPDATED,)}, ["protocol_differs"]),
    ({**WELL, "members": (DRAINED,)}, ["members_drained"]),
    ({**WELL, "members": (DRAINED, MEMBER)}, []),
    ({**WELL, "network": {"records_ignored": 7}}, []),
    ({**WELL, "members": ()}, []),
    (
        {"last_exchanges": tuple(record(Outcome.TIMEOUT, age=a) for a in range(5)), "centre": SEATED},
        ["exchanges_failing"],
    ),
    ({"training": {"phase": "holding"}, "centre": SEATED}, []),
    ({"leaders": LEADERLESS.model_copy(update={"leader": "12D3A"})}, []),
    ({"last_exchanges": (record(Outcome.DECLINED, "unchanged"),)}, []),
    ({"last_exchanges": (record(Outcome.DECLINED, "busy"), record(age=50.0))}, []),
    ({"partners": (PartnerStatus(peer="B", last=record()),)}, []),
    # Due every 250 s: the last exchange was 700 s ago, and that is no wonder.
    ({"exchanges": ExchangeTotals(by_outcome={Outcome.COMPLETED: 4}), "last_exchanges": (record(age=700.0),)}, []),
]


@pytest.mark.parametrize(("changes", "expected"), HINTS)
def test_a_peer_that_progresses_may_have_hints(changes: dict[str, Any], expected: list[str]) -> None:
    answer = why(status_of(**changes))
    assert (answer.progressing, codes(answer)) == (True, expected)


def test_what_health_says_too_is_said_in_the_same_words() -> None:
    status = status_of(training={"loss": math.inf, "seconds_since_step": 99.0}, network={"restarts": 5})
    assert {reason.code for reason in judge(status).reasons} == {"loss_not_finite", "stalled", "network_restarted"}
    assert set(judge(status).reasons) <= set(why(status).reasons)


WAITING = PaceStatus(
    max_bytes_per_second=5e5,
    bytes_per_second=4.8e5,
    wait_seconds=12.3,
    exchange_seconds=44.0,
    period=32.0,
    effective_period=440.0,
)


def test_who_waits_for_its_budget_says_so_with_the_numbers() -> None:
    said = text_of("paced", status_of(pace=WAITING))
    for words in ("bandwidth budget", "480.0 kB/s of 500.0 kB/s", "in 12 s", "440 steps instead of 32"):
        assert words in said
    both = WAITING.model_copy(update={"max_share": 0.1, "share": 0.05, "effective_period": None})
    assert "bandwidth and time budget" in text_of("paced", status_of(pace=both))
    assert "5.0% of 10.0% of the time" in text_of("paced", status_of(pace=both))
    assert "paced" not in codes(why(status_of(pace=WAITING.model_copy(update={"wait_seconds": 0.0}))))


def test_a_centre_that_has_no_time_for_all_is_named_with_what_helps() -> None:
    centre = CentreStatus(holder="B", here=False, term=1, exchanges=10)

    def busy(times: int, completed: int, **changes: Any) -> PeerStatus:
        outcomes = {Outcome.COMPLETED: completed, Outcome.DECLINED: times}
        totals = ExchangeTotals(by_outcome=outcomes, declined_by_partner={"busy": times})
        return status_of(**{"centre": centre, "exchanges": totals, **changes})

    said = text_of("centre_busy", busy(60, 40))
    assert all(part in said for part in ("60 of 100", "--period", "elastic-gossip"))
    for fine in (busy(40, 60), busy(5, 0), busy(60, 40, centre=None)):
        assert "centre_busy" not in codes(why(fine))


def test_a_link_that_is_the_limit_is_named_whether_exchanges_fail_or_not() -> None:
    link = LinkStatus(
        bytes_per_second=2.2e5,
        rtt_seconds=0.02,
        codec="int8",
        fragments=16,
        exchange_seconds=1.7,
        whole_seconds=106.0,
        limits=True,
    )
    said = text_of("thin_link", status_of(link=link))
    assert all(part in said for part in ("220 kB/s", "1/16 of the parameters", "int8", "1.7 s", "--period"))
    assert why(status_of(link=link, last_exchanges=(record(),))).progressing
    assert "thin_link" not in codes(why(status_of(link=link.model_copy(update={"limits": False}))))
    late = record(Outcome.TIMEOUT, reason="nothing came")
    assert "the link is the limit" in text_of("timeouts", status_of(link=link, last_exchanges=(late,)))


def test_who_cannot_be_dialled_and_has_no_relay_says_so() -> None:
    assert "--relay RATE" in text_of("not_dialled", status_of(network={"reachable": False}))
    for network in ({"reachable": None}, {"reachable": True}, {"reachable": False, "relays": ("R",)}):
        assert "not_dialled" not in codes(why(status_of(network=network)))


def test_who_exchanges_as_often_as_its_budget_allows_progresses() -> None:
    seldom = {"last_exchanges": (record(age=100.0),), "exchanges": totals(skipped={"paced": 10_000})}
    assert not why(status_of(**seldom)).progressing
    assert why(status_of(**seldom, pace=WAITING)).progressing


def test_every_reason_to_decline_is_explained() -> None:
    assert {reason.value for reason in DeclineReason} <= set(DECLINES)


def test_whoever_does_not_progress_hears_why() -> None:
    phases = get_args(Phase)
    assert set(NOT_TRAINING) < set(phases)
    choices = itertools.product(
        phases,
        ((), (MEMBER,), (SUSPECT,)),
        ((), (record(),), (record(age=999.0),), (record(Outcome.DECLINED, "busy"),)),
        ({}, {"no partner": 9}),
        (None, SEATED, VACANT),
    )
    for phase, members, records, skipped, centre in choices:
        status = status_of(
            training={"phase": phase},
            members=members,
            last_exchanges=records,
            exchanges=ExchangeTotals(skipped=skipped),
            centre=centre,
        )
        answer = why(status)
        assert answer.progressing or answer.reasons
        assert all(len(reason.text.split()) > 5 for reason in answer.reasons)
