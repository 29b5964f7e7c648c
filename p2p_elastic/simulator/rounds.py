"""One communication round of each topology: the exchange rules, applied to rows of one tensor.

A round says what each worker moves, or moves it at once:

    round_ = build_round(config, flat)          # of `assembly.py`, or one of the classes, with rules of your own
    moves = round_.moves(flat, due, connected, step)    # {row: move [D]}, all of it at the old flat [W, D]
    ...                                         # gradient at the old parameters and optimizer step
    flat[row] += moves[row]                     # for each of them
    round_.settle_(flat, due, connected, step, losses)  # after the step: what changes flat in place

Pairs, Centre and CentreTogether (`centre.py`) make moves and settle nothing; Leader (`leader.py`), Accumulated and
Everybody (`restarting.py`) make no moves and settle; Nobody (also for all-reduce, whose exchange is of gradients) does
neither. `due` are the workers that ask, `connected` those that can be reached; a worker in `due` that is not in
`connected` has no exchange. `traffic` counts. What is sent arrives as the `wire` makes it, in part and rounded; both
ends take differences of that, and if only one end sends, the other takes it from its own vector as it is.

Source: Elastic Gossip arXiv 1812.02407; Gossiping SGD 1611.04581; GoSGD 1611.09726.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from p2p_elastic.health.trust import Verdict, trusting
from p2p_elastic.rules.base import ExchangeRule, Facts, State
from p2p_elastic.rules.methods import Flow
from p2p_elastic.simulator.judging import CENTRE, Judging, Pair
from p2p_elastic.simulator.sending import Moves, Wire

Ask = tuple[int, int]  # the row that asks, the row that is asked


@dataclass
class Traffic:
    """What was sent so far, without headers.

    Attributes:
        exchanges: of all workers.
        worker_bytes: sent by all workers.
        centre_bytes: sent by the centre.
    """

    exchanges: int = 0
    worker_bytes: int = 0
    centre_bytes: int = 0


class Received(NamedTuple):
    """What a row got from another.

    Attributes:
        receiver: a row, or CENTRE.
        sender: a row, or CENTRE.
        part: the elements of the vector.
        values: of that part, as they arrived.
    """

    receiver: int
    sender: int
    part: slice
    values: Tensor


class Round(Protocol):
    """One communication round; see the module's text.

    Attributes:
        traffic: what was sent so far.
        leaders: how often each worker led others.
    """

    traffic: Traffic
    leaders: Counter[int]

    @property
    def centre(self) -> Tensor | None:
        """The centre variable [D]; None if there is none."""

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        """Compute what this round adds to the rows, at `flat`, which it leaves as it is.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.

        Returns:
            What to add to each row that moves: {row: [D]}.
        """

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        """Do what is done in place after the optimizer step.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.
            losses: [W], recent means, for choosing leaders.
        """

    def forget(self, row: int, flat: Tensor) -> None:
        """Take note that a fault has changed a row: what it is now was not learnt.

        Args:
            row: of the worker.
            flat: all rows [W, D], after the fault.
        """


class Nobody:
    """No communication between rows. The other rounds are built on it.

    Args:
        judging: dynamic weighting: rows have weights, and judge what they receive; None: all count the same.
        wire: how vectors travel; None: as they are.

    Attributes:
        traffic: what was sent so far.
        centre: the centre variable [D]; None if there is none.
        leaders: how often each worker led others.
    """

    def __init__(self, judging: Judging | None = None, wire: Wire | None = None) -> None:
        self._judging, self._wire = judging, wire or Wire()
        self.traffic = Traffic()
        self.centre: Tensor | None = None
        self.leaders: Counter[int] = Counter()

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        """Move nothing.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.

        Returns:
            Nothing to add.
        """
        return Moves()

    def settle_(
        self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int, losses: Sequence[float]
    ) -> None:
        """Do nothing.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.
            losses: [W], recent means, for choosing leaders.
        """

    def forget(self, row: int, flat: Tensor) -> None:
        """Do nothing.

        Args:
            row: of the worker.
            flat: all rows [W, D], after the fault.
        """

    def _weight(self, row: int) -> float:
        return 1.0 if self._judging is None else self._judging.weights[row]

    def _judge(self, flat: Tensor, received: Sequence[Received], *, limited: bool = True) -> Mapping[Pair, Verdict]:
        """What the receivers make of what they received: of their own vectors with that in it."""
        if self._judging is None or not received:
            return {}
        mine = torch.stack([self._vector(flat, one.receiver) for one in received])
        theirs = mine.clone()
        for row, one in zip(theirs, received, strict=True):
            row[one.part] = one.values
        pairs, parts = [(one.receiver, one.sender) for one in received], [one.part for one in received]
        places = [(part.start, part.stop) for part in parts]
        return self._judging.judge(mine, theirs, pairs, places, limited=limited)

    def _vector(self, flat: Tensor, row: int) -> Tensor:
        return self.centre if row == CENTRE and self.centre is not None else flat[row]

    def _count(self, part: slice, *, workers: int = 0, centre: int = 0) -> None:
        """Count one exchange: that part of their vectors, which some workers and centres sent."""
        size = self._wire.nbytes(part)
        self.traffic.exchanges += 1
        self.traffic.worker_bytes += workers * size
        self.traffic.centre_bytes += centre * size


class Pairs(Nobody):
    """Gossip: each due worker asks `partners` different others at random. All vectors are those before the round.

    Flow.BOTH: moves of one worker add up, and if two ask each other it is one exchange (K_i is a set).
    Flow.PULL: as well, but only the asking end moves; its partners are those that it asked.
    Flow.PUSH: a queue, as in GoSGD: all send before any receives, and a receiver merges one message after
    the other into what it has by then.

    Args:
        rule: of both ends.
        flat: [W, D], with which workers begin.
        flow: which way parameters travel.
        partners: how many others a due worker asks.
        seed: of the choices.
        judging: dynamic weighting; None: all count the same.
        wire: how vectors travel; None: as they are.

    Attributes:
        states: of the rule, one per worker.
    """

    def __init__(
        self,
        rule: ExchangeRule,
        flat: Tensor,
        *,
        flow: Flow = Flow.BOTH,
        partners: int = 1,
        seed: int = 0,
        judging: Judging | None = None,
        wire: Wire | None = None,
    ) -> None:
        super().__init__(judging, wire)
        self._rule, self._flow, self._partners = rule, flow, partners
        self._rng = random.Random(seed)
        self.states: list[State] = [rule.init(row) for row in flat]

    def moves(self, flat: Tensor, due: Sequence[int], connected: Sequence[int], step: int) -> Moves:
        """Draw partners for the due workers, and exchange.

        Args:
            flat: all rows [W, D].
            due: the workers that ask.
            connected: the workers that can be reached.
            step: of the simulation, from 1.

        Returns:
            What to add to each row that moves: {row: [D]}.
        """
        return self.exchange(flat, self.draw(due, connected), step)

    def draw(self, due: Sequence[int], connected: Sequence[int]) -> list[Ask]:
        """Draw partners.

        Args:
            due: the workers that ask.
            connected: the workers that can be reached.

        Returns:
            Pairs of the worker that asks and the one that is asked, in the order of `due`.
        """
        asks = []
        for asker in due:
            others = [worker for worker in connected if worker != asker]
            if len(others) < len(connected):
                asks += [(asker, k) for k in self._choose(asker, others)]
        return asks

    def _choose(self, asker: int, others: list[int]) -> list[int]:
        """Different partners; who only sends asks all alike, since those that count less need it most."""
        count, judging = min(self._partners, len(others)), self._judging
        chances = [1.0] if judging is None or self._flow is Flow.PUSH else judging.chances(asker, others)
        if len(set(chances)) <= 1:
            return self._rng.sample(others, count)
        chosen: list[int] = []
        while len(chosen) < count:
            (one,) = self._rng.choices(others, chances)
            chances[others.index(one)] = 0.0
            chosen.append(one)
        return chosen

    def exchange(self, flat: Tensor, asks: Iterable[Ask], step: int = 0) -> Moves:
        """Compute the moves of given exchanges.

        Args:
            flat: all rows [W, D].
            asks: pairs of the worker that asks and the one that is asked.
            step: of the simulation, from 1.

        Returns:
            What to add to each row that moves: {row: [D]}.
        """
        asks = list(asks)
        if self._flow is Flow.PUSH:
            return self._push(flat, asks, step)
        if self._flow is Flow.BOTH:
            asks = _each_pair_once(asks)
        both = self._flow is Flow.BOTH
        partners = Counter(itertools.chain.from_iterable(asks if both else [(asker,) for asker, _ in asks]))
        sent = [self._sent(flat, asker, asked, back=both) for asker, asked in asks]
        verdicts = self._judge(flat, list(itertools.chain.from_iterable(sent)))
        moves = Moves()
        for (asker, asked), ends in zip(asks, sent, strict=True):
            mine, theirs = (
                self._facts(i, step, asked=i == asker, partners=max(1, partners[i])) for i in (asker, asked)
            )
            part, received = ends[0].part, ends[0].values
            before = ends[1].values if both else flat[asker, part]
            trusted = trusting(theirs, verdicts.get((asker, asked)))
            self._end(moves, received - before, asker, mine, trusted, part, flat)
            back = before - received if both else flat.new_empty(0)
            self._end(moves, back, asked, theirs, trusting(mine, verdicts.get((asked, asker))), part, flat)
            self._count(part, workers=2 if both else 1)
        return moves

    def _sent(self, flat: Tensor, asker: int, asked: int, *, back: bool) -> list[Received]:
        """What the asker receives, and what the other does, if both send."""
        part = self._wire.part(asker, flat.shape[1])
        ends = [(asker, asked), (asked, asker)] if back else [(asker, asked)]
        return [Received(to, of, part, self._wire.sent(of, flat[of], part)) for to, of in ends]

    def _facts(self, row: int, step: int, *, asked: bool = False, partners: int = 1) -> Facts:
        share = self._rule.share(self.states[row])
        return Facts(step, None, self._weight(row), asked=asked, partners=partners, share=share)

    def _end(
        self, moves: Moves, delta: Tensor, row: int, mine: Facts, theirs: Facts, part: slice, flat: Tensor
    ) -> None:
        move, self.states[row] = self._rule.move(delta, self.states[row], mine=mine, theirs=theirs)
        if move.numel():
            moves.add(row, part, move, flat.shape[1])

    def _push(self, flat: Tensor, asks: list[Ask], step: int) -> Moves:
        # A queue has one partner at a time, so the facts say one.
        received = []
        for asker, asked in asks:
            part = self._wire.part(asker, flat.shape[1])
            received.append(Received(asked, asker, part, self._wire.sent(asker, flat[asker], part)))
        verdicts = self._judge(flat, received)
        senders = []
        for asker, asked in asks:
            sender = self._facts(asker, step, asked=True)
            self._end(Moves(), flat.new_empty(0), asker, sender, self._facts(asked, step), slice(0), flat)
            senders.append(trusting(sender, verdicts.get((asked, asker))))
        moves = Moves()
        for (asked, _, part, values), sender in zip(received, senders, strict=True):
            delta = values - flat[asked, part]
            if asked in moves:
                delta.sub_(moves[asked][part])
            self._end(moves, delta, asked, self._facts(asked, step), sender, part, flat)
            self._count(part, workers=1)
        return moves


def _each_pair_once(asks: Sequence[Ask]) -> list[Ask]:
    seen: set[frozenset[int]] = set()
    return [ask for ask in asks if frozenset(ask) not in seen and not seen.add(frozenset(ask))]  # type: ignore[func-returns-value]


def reached(due: Sequence[int], connected: Sequence[int]) -> list[int]:
    """Choose the due workers that can be reached.

    Args:
        due: the workers that ask.
        connected: the workers that can be reached.

    Returns:
        Those that are both, in the order of `due`.
    """
    there = set(connected)
    return [row for row in due if row in there]
