"""A simulated swarm of which some members lie; the rules, weights and judgements are those of a live peer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hostile.attacks import ATTACKS, Attack, Knowledge
from p2p_elastic.protocol.codecs import Seams
from p2p_elastic.rules.methods import RULES
from p2p_elastic.rules.policy import rule_of
from p2p_elastic.simulator.config import SimulationConfig
from p2p_elastic.simulator.judging import Judging
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.rounds import Pairs
from p2p_elastic.simulator.run import simulate
from p2p_elastic.simulator.sending import Moves, Wire
from p2p_elastic.tasks import Data, find_task

PEERS, STEPS = 10, 300


class Case(NamedTuple):
    """One simulation.

    Attributes:
        attack: a key of ATTACKS.
        share: of the members that lie.
        split: "even" or "dirichlet".
        weighting: "dynamic" or "fixed".
        seed: of everything.
    """

    attack: str
    share: float
    split: str
    weighting: str
    seed: int


class Outcome(NamedTuple):
    """How the honest members do at the end, each with its own model, on the test split.

    Attributes:
        accuracy: the mean.
        loss: the mean, in nats.
    """

    accuracy: float
    loss: float


class LyingWire(Wire):
    """Sends what the liars say.

    Args:
        attack: what they do.
        liars: their rows.
        known: what they know.

    Attributes:
        attack: what they do.
        step: of the simulation.
    """

    def __init__(self, attack: Attack, liars: range, known: Knowledge) -> None:
        super().__init__()
        self.attack, self._liars, self._known = attack, liars, known
        self.step = 0

    def sent(self, row: int, vector: Tensor, part: slice) -> Tensor:
        """What arrives of a part of a vector."""
        if row in self._liars and self.attack.lie is not None and self.step >= self.attack.begins:
            vector = self.attack.lie(vector, self._known)
        return super().sent(row, vector, part)


class HostilePairs(Pairs):
    """Gossip, in which liars claim to count wholly and move by what they are, not by what they say."""

    def __init__(
        self,
        config: SimulationConfig,
        flat: Tensor,
        trainable: int | None = None,
        judging: Judging | None = None,
        *,
        seams: Seams = (),
        liars: range,
        wire: LyingWire,
    ) -> None:
        method = RULES[config.rule]
        rule = rule_of(method, config.rate, config.weighting)
        super().__init__(rule, flat, flow=method.flow, seed=config.seed, judging=judging, wire=wire)
        self._fair = Pairs(rule, flat, flow=method.flow, seed=config.seed)  # the same asks, and nobody lies
        self._liars, self._lies, self._weights = liars, wire, [] if judging is None else judging.weights

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        """As `Pairs` does; liars move as if they had sent their own parameters."""
        self._lies.step = step
        if self._lies.attack.absent:
            due, connected = ([row for row in rows if row not in self._liars] for rows in (due, connected))
        for row in self._liars if self._weights else ():
            self._weights[row] = 1.0
        moves, fair = super().moves(flat, due, connected, step), self._fair.moves(flat, due, connected, step)
        for row in self._liars:
            if row in fair:
                moves[row] = fair[row]
        return moves


def run(case: Case, data: Data, task: str) -> Outcome:
    """Run one simulation."""
    options: dict[str, Any] = {
        "task": task,
        "workers": PEERS,
        "steps": STEPS,
        "evaluate_steps": STEPS,
        "probability": 1 / 8,
        "weighting": case.weighting,
        "seed": case.seed,
        **({} if case.split == "even" else {"split": "dirichlet", "dirichlet": 0.3}),
    }
    liars = range(round(case.share * PEERS))
    wire = LyingWire(ATTACKS[case.attack], liars, Knowledge(find_task(task), data, case.seed))
    rounds = partial(HostilePairs, liars=liars, wire=wire)
    last = simulate(build(options), data, "cpu", clock=time.monotonic, build=rounds).points[-1]
    accuracies, losses = (last.metrics[name].workers[len(liars) :] for name in ("accuracy", "loss"))
    return Outcome(statistics.mean(accuracies), statistics.mean(losses))


@cache
def load(task: str, folder: Path) -> Data:
    """Load a task's data, once in a process, for simulations that use one thread each."""
    torch.set_num_threads(1)
    return find_task(task).load(folder)
