"""What the rules of a live peer remember of earlier exchanges."""

from __future__ import annotations

import pytest
import torch

from p2p_elastic.peers.exchange.rule_states import RulesAtWork
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.policy import Policy, rule_of
from p2p_elastic.rules.schedule import Schedule


def test_fragments_that_differ_much_in_size_are_no_lag_wherever_the_centre_is() -> None:
    method = find_method("easgd")
    rule = rule_of(method, 0.2, "dynamic")
    rules = RulesAtWork(Policy(rule, Schedule(period=1), method.topology), torch.zeros(4))
    mine, theirs = Facts(1, None, 1.0, asked=True), Facts(1, None, 1.0, centre=True)
    for turn in range(40):
        part = turn % 4
        share = rules.update(
            (1.0, 0.01, 0.01, 100.0)[part],
            mine,
            theirs,
            partner=f"peer {turn % 3}",
            part=(part, part + 1),
            of_all=False,
        )
        assert share == pytest.approx(0.2)
