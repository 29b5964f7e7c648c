"""The parts of one peer, put together and one by one."""

from __future__ import annotations

from helpers.peer_parts import DYNAMIC, ID
from helpers.swarm import build_parts
from helpers.topologies import gossip

from p2p_elastic.peers.state.context import enter
from p2p_elastic.peers.state.partner_judge import PartnerJudge
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.virtual_time import run_virtual

FACTS = Facts(step=10, loss=1.0, weight=0.7)


def test_a_judge_measures_for_itself_and_says_so_in_its_own_log() -> None:
    parts, events = build_parts(DYNAMIC), EventLog(lambda: 0.0)
    judge = PartnerJudge(parts.run, parts.own, events)
    for theirs in (1.0, 9.0):
        judge.verdict("b", FACTS, 1.0, Trial(theirs, 1.0, 1e-6))
    assert judge.trust == {"b": 0.0}
    assert [event.kind for event in events.since(0)] == ["trust"]
    assert not parts.judge.trust
    assert not parts.events.since(0)


def test_an_exchange_that_ended_is_counted_told_and_charged() -> None:
    parts = build_parts(DYNAMIC)

    async def main() -> None:
        for outcome in (Outcome.COMPLETED, Outcome.TIMEOUT):
            result = Result(outcome, theirs=FACTS)
            enter(parts, ID, "b", result, initiated=True, started=0.0, traffic=(3, 4), distance=1.5)

    run_virtual(main())
    totals = parts.journal.totals(0.0)
    assert totals.by_outcome == {Outcome.COMPLETED: 1, Outcome.TIMEOUT: 1}
    assert (totals.bytes_sent, totals.bytes_received) == (6, 8)
    told = [event.data for event in parts.events.since(0) if event.kind == "exchange"]
    assert told[0] == {"partner": "b", "outcome": "completed", "distance": 1.5}


def test_a_leaver_gives_away_all_of_its_sum_weight() -> None:
    parts = build_parts(gossip("gosgd"))
    while_staying = parts.share
    parts.departure.leave()
    parts.departure.hand_over()
    assert parts.share == 2 * while_staying
