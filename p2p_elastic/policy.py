"""What a run prescribes to each of its peers: the rule, with whom, which way, and when."""

from __future__ import annotations

from typing import NamedTuple

from p2p_elastic.rules import ExchangeRule, Flow, Topology
from p2p_elastic.schedule import Schedule


class Policy(NamedTuple):
    """A method with its numbers filled in.

    `global_rule` and `global_period` are those of the pull towards the best of all groups (multi-leader LSGD).
    """

    rule: ExchangeRule
    schedule: Schedule
    topology: Topology = Topology.PAIRS
    flow: Flow = Flow.BOTH
    global_rule: ExchangeRule | None = None
    global_period: int | None = None

    @property
    def sends(self) -> bool:
        """Whether the end that asks sends its parameters."""
        return self.flow is not Flow.PULL

    @property
    def receives(self) -> bool:
        """Whether the end that asks receives parameters."""
        return self.flow is not Flow.PUSH
