"""What a peer keeps over a restart."""

from __future__ import annotations

import math
import random

from helpers.swarm import build_parts
from helpers.topologies import gossip

from p2p_elastic.peers.exchange.rule_states import RuleStates
from p2p_elastic.peers.lifecycle.persistence import recall, remembered
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.trial import Trial

GOSGD, GOSSIP = gossip("gosgd"), gossip("elastic-gossip")
EQUAL = Facts(step=1, loss=1.0, weight=1.0)


def after(memory: PeerMemory, policy: Policy, coin: random.Random | None = None) -> LocalContext:
    """A new peer that went on from there."""
    parts = build_parts(policy)
    recall(memory, parts, coin=coin or random.Random(9), loss=0.5, value=None)
    return parts


def test_step_loss_coin_and_place_in_the_run_go_on() -> None:
    before, coin, again = build_parts(GOSSIP, newcomer=True), random.Random(1), random.Random(2)
    for loss in (2.3, 0.5):
        before.own.report_loss(loss)
        before.own.stepped()
    memory = remembered(before, 7, coin)
    restored = after(memory, GOSSIP, again)
    assert restored.own.progress == before.own.progress
    assert restored.own.newcomer
    assert memory.sequence == 7
    assert [coin.random() for _ in range(5)] == [again.random() for _ in range(5)]


def test_what_a_rule_remembers_goes_on_and_is_written_as_json() -> None:
    before = build_parts(GOSGD)
    asked = EQUAL._replace(asked=True, share=before.share)
    before.run.rules.update(0.0, asked, EQUAL, partner="b", part=None, of_all=False)
    written = remembered(before, 1, random.Random(0)).model_dump_json()
    restored = after(PeerMemory.model_validate_json(written), GOSGD)
    assert restored.run.rules.states == before.run.rules.states
    assert restored.run.rules.states != build_parts(GOSGD).run.rules.states


def test_what_another_rule_remembered_is_no_use() -> None:
    memory = remembered(build_parts(GOSGD), 1, random.Random(0))
    assert after(memory, GOSSIP).run.rules.states == build_parts(GOSSIP).run.rules.states


def test_numbers_that_are_not_finite_are_left_out() -> None:
    before = build_parts(GOSSIP)
    before.run.rules.recall(RuleStates((1.0, math.nan), {"b": math.inf, "c": (1.0, (2, None))}, None))
    memory = remembered(before, 1, random.Random(0))
    assert (memory.rule, memory.partners) == (None, {"c": [1.0, [2, None]]})


def test_distances_to_partners_go_on() -> None:
    dynamic = GOSSIP._replace(weighting="dynamic")
    before = build_parts(dynamic)
    for distance in (1.0, 2.0):
        before.judge.verdict("b", EQUAL, distance, Trial(1.0, 1.0, 1e-6))
    restored = after(remembered(before, 1, random.Random(0)), dynamic)
    assert restored.judge.memory() == before.judge.memory()
    assert before.judge.memory().distances["b"]
