"""A round of Leader SGD (arXiv 1905.10395): workers follow the best of their group, and at times the best of all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from p2p_elastic.health.trust import trusting
from p2p_elastic.rules.base import ExchangeRule, Facts, State
from p2p_elastic.simulator.judging import Judging, Pair
from p2p_elastic.simulator.rounds import Nobody, Received, reached
from p2p_elastic.simulator.sending import Wire


class Leader(Nobody):
    """Leader SGD: due workers follow the best of their group, and every `global_period` steps the best of all.

    The best has the smallest loss; a worker with none that is finite never leads. The pull to the best of all groups
    takes its parameters after the pulls within groups, and the same losses. Groups are neighbours. Without
    `global_rule` there is only the pull within groups. Each follower's copy is sent once, by the leader or a relay.

    Args:
        rule: of the pull within groups.
        flat: [W, D], with which workers begin.
        groups: their number.
        global_rule: of the pull to the best of all groups; None: no such pull.
        global_period: steps between two such pulls.
        judging: dynamic weighting; None: all count the same.
        wire: how vectors travel; None: as they are.

    Attributes:
        groups: the rows of each group.
        states: of the pull within groups, by follower and leader.
        global_states: of the pull to the best of all.
    """

    def __init__(
        self,
        rule: ExchangeRule,
        flat: Tensor,
        *,
        groups: int = 1,
        global_rule: ExchangeRule | None = None,
        global_period: int = 1,
        judging: Judging | None = None,
        wire: Wire | None = None,
    ) -> None:
        super().__init__(judging, wire)
        self._rule, self._global_rule, self._global_period = rule, global_rule, global_period
        bounds = [len(flat) * group // groups for group in range(groups + 1)]
        self.groups = [range(start, stop) for start, stop in itertools.pairwise(bounds)]
        self.states: dict[Pair, State] = {}
        self.global_states: dict[Pair, State] = {}

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        """Let due workers follow their leaders.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.
            losses: [W], recent means, for choosing leaders.
        """
        if not due:
            return
        for group in self.groups:
            self._follow(flat, group, (due, connected), step, losses, (self._rule, self.states))
        if self._global_rule is not None and step % self._global_period == 0:
            everybody = range(len(flat))
            self._follow(flat, everybody, (due, connected), step, losses, (self._global_rule, self.global_states))

    def _follow(
        self,
        flat: Tensor,
        group: range,
        present: tuple[Sequence[int], Sequence[int]],
        step: int,
        losses: Sequence[float],
        rule_and_states: tuple[ExchangeRule, dict[Pair, State]],
    ) -> None:
        due, connected = present
        rule, states = rule_and_states
        candidates = [
            row for row in connected if row in group and math.isfinite(losses[row]) and self._weight(row) > 0.0
        ]
        if not candidates:
            return
        leader = min(candidates, key=lambda row: losses[row])
        followers = [row for row in reached(due, connected) if row in group and row != leader]
        theirs = Facts(step, losses[leader], self._weight(leader))
        whole = slice(0, flat.shape[1])
        sent = self._wire.sent(leader, flat[leader], whole)
        verdicts = self._judge(flat, [Received(row, leader, whole, sent) for row in followers], limited=False)
        for row in followers:
            pair = row, leader
            mine = Facts(step, losses[row], self._weight(row), asked=True)
            state = states[pair] if pair in states else rule.init(flat[row])
            move, states[pair] = rule.move(
                sent - flat[row], state, mine=mine, theirs=trusting(theirs, verdicts.get(pair))
            )
            flat[row].add_(move)
            self._count(whole, workers=1)
        self.leaders[leader] += bool(followers)
