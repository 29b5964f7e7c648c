"""Every way to train together: a rule, with whom, which way parameters travel, and the defaults of each paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules.base import ExchangeRule, check_rate
from p2p_elastic.rules.outer import Outer, find_outer
from p2p_elastic.rules.pairwise import elastic, follow, receive, stay, sum_weight

BETA, BETA_PEERS = 0.9, 4  # EASGD: the moving rate of p peers is beta / p; a live run takes that of BETA_PEERS


class Topology(str, Enum):
    """With whom a peer exchanges."""

    PAIRS = "pairs"  # a random live member
    CENTRE = "centre"  # the centre variable, each peer when it is due
    CENTRE_TOGETHER = "centre-together"  # all at once with the same centre (synchronous)
    LEADER = "leader"  # the best of the group, and of all groups
    EVERYBODY = "everybody"  # all at once take the mean of all (an all-reduce of parameters)
    ACCUMULATED = "accumulated"  # the centre gets what was learnt since the last time (DOWNPOUR)
    GRADIENTS = "gradients"  # all average their gradients before each step
    NOBODY = "nobody"

    @property
    def among_members(self) -> bool:
        """Whether two members exchange the models that they train, as in every topology that is not named here."""
        return self not in (
            *(Topology.CENTRE, Topology.CENTRE_TOGETHER, Topology.LEADER),
            *(Topology.EVERYBODY, Topology.ACCUMULATED, Topology.GRADIENTS, Topology.NOBODY),
        )


class Flow(str, Enum):
    """Which way parameters travel, seen from the end that asks."""

    BOTH = "both"
    PULL = "pull"
    PUSH = "push"


class Method(NamedTuple):
    """A named way to train together: the rule of both ends, with whom, which way, and the paper's defaults.

    Attributes:
        summary: one line for people, with the source.
        topology: with whom a peer exchanges.
        rule: from the moving rate (alpha, or lambda for a leader) to the rule.
        moving_rate: the default of a live run; without meaning for rules that have none.
        flow: which way parameters travel.
        symmetric: whether the two moves are negatives of each other, so that the sum is conserved.
        after_step: whether the exchange uses the parameters after the optimizer step and moves them at once; otherwise
            gradient and move are both taken at the old parameters and added (EASGD eq. 3, Elastic Gossip; LSGD
            Algorithm 1).
        momentum: of the optimizer, by the paper; None is the task's.
        live: false for the baselines that only the simulator runs.
        shares: whether it weighs peers by shares of its own (GoSGD).
        outer: the outer optimizer that the method has unless an option says otherwise (`outer.py`).
    """

    summary: str
    topology: Topology
    rule: Callable[[float], ExchangeRule]
    moving_rate: float
    flow: Flow = Flow.BOTH
    symmetric: bool = True
    after_step: bool = False
    momentum: float | None = None
    live: bool = True
    shares: bool = False
    outer: Outer | None = None

    @property
    def pulls_centre(self) -> bool:
        """Whether all pull one centre: its moving rate is beta / p, or many together would throw it too far."""
        return self.topology in (Topology.CENTRE, Topology.CENTRE_TOGETHER)

    def moving_rate_among(self, peers: int) -> float:
        """The paper's moving rate if the number of peers is known (arXiv 1412.6651: beta = p alpha).

        Args:
            peers: p, 1 or more.

        Returns:
            beta / p for a method that pulls a centre; otherwise the default.

        Example:
            >>> RULES["easgd"].moving_rate_among(3), RULES["elastic-gossip"].moving_rate_among(3)
            (0.3, 0.5)
        """
        return BETA / peers if self.pulls_centre else self.moving_rate

    @property
    def rate(self) -> str:
        """The default moving rate, for people."""
        if self.pulls_centre:
            of_live = f" (live, if p is not known: {self.moving_rate:g}, that of {BETA_PEERS})"
            return f"moving rate {BETA:g} / p for p workers" + of_live * self.live
        return "no moving rate" if self.shares or not self.moving_rate else f"moving rate {self.moving_rate:g}"

    @property
    def has_outer(self) -> bool:
        """Whether peers can have an outer optimizer: a peer that asks moves, and by parameters that it takes over."""
        return self.flow is not Flow.PUSH and self.topology not in (Topology.ACCUMULATED, Topology.GRADIENTS)

    def outer_optimizer(self, name: str | None, learning_rate: float | None, momentum: float | None) -> Outer | None:
        """Find the outer optimizer of a run.

        Args:
            name: a key of `OUTER`; None: the method's.
            learning_rate, momentum: of it; None: its own.

        Returns:
            The optimizer; None if there is none.

        Raises:
            ConfigError: as `find_outer`, or if the method has none.
        """
        outer = find_outer(name, learning_rate, momentum, default=self.outer)
        if outer is not None and not self.has_outer:
            raise ConfigError("outer", name, "none: by this rule a peer that asks does not move, or not by parameters")
        return outer

    @property
    def fragments(self) -> bool:
        """Whether an exchange may move a part of the vector.

        Not if sum weights are of whole models (GoSGD), nor if a leader is followed whole.
        """
        return (self.topology.among_members or self.topology is Topology.CENTRE) and not self.shares


def _fixed(rule: Callable[[], ExchangeRule]) -> Callable[[float], ExchangeRule]:
    """A rule that has no moving rate."""
    return lambda _moving_rate: rule()


def _restarting(summary: str, moving_rate: float) -> Method:
    return Method(summary, Topology.ACCUMULATED, _fixed(stay), moving_rate, symmetric=False, momentum=0.0, live=False)


RULES: Mapping[str, Method] = {
    "elastic-gossip": Method(
        "two random peers pull each other (Pramod, arXiv 1812.02407)", Topology.PAIRS, elastic, moving_rate=0.5
    ),
    "gossip-pull": Method(
        "a peer averages itself with a random one (Gossiping SGD, arXiv 1611.04581)",
        Topology.PAIRS,
        follow,
        moving_rate=0.5,
        flow=Flow.PULL,
        symmetric=False,
    ),
    "gossip-push": Method(
        "a peer sends itself to a random one, which averages (Gossiping SGD, arXiv 1611.04581)",
        Topology.PAIRS,
        receive,
        moving_rate=0.5,
        flow=Flow.PUSH,
        symmetric=False,
    ),
    "gosgd": Method(
        "push gossip with sum weights (GoSGD, arXiv 1611.09726)",
        Topology.PAIRS,
        _fixed(sum_weight),
        moving_rate=0.5,
        flow=Flow.PUSH,
        symmetric=False,
        shares=True,
    ),
    "easgd": Method(
        "peers and a centre pull each other, each peer when it is due; no momentum (arXiv 1412.6651, Algorithm 1)",
        Topology.CENTRE,
        elastic,
        moving_rate=BETA / BETA_PEERS,
        momentum=0.0,
    ),
    "eamsgd": Method(
        "EASGD with Nesterov momentum on the peers (arXiv 1412.6651, Algorithm 2)",
        Topology.CENTRE,
        elastic,
        moving_rate=BETA / BETA_PEERS,
    ),
    "easgd-sync": Method(
        "EASGD where all meet the same centre at once (arXiv 1412.6651, eq. 3-6)",
        Topology.CENTRE_TOGETHER,
        elastic,
        moving_rate=BETA / BETA_PEERS,
        momentum=0.0,
        live=False,
    ),
    "lsgd": Method(
        "peers follow the best of their group, and of all groups (Leader SGD, arXiv 1905.10395)",
        Topology.LEADER,
        follow,
        moving_rate=0.1,
        flow=Flow.PULL,
        symmetric=False,
        after_step=True,
    ),
    "downpour": _restarting(
        "peers push what they learnt to a centre and restart from it (arXiv 1412.6651, Algorithm 3)",
        0.0,
    ),
    "mvadownpour": _restarting(
        "DOWNPOUR, evaluated at a moving average of the centre (arXiv 1412.6651, section 4)", 0.001
    ),
    "all-reduce": Method(
        "gradients are averaged over all before each step", Topology.GRADIENTS, _fixed(stay), 0.0, live=False
    ),
    "diloco": Method(
        "all take the mean of all, then an outer step (DiLoCo, arXiv 2311.08105; with outer none: local SGD)",
        Topology.EVERYBODY,
        _fixed(stay),
        moving_rate=0.0,
        after_step=True,
        live=False,
        outer=Outer(learning_rate=0.7, momentum=0.9),
    ),
    "none": Method("everybody trains alone", Topology.NOBODY, _fixed(stay), moving_rate=0.0),
}
"""Every way to train together that a run can name."""


def find_method(name: str) -> Method:
    """Find the method of a name.

    Args:
        name: a key of `RULES`, such as "elastic-gossip".

    Returns:
        The method with its defaults.

    Raises:
        ConfigError: if there is none; it names those there are.
    """
    if name not in RULES:
        raise ConfigError("rule", name, f"allowed: {', '.join(RULES)}")
    return RULES[name]


def find_rule(name: str, moving_rate: float) -> ExchangeRule:
    """Build the exchange rule of the method of a name.

    Args:
        name: a key of `RULES`.
        moving_rate: 0 to 1; rules that have none ignore it.

    Returns:
        The rule.

    Raises:
        ConfigError: if there is no such method, or the rate is out of its range.
    """
    check_rate("moving-rate", moving_rate, copies=True)
    return find_method(name).rule(moving_rate)
