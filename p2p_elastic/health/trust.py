"""What a peer's own measurements make of its partners, and of itself.

At each exchange a peer measures two things that no partner can lie about: the distance between the two vectors, and a
trial: the loss that the partner's parameters give on the peer's latest examples, against that of its own. Models of one
run differ by a usual amount there, more so if each peer has other data; what counts is the excess over it. A partner
that is clearly worse than usual moves the peer less, or not at all; if the peer itself is clearly worse, it says so in
its next header, follows more, and pulls less.

The trial is this project's; the distances are those of Xu & Carr, arXiv 2409.09242, carried over from worker and centre
to pairs: whether one of the two lags is read from the score, which of them from the trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.parameters.vector import Part
from p2p_elastic.rules.dynamic import Weighting, lag, remembered, score
from p2p_elastic.rules.ramp import ramp
from p2p_elastic.rules.trial import ERRORS, FLOOR, Trial

PARTNERS_MAX = 1000
TINY = 1e-30  # nats: a loss of nothing is no divisor
DRIFT = 0.05  # of the better loss: what is usual follows each trial by at most this, so that liars are not soon usual
EXCESS_GOOD, EXCESS_BAD = 0.25, 1.0  # of the better loss: up to the first nothing is said, from the second on all is
PAIRS = Weighting(dead_zone=0.5, limit=1.5)  # between two that both move, distances vary more than to a centre


class Verdict(NamedTuple):
    """What one exchange showed.

    Attributes:
        trust: how far the partner is trusted, 0 to 1.
        own: how far this peer can trust itself, 0 to 1.
        reasons: why the partner is trusted less than wholly, for people.
        score: the raw score of the distances (`rules/dynamic.py`).
        excess: how much worse the partner did than usual, in nats; None without a trial or a finite loss.
    """

    trust: float
    own: float
    reasons: tuple[str, ...]
    score: float
    excess: float | None


def history_of(partner: str, part: Part | None) -> str:
    """Name the history in which distances to a partner are kept: each fragment of the vector has one of its own.

    Args:
        partner: peer id.
        part: the elements that were exchanged; None: all.

    Returns:
        The key.

    Example:
        >>> history_of("12D3KooWX9", None), history_of("12D3KooWX9", (100, 200))
        ('12D3KooWX9', '12D3KooWX9 100-200')
    """
    return partner if part is None else f"{partner} {part[0]}-{part[1]}"


class JudgeMemory(NamedTuple):
    """What a judge learnt, as a checkpoint keeps it.

    Attributes:
        distances: log-distances by history, the oldest first.
        usual: by how much a partner's parameters usually do worse here, in nats.
        initial: its own loss at the first trial, in nats; None before it.
    """

    distances: Mapping[str, tuple[float, ...]]
    usual: float
    initial: float | None


class Judge:
    """One peer's measurements of all its partners. Bounded, for any number of partners.

    Args:
        weighting: when distances count as lagging.

    Attributes:
        verdicts: the last one of each partner, the latest last.
    """

    def __init__(self, weighting: Weighting = PAIRS) -> None:
        self._weighting = weighting
        self._distances: dict[str, tuple[float, ...]] = {}  # log-distances at contacts, the oldest first
        self._usual = 0.0  # by how much a partner's parameters usually do worse here, in nats
        self._initial: float | None = None  # its own loss at the first trial, or that of the untrained parameters
        self.verdicts: Mapping[str, Verdict] = {}  # the last of each partner; replaced whole: other threads read it

    def judge(self, partner: str, distance: float, trial: Trial | None, part: Part | None = None) -> Verdict:
        """Judge a partner by one exchange.

        Args:
            partner: peer id.
            distance: L2, between the two vectors or parts of them, before the move.
            trial: both parameters on the same examples; None if none was made: then what was last measured stands.
            part: the elements that were exchanged; None: all.

        Returns:
            The verdict; with neither a trial now nor an earlier verdict it is full trust.
        """
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
        """Measure losses against the loss of untrained parameters.

        By the first trial, a peer that copied others or trained alone is far below it.

        Args:
            loss: in nats.
        """
        self._initial = loss

    def forget_distances(self, partner: str) -> None:
        """Forget the distances to a partner after a partition: that it is far away then is no sign that it lags.

        Args:
            partner: peer id.
        """
        for key in [k for k in self._distances if k.split(" ")[0] == partner]:
            del self._distances[key]

    def memory(self) -> JudgeMemory:
        """What was learnt, to `recall` it after a restart. The verdicts themselves are soon measured anew.

        Returns:
            A copy.
        """
        return JudgeMemory(dict(self._distances), self._usual, self._initial)

    def recall(self, memory: JudgeMemory) -> None:
        """Go on from what was learnt before a restart.

        Args:
            memory: as `memory` gave it.
        """
        self._distances, self._usual, self._initial = dict(memory.distances), memory.usual, memory.initial

    def _verdict(self, raw: float, trial: Trial | None) -> Verdict:
        if trial is None:
            return Verdict(1.0, 1.0, (), raw, None)
        if not math.isfinite(trial.theirs):
            return Verdict(0.0, 1.0, ("its parameters give no finite loss on this peer's data",), raw, None)
        if not math.isfinite(trial.mine):
            return Verdict(1.0, 0.0, (), raw, None)
        if self._initial is None:
            self._initial = trial.mine
        # Without the signs: an objective that is to be made large comes as a negative loss.
        better = max(TINY, abs(min(trial.theirs, trial.mine)) + FLOOR * abs(self._initial))
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
    losses = f"on this peer's data its parameters give a loss of {trial.theirs:.3g}, this peer's own {trial.mine:.3g}"
    return f"its distance to this peer grew suddenly, and {losses}" if by_distance else losses
