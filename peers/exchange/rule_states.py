"""The run's rules together with what they remember of earlier exchanges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.trust import PARTNERS_MAX, history_of
from p2p_elastic.parameters.vector import Part
from p2p_elastic.protocol.messages import SHARE_MAX
from p2p_elastic.rules.base import ExchangeRule, Facts, State
from p2p_elastic.rules.policy import Policy


class RuleStates(NamedTuple):
    """What the rules remember, to be kept over a restart.

    Attributes:
        own: of all exchanges.
        partners: of each partner, or each part of it, by key.
        of_all: of exchanges with the best of all groups; None without such a rule.
    """

    own: Any
    partners: Mapping[str, Any]
    of_all: Any


def share_of(
    rule: ExchangeRule,
    states: dict[str, State],
    key: str,
    vector: Tensor,
    distance: float,
    *,
    mine: Facts,
    theirs: Facts,
) -> float:
    """Work out the share by the state of one key; states that were not used for long are forgotten.

    Args:
        rule: the rule.
        states: key -> state; changed here.
        key: a partner, or one part of it.
        vector: with which a new state begins, `[D]`.
        distance: L2 norm of the difference to the partner.
        mine: what this peer says of itself.
        theirs: what the partner says of itself.

    Returns:
        The share of the difference that this peer moves.
    """
    before = states.pop(key) if key in states else rule.init(vector)
    share, states[key] = rule.update(distance, before, mine=mine, theirs=theirs)
    forget_oldest(states, PARTNERS_MAX)
    return share


class RulesAtWork:
    """Applies the rules of a policy, one exchange after the other.

    Args:
        policy: how the run's peers train together.
        vector: one like those exchanged, `[D]`.
    """

    def __init__(self, policy: Policy, vector: Tensor) -> None:
        self._policy, self._vector = policy, vector
        self._own = policy.rule.init(vector)
        self._partners: dict[str, Any] = {}
        self._of_all = policy.global_rule.init(vector) if policy.global_rule else None

    @property
    def states(self) -> RuleStates:
        """What the rules remember, to be kept over a restart."""
        return RuleStates(self._own, dict(self._partners), self._of_all)

    def recall(self, states: RuleStates) -> None:
        """Go on from what was remembered.

        Args:
            states: as an earlier life of this peer kept them.
        """
        self._own, self._partners, self._of_all = states.own, dict(states.partners), states.of_all

    def share(self, *, last: bool) -> float:
        """Work out what this peer gives away of its sum weight when it asks (GoSGD).

        Args:
            last: whether it leaves: then it gives all.

        Returns:
            0 to SHARE_MAX.
        """
        rule = self._policy.rule
        return min((rule.share_of_leaver if last else rule.share)(self._own), SHARE_MAX)

    def update(
        self, distance: float, mine: Facts, theirs: Facts, *, partner: str, part: Part | None, of_all: bool
    ) -> float:
        """Work out how far this peer moves in one exchange, and remember it.

        Args:
            distance: L2 norm of the difference to the partner.
            mine: what this peer says of itself.
            theirs: what the partner says of itself.
            partner: its peer id.
            part: of the vector, that was exchanged; None: all of it.
            of_all: whether the partner is the best of all groups, which may have a rule of its own.

        Returns:
            The share of the difference that this peer moves.
        """
        rule = (self._policy.global_rule if of_all else None) or self._policy.rule
        if rule.per_partner:
            who = self._policy.one_partner or f"{partner} {of_all}"
            key = history_of(who, part)
            return share_of(rule, self._partners, key, self._vector, distance, mine=mine, theirs=theirs)
        if of_all and self._policy.global_rule is not None:
            share, self._of_all = rule.update(distance, self._of_all, mine=mine, theirs=theirs)
        else:
            share, self._own = rule.update(distance, self._own, mine=mine, theirs=theirs)
        return share
