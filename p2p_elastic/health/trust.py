"""What a peer's own measurements make of its partners, and of itself.

At each exchange a peer measures two things that no partner can lie about: the distance between the two vectors, and a
trial: the loss that the partner's parameters give on the peer's latest examples, against that of its own. Models of one
run differ by a usual amount there, more so where everybody has other data; what counts is the excess over it. A partner
that is clearly worse than usual moves us less, or not at all; where we are clearly worse, we say so in our next header,
follow more, and pull less.

The trial is ours; the distances are those of Xu & Carr, arXiv 2409.09242, carried over from worker and centre to pairs:
whether one of the two lags is read from the score, which of them from the trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.parameters.vector import Part
from p2p_elastic.rules.dynamic import Weighting, lag, ramp, remembered, score

PARTNERS_MAX = 1000
TINY = 1e-30  # nats: a loss of nothing is no divisor
DRIFT = 0.05  # what is usual follows the trials by at most so much of the better loss each: liars are not soon usual
ERRORS = 2.0  # standard errors that chance may make
EXCESS_GOOD, EXCESS_BAD = 0.25, 1.0  # of the better loss: up to the first nothing is said, from the second on all is
PAIRS = Weighting(dead_zone=0.5, limit=1.5)  # between two that both move, distances vary more than to a centre
FLOOR = 0.05  # of the loss where training began: below it differences are no harm
CLAIM_MARGIN, CLAIM_SLACK = 1.5, 0.1  # times a loss that was claimed, and nats: so much is still as good
CLAIM_ERRORS = 3.0  # standard errors that chance may make where a claim is tried


def as_good_as(claimed: float) -> float:
    """The highest loss that is still as good as the one claimed, on other examples; in nats."""
    return CLAIM_MARGIN * claimed + CLAIM_SLACK


def is_above(loss: float, error: float, most: float, errors: float = CLAIM_ERRORS) -> bool:
    """Whether a measured loss is clearly above `most`: by more than so many standard errors. One of NaN is."""
    return not loss - errors * error <= most


class Trial(NamedTuple):
    """Mean losses in nats of the partner's and of our parameters on the same examples, and the standard error of their
    difference. `barrier`: where the exchange would lead us, the loss is clearly worse than at both (`merging.py`)."""

    theirs: float
    mine: float
    error: float = 0.0
    barrier: bool = False

    @classmethod
    def of(cls, theirs: Tensor, mine: Tensor) -> Trial:
        """From mean losses [n] over the same n groups of examples."""
        theirs, mine = theirs.cpu().double(), mine.cpu().double()  # Apple's GPUs have no float64
        error = float((theirs - mine).std()) / len(mine) ** 0.5 if len(mine) > 1 else 0.0
        return cls(float(theirs.mean()), float(mine.mean()), error)

    @property
    def the_other_way_round(self) -> Trial:
        """What the same examples show to the partner."""
        return Trial(self.mine, self.theirs, self.error)


class Verdict(NamedTuple):
    """What one exchange showed: how far we trust the partner, and how far we can trust ourselves, each 0..1.

    `score` is the raw score of the distances, `excess` how much worse the partner did than usual, in nats.
    """

    trust: float
    own: float
    reasons: tuple[str, ...]
    score: float
    excess: float | None


def history_of(partner: str, part: Part | None) -> str:
    """Under what distances to a partner are kept: each fragment of the vector has a history of its own."""
    return partner if part is None else f"{partner} {part[0]}"


class JudgeMemory(NamedTuple):
    """What a judge learnt: log-distances per partner, what is usual, and its own first loss, in nats."""

    distances: Mapping[str, tuple[float, ...]]
    usual: float
    initial: float | None


class Judge:
    """One peer's measurements of all its partners. Bounded, however many there are."""

    def __init__(self, weighting: Weighting = PAIRS) -> None:
        self._weighting = weighting
        self._distances: dict[str, tuple[float, ...]] = {}  # log-distances at contacts, the oldest first
        self._usual = 0.0  # by how much a partner's parameters usually do worse here, in nats
        self._initial: float | None = None  # our own loss at the first trial, or that of the untrained parameters
        self.verdicts: Mapping[str, Verdict] = {}  # the last of each partner; replaced whole: other threads read it

    def judge(self, partner: str, distance: float, trial: Trial | None, part: Part | None = None) -> Verdict:
        """What this exchange, of this part of the vectors, shows. `distance` is L2, before the move."""
        key = history_of(partner, part)
        self._distances[key] = remembered(self._distances.pop(key, ()), distance, self._weighting)
        raw = score(self._distances[key], self._weighting.coefficients)
        known = dict(self.verdicts)
        last = known.get(partner)
        # Without a trial what was last measured stands.
        verdict = last._replace(score=raw) if trial is None and last is not None else self._verdict(raw, trial)
        known.pop(partner, None)
        self.verdicts = dict([*known.items(), (partner, verdict)][-PARTNERS_MAX:])
        forget_oldest(self._distances, PARTNERS_MAX)
        return verdict

    def begins_at(self, loss: float) -> None:
        """Measure losses against that one (nats); by the first trial, who copied or trained alone is far below it."""
        self._initial = loss

    def forget_distances(self, partner: str) -> None:
        """That it is far away now is no sign: it was cut off, or we were."""
        for key in [k for k in self._distances if k.split(" ")[0] == partner]:
            del self._distances[key]

    def memory(self) -> JudgeMemory:
        """What was learnt, to `recall` it in another life. The verdicts themselves are soon measured anew."""
        return JudgeMemory(dict(self._distances), self._usual, self._initial)

    def recall(self, memory: JudgeMemory) -> None:
        """Go on from there."""
        self._distances, self._usual, self._initial = dict(memory.distances), memory.usual, memory.initial

    def _verdict(self, raw: float, trial: Trial | None) -> Verdict:
        if trial is None:
            return Verdict(1.0, 1.0, (), raw, None)
        if not math.isfinite(trial.theirs):
            return Verdict(0.0, 1.0, ("its parameters give no finite loss on our data",), raw, None)
        if not math.isfinite(trial.mine):
            return Verdict(1.0, 0.0, (), raw, None)
        if self._initial is None:
            self._initial = trial.mine
        better = max(TINY, min(trial.theirs, trial.mine) + FLOOR * self._initial)
        excess = trial.theirs - trial.mine - self._usual
        self._usual += max(-DRIFT * better, min(DRIFT * better, excess))
        beyond = max(0.0, abs(excess) - ERRORS * trial.error) / better
        lagging = lag(raw, self._weighting) if beyond > 0.0 else 0.0
        doubt = max(1.0 - ramp(beyond, bad=EXCESS_BAD, good=EXCESS_GOOD), lagging)
        if doubt == 0.0:
            return Verdict(1.0, 1.0, (), raw, excess)
        if excess < 0.0:
            return Verdict(1.0, 1.0 - doubt, (), raw, excess)
        return Verdict(1.0 - doubt, 1.0, (_reason(trial, lagging == doubt),), raw, excess)


def _reason(trial: Trial, by_distance: bool) -> str:
    losses = f"its parameters give a loss of {trial.theirs:.3g} on our data, ours {trial.mine:.3g}"
    return f"its distance to us grew suddenly, and {losses}" if by_distance else losses
