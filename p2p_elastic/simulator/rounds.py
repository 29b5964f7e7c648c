"""One communication round of each topology: the exchange rules, applied to rows of one tensor.

A round says what each worker moves, or moves it at once:

    round_ = build_round(config, flat)          # or one of the classes below, with rules of your own
    moves = round_.moves(flat, due, connected, step)    # {row: move [D]}, all of it at the old flat [W, D]
    ...                                         # gradient at the old parameters and optimizer step
    flat[row] += moves[row]                     # for each of them
    round_.settle_(flat, due, connected, step, losses)  # after the step: what changes flat in place

Pairs, Centre and CentreTogether make moves and settle nothing; Leader and Accumulated make no moves and settle;
Nobody (also for all-reduce, whose exchange is of gradients) does neither. `due` are the workers that ask, `connected`
those that can be reached; a worker in `due` that is not in `connected` has no exchange. `traffic` counts.

Where papers say it: Elastic Gossip arXiv 1812.02407; Gossiping SGD 1611.04581; GoSGD 1611.09726; EASGD and DOWNPOUR
1412.6651 (Algorithms 1 to 3, eq. 3-6); Leader SGD 1905.10395.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from p2p_elastic.rules import RULES, ExchangeRule, Facts, Flow, State, Topology, find_rule
from p2p_elastic.simulator.config import SimulationConfig

Moves = dict[int, Tensor]
Ask = tuple[int, int]  # who asks, who is asked

LSGD_GLOBAL_PERIODS = 4  # local pulls to one global pull, unless told otherwise


@dataclass
class Traffic:
    """What was sent so far. A vector is D float32."""

    exchanges: int = 0
    worker_bytes: int = 0
    centre_bytes: int = 0


class Round(Protocol):
    """See the module's text. `leaders` counts how often each worker led others."""

    traffic: Traffic
    leaders: Counter[int]

    @property
    def centre(self) -> Tensor | None:
        """The centre variable [D], where there is one."""

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        """What this round adds to the rows, computed at `flat` [W, D], which it leaves as it is."""

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        """What is done in place after the optimizer step; `losses` [W] are recent means, for choosing leaders."""

    def forget(self, row: int, flat: Tensor) -> None:
        """A fault has changed this row: what it is now was not learnt."""


class Nobody:
    """No communication between rows. The other rounds are built on it."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.centre: Tensor | None = None
        self.leaders: Counter[int] = Counter()

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        return {}

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        return None

    def forget(self, row: int, flat: Tensor) -> None:
        return None

    def _count(self, vector: Tensor, *, workers: int = 0, centre: int = 0) -> None:
        """One exchange in which workers and centre sent so many vectors."""
        size = vector.numel() * vector.element_size()
        self.traffic.exchanges += 1
        self.traffic.worker_bytes += workers * size
        self.traffic.centre_bytes += centre * size


class Pairs(Nobody):
    """Gossip: each due worker asks `partners` different others at random. All vectors are those before the round.

    Flow.BOTH: moves of one worker add up, and where two ask each other it is one exchange (K_i is a set).
    Flow.PULL: as well, but only the asking end moves; its partners are those that it asked.
    Flow.PUSH: a queue, as in GoSGD: everybody sends before anybody receives, and a receiver merges one message after
    the other into what it has by then.

    States of the rule are per worker, `states[i]`.
    """

    def __init__(
        self, rule: ExchangeRule, flat: Tensor, *, flow: Flow = Flow.BOTH, partners: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        self._rule, self._flow, self._partners = rule, flow, partners
        self._rng = random.Random(seed)
        self.states: list[State] = [rule.init(row) for row in flat]

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        return self.exchange(flat, self.draw(due, connected), step)

    def draw(self, due: Sequence[int], connected: Sequence[int]) -> list[Ask]:
        """Who asks whom in this round, in the order of `due`."""
        asks = []
        for asker in due:
            others = [worker for worker in connected if worker != asker]
            if len(others) < len(connected):
                asks += [(asker, k) for k in self._rng.sample(others, min(self._partners, len(others)))]
        return asks

    def exchange(self, flat: Tensor, asks: Iterable[Ask], step: int = 0) -> Moves:
        """The moves of these exchanges."""
        asks = list(asks)
        if self._flow is Flow.PUSH:
            return self._push(flat, asks, step)
        if self._flow is Flow.BOTH:
            asks = _each_pair_once(asks)
        moving = asks if self._flow is Flow.BOTH else [(asker,) for asker, _ in asks]
        partners = Counter(itertools.chain.from_iterable(moving))
        moves: Moves = {}
        for asker, asked in asks:
            facts = [Facts(step, None, 1.0, i == asker, max(1, partners[i]), self._share(i)) for i in (asker, asked)]
            self._end(moves, flat[asked] - flat[asker], asker, facts[0], facts[1])
            back = flat[asker] - flat[asked] if self._flow is Flow.BOTH else flat.new_empty(0)
            self._end(moves, back, asked, facts[1], facts[0])
            self._count(flat[asker], workers=2 if self._flow is Flow.BOTH else 1)
        return moves

    def _end(self, moves: Moves, delta: Tensor, row: int, mine: Facts, theirs: Facts) -> None:
        move, self.states[row] = self._rule.update(delta, self.states[row], mine=mine, theirs=theirs)
        if move.numel():
            moves[row] = moves[row].add_(move) if row in moves else move

    def _push(self, flat: Tensor, asks: list[Ask], step: int) -> Moves:
        # A queue has one partner at a time, so the facts say one.
        sent = []
        for asker, asked in asks:
            sender = Facts(step, None, 1.0, asked=True, share=self._share(asker))
            receiver = Facts(step, None, 1.0, share=self._share(asked))
            self._end({}, flat.new_empty(0), asker, sender, receiver)
            sent.append((asker, asked, sender))
            self._count(flat[asker], workers=1)
        moves: Moves = {}
        for asker, asked, sender in sent:
            receiver = Facts(step, None, 1.0, share=self._share(asked))
            delta = flat[asker] - flat[asked]
            if asked in moves:
                delta.sub_(moves[asked])
            self._end(moves, delta, asked, receiver, sender)
        return moves

    def _share(self, row: int) -> float:
        return self._rule.share(self.states[row])


def _each_pair_once(asks: Sequence[Ask]) -> list[Ask]:
    seen: set[frozenset[int]] = set()
    return [ask for ask in asks if frozenset(ask) not in seen and not seen.add(frozenset(ask))]  # type: ignore[func-returns-value]


class Centre(Nobody):
    """EASGD, EAMSGD: due workers meet the centre one after another, in random order, each as it is by then.

    A worker's move is computed at its old row. Both ends have the same rule; the worker is the end that asks. The
    centre's end has a state per worker.
    """

    def __init__(self, rule: ExchangeRule, flat: Tensor, *, seed: int = 0) -> None:
        super().__init__()
        self._rule, self._rng = rule, random.Random(seed)
        self.centre: Tensor = flat[0].clone()
        self.states: list[State] = [rule.init(row) for row in flat]
        self.centre_states: list[State] = [rule.init(self.centre) for _ in flat]

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        order = _both(due, connected)
        self._rng.shuffle(order)
        moves: Moves = {}
        for row in order:
            moves[row], of_centre = self._meet(flat[row], row, step)
            self.centre.add_(of_centre)
        return moves

    def _meet(self, vector: Tensor, row: int, step: int) -> tuple[Tensor, Tensor]:
        """The moves of a worker and of the centre."""
        mine, theirs = Facts(step, None, 1.0, asked=True), Facts(step, None, 1.0, centre=True)
        move, self.states[row] = self._rule.update(self.centre - vector, self.states[row], mine=mine, theirs=theirs)
        of_centre, self.centre_states[row] = self._rule.update(
            vector - self.centre, self.centre_states[row], mine=theirs, theirs=mine
        )
        self._count(vector, workers=1, centre=1)
        return move, of_centre


class CentreTogether(Centre):
    """Synchronous EASGD: all due workers meet the same centre, which then adds the sum of its moves (eq. 3-6).

    So beta = p alpha. Unlike gossip, alpha is not capped by the number of exchanges at once: the equations do not.
    """

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        moves: Moves = {}
        total = torch.zeros_like(self.centre)
        for row in _both(due, connected):
            moves[row], of_centre = self._meet(flat[row], row, step)
            total.add_(of_centre)
        self.centre.add_(total)
        return moves


class Accumulated(Nobody):
    """DOWNPOUR (Algorithm 3), before the next gradient: centre += x - anchor; x = centre; anchor = x.

    Due workers come one after another in random order. Both ends send a vector. What travels are the first `trainable`
    elements: adding up what several workers do to BatchNorm's statistics, rather than averaging it, would diverge.

    With `average_rate` a (MVADOWNPOUR) `centre` is the moving average z <- (1 - a) z + a centre, of the centre before
    each of its updates.
    """

    def __init__(
        self, flat: Tensor, *, trainable: int | None = None, average_rate: float | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self._rng, self._average_rate = random.Random(seed), average_rate
        self._trainable = slice(flat.shape[1] if trainable is None else trainable)
        self._origin = flat[0, self._trainable].clone()  # where workers restart
        self.anchors = flat[:, self._trainable].clone()
        self.centre: Tensor = flat[0].clone()

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        order = _both(due, connected)
        self._rng.shuffle(order)
        shown = self.centre[self._trainable]
        for row in order:
            mine = flat[row, self._trainable]
            if self._average_rate is not None:
                shown.lerp_(self._origin, self._average_rate)
            self._origin.add_(mine - self.anchors[row])
            mine.copy_(self._origin)
            self.anchors[row].copy_(self._origin)
            self._count(mine, workers=1, centre=1)
        if self._average_rate is None:
            shown.copy_(self._origin)

    def forget(self, row: int, flat: Tensor) -> None:
        """What the worker learnt since it last met the centre is lost; the fault itself must not go to the centre."""
        self.anchors[row].copy_(flat[row, self._trainable])


class Leader(Nobody):
    """Leader SGD: due workers follow the best of their group, and every `global_period` steps the best of all.

    The best has the smallest loss; who has none that is finite never leads. The pull to the best of all groups takes
    its parameters after the pulls within groups, and the same losses. Groups are neighbours. Without `global_rule`
    there is only the pull within groups. Each follower's copy is sent once, by the leader or a relay.
    """

    def __init__(
        self,
        rule: ExchangeRule,
        flat: Tensor,
        *,
        groups: int = 1,
        global_rule: ExchangeRule | None = None,
        global_period: int = 1,
    ) -> None:
        super().__init__()
        self._rule, self._global_rule, self._global_period = rule, global_rule, global_period
        bounds = [len(flat) * group // groups for group in range(groups + 1)]
        self.groups = [range(start, stop) for start, stop in itertools.pairwise(bounds)]
        self.states: list[State] = [rule.init(row) for row in flat]
        self.global_states: list[State] = [] if global_rule is None else [global_rule.init(row) for row in flat]

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
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
        rule_and_states: tuple[ExchangeRule, list[State]],
    ) -> None:
        due, connected = present
        rule, states = rule_and_states
        candidates = [row for row in connected if row in group and math.isfinite(losses[row])]
        if not candidates:
            return
        leader = min(candidates, key=lambda row: losses[row])
        followers = [row for row in _both(due, connected) if row in group and row != leader]
        theirs = Facts(step, losses[leader], 1.0)
        for row in followers:
            mine = Facts(step, losses[row], 1.0, asked=True)
            move, states[row] = rule.update(flat[leader] - flat[row], states[row], mine=mine, theirs=theirs)
            flat[row].add_(move)
            self._count(flat[row], workers=1)
        self.leaders[leader] += bool(followers)


def _both(due: Sequence[int], connected: Sequence[int]) -> list[int]:
    reached = set(connected)
    return [row for row in due if row in reached]


def build_round(config: SimulationConfig, flat: Tensor, trainable: int | None = None) -> Round:
    """The round of a configuration's rule for workers that begin with `flat` [W, D].

    The first `trainable` of D are parameters, the others BatchNorm's statistics; None is all.
    """
    method, rule = RULES[config.rule], find_rule(config.rule, config.rate)
    seed = config.seed
    if method.topology is Topology.PAIRS:
        return Pairs(rule, flat, flow=method.flow, partners=config.partners, seed=seed)
    if method.topology is Topology.CENTRE:
        return Centre(rule, flat, seed=seed)
    if method.topology is Topology.CENTRE_TOGETHER:
        return CentreTogether(rule, flat, seed=seed)
    if method.topology is Topology.ACCUMULATED:
        average_rate = config.rate if method.moving_rate > 0.0 else None
        return Accumulated(flat, trainable=trainable, average_rate=average_rate, seed=seed)
    if method.topology is Topology.LEADER:
        return _leader(config, rule, flat)
    return Nobody()


def _leader(config: SimulationConfig, rule: ExchangeRule, flat: Tensor) -> Leader:
    period = config.schedule.period
    assert period is not None, "lsgd has a period"
    global_period = config.global_period or LSGD_GLOBAL_PERIODS * period
    assert config.global_rate is not None
    global_rule = find_rule(config.rule, config.global_rate)
    if config.groups == 1 or global_period == period:
        return Leader(global_rule, flat)  # as the authors' code: only the best of all
    return Leader(rule, flat, groups=config.groups, global_rule=global_rule, global_period=global_period)
