"""Communication rounds with a centre variable, which every due worker meets.

Source: EASGD arXiv 1412.6651 (Algorithms 1 and 2, eq. 3-6).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from p2p_elastic.health.trust import Verdict, trusting
from p2p_elastic.rules.base import ExchangeRule, Facts, State
from p2p_elastic.rules.outer import Outer
from p2p_elastic.simulator.judging import CENTRE, Judging, Pair
from p2p_elastic.simulator.rounds import Nobody, Received, reached
from p2p_elastic.simulator.sending import Moves, Wire


class Centre(Nobody):
    """EASGD, EAMSGD: due workers meet the centre one after another, in random order, each as it is by then.

    A worker's move is computed at its old row. Both ends have the same rule; the worker is the end that asks. The
    centre's end has a state per worker, and both have one per fragment. A worker judges the centre as it was before the
    round.

    Args:
        rule: of both ends.
        flat: [W, D], with which workers begin; the centre begins as the first row.
        seed: of the order.
        judging: dynamic weighting; None: all count the same.
        wire: how vectors travel; None: as they are.
        outer: of the centre, which makes a step with each of its moves; None: it has none.
        trainable: the first elements of D that are parameters; the others make no outer steps; None: all.

    Attributes:
        centre: the centre variable [D].
    """

    def __init__(
        self,
        rule: ExchangeRule,
        flat: Tensor,
        *,
        seed: int = 0,
        judging: Judging | None = None,
        wire: Wire | None = None,
        outer: Outer | None = None,
        trainable: int | None = None,
    ) -> None:
        super().__init__(judging, wire)
        self._rule, self._rng, self._outer = rule, random.Random(seed), outer
        self.centre: Tensor = flat[0].clone()
        self._slow = None if outer is None else outer.init(self.centre[:trainable])
        self._states: dict[tuple[int, int, int], State] = {}  # by both ends, and the beginning of the part

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        """Let the due workers meet the centre, which moves at once.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.

        Returns:
            What to add to each row that moves: {row: [D]}.
        """
        order = reached(due, connected)
        self._rng.shuffle(order)
        parts = {row: self._wire.part(row, flat.shape[1]) for row in order}
        verdicts = self._judge_centre(flat, parts)
        moves = Moves()
        for row, part in parts.items():
            move, of_centre = self._meet(flat, row, part, step, verdicts)
            moves.add(row, part, move, flat.shape[1])
            self.centre[part].add_(of_centre)
            self._outer_step(part)
        return moves

    def _outer_step(self, part: slice) -> None:
        """The outer step of the centre."""
        if self._outer is not None and self._slow is not None:
            start, stop = part.start, min(part.stop, len(self._slow.slow))
            self._outer.step_(self.centre[start:stop], self._slow.part(start, stop))

    def _judge_centre(self, flat: Tensor, parts: Mapping[int, slice]) -> Mapping[Pair, Verdict]:
        if self._judging is None:
            return {}
        received = []
        for row, part in parts.items():
            received.append(Received(row, CENTRE, part, self._wire.sent(CENTRE, self.centre, part)))
            received.append(Received(CENTRE, row, part, self._wire.sent(row, flat[row], part)))
        return self._judge(flat, received)

    def _meet(
        self, flat: Tensor, row: int, part: slice, step: int, verdicts: Mapping[Pair, Verdict]
    ) -> tuple[Tensor, Tensor]:
        """The moves of a worker and of the centre, both of this part."""
        mine, theirs = Facts(step, None, self._weight(row), asked=True), Facts(step, None, 1.0, centre=True)
        of_worker = self._wire.sent(row, flat[row], part)
        of_centre = self._wire.sent(CENTRE, self.centre, part)
        trusted = trusting(theirs, verdicts.get((row, CENTRE)))
        move = self._end_of(row, CENTRE, part, of_centre - of_worker, mine, trusted)
        trusted = trusting(mine, verdicts.get((CENTRE, row)))
        back = self._end_of(CENTRE, row, part, of_worker - of_centre, theirs, trusted)
        self._count(part, workers=1, centre=1)
        return move, back

    def _end_of(self, end: int, other: int, part: slice, delta: Tensor, mine: Facts, theirs: Facts) -> Tensor:
        key = end, other, part.start
        state = self._states[key] if key in self._states else self._rule.init(self.centre)
        move, self._states[key] = self._rule.move(delta, state, mine=mine, theirs=theirs)
        return move


class CentreTogether(Centre):
    """Synchronous EASGD: all due workers meet the same centre, which then adds the sum of its moves (eq. 3-6).

    So beta = p alpha. Unlike gossip, alpha is not capped by the number of exchanges at once: the equations do not.
    """

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        """Let all due workers meet the same centre, which moves afterwards.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.

        Returns:
            What to add to each row that moves: {row: [D]}.
        """
        moves = Moves()
        total = torch.zeros_like(self.centre)
        parts = {row: self._wire.part(row, flat.shape[1]) for row in reached(due, connected)}
        verdicts = self._judge_centre(flat, parts)
        for row, part in parts.items():
            move, of_centre = self._meet(flat, row, part, step, verdicts)
            moves.add(row, part, move, flat.shape[1])
            total[part].add_(of_centre)
        self.centre.add_(total)
        for start, stop in sorted({(part.start, part.stop) for part in parts.values()}):
            self._outer_step(slice(start, stop))
        return moves
