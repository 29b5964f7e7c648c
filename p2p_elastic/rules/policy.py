"""What a run prescribes to each of its peers: the rule, with whom, which way, and when."""

from __future__ import annotations

from typing import Literal, NamedTuple

from p2p_elastic.rules.base import ExchangeRule
from p2p_elastic.rules.dynamic import dynamic
from p2p_elastic.rules.merging import merging
from p2p_elastic.rules.methods import Flow, Method, Topology
from p2p_elastic.rules.outer import Outer
from p2p_elastic.rules.schedule import Schedule

WeightingName = Literal["fixed", "dynamic"]
"""Whether all peers count the same, or by their health and what others measure of them."""

LEADER_PERIOD = 16  # a leader is followed at fixed steps
DEFAULT_PROBABILITY = 1 / 32  # as good as 1/8 on MNIST in the paper's table, a quarter of the bytes


def default_schedule(topology: Topology) -> Schedule:
    """When peers exchange unless an option says otherwise, live and in the simulator.

    Args:
        topology: with whom a peer exchanges.

    Returns:
        Every LEADER_PERIOD steps for a leader; otherwise with DEFAULT_PROBABILITY after each step.
    """
    return Schedule(period=LEADER_PERIOD) if topology is Topology.LEADER else Schedule(probability=DEFAULT_PROBABILITY)


def rule_of(method: Method, moving_rate: float, weighting: WeightingName) -> ExchangeRule:
    """Build the exchange rule of a method.

    Towards a centre or leader dynamic weighting is in the rule; between pairs it is in the facts that the rule gets.
    There the rule also merges what a partition had parted; GoSGD has shares of its own for that.

    Args:
        method: the way to train together.
        moving_rate: alpha or lambda.
        weighting: whether all count the same ("fixed") or by their health ("dynamic").

    Returns:
        The rule that both ends apply.

    Raises:
        ConfigError: if the moving rate is out of the rule's range.
    """
    rule = method.rule(moving_rate)
    if method.topology.among_members and not method.shares:
        return merging(rule)
    reference = method.topology in (Topology.CENTRE, Topology.CENTRE_TOGETHER, Topology.LEADER)
    return dynamic(rule) if weighting == "dynamic" and reference else rule


class Policy(NamedTuple):
    """A method with its numbers filled in.

    Attributes:
        rule: the exchange rule of both ends.
        schedule: when a peer asks for an exchange.
        topology: with whom.
        flow: which way parameters travel.
        global_rule: of the pull towards the best of all groups (multi-leader LSGD); None without groups.
        global_period: steps between two such pulls; None without groups.
        weighting: whether all count the same or by their health.
        outer: the outer optimizer of each peer; None without one.
    """

    rule: ExchangeRule
    schedule: Schedule
    topology: Topology = Topology.PAIRS
    flow: Flow = Flow.BOTH
    global_rule: ExchangeRule | None = None
    global_period: int | None = None
    weighting: WeightingName = "fixed"
    outer: Outer | None = None

    @property
    def sends(self) -> bool:
        """Whether the end that asks sends its parameters."""
        return self.flow is not Flow.PULL

    def moves_the_other(self, *, asked: bool) -> bool:
        """Whether an exchange brings this end's parameters to the other end.

        Args:
            asked: whether this end asked for the exchange, or answered.

        Returns:
            True if the other end moves; only members and a centre exchange in this way.
        """
        if not self.topology.among_members and self.topology is not Topology.CENTRE:
            return False
        return self.flow is Flow.BOTH or asked is (self.flow is Flow.PUSH)

    @property
    def one_partner(self) -> str | None:
        """What rules remember all partners as, where they are one: the centre is the same wherever it is."""
        return "centre" if self.topology is Topology.CENTRE else None

    @property
    def receives(self) -> bool:
        """Whether the end that asks receives parameters."""
        return self.flow is not Flow.PUSH
