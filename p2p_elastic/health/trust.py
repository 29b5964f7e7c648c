"""What a peer's own measurements make of its partners, and of itself.

At each exchange a peer measures two things that no partner can lie about: the distance between the two vectors, and a
trial: the loss that the partner's parameters give on the peer's latest examples, against that of its own. Models of one
run differ by a usual amount there, more so if each peer has other data; what counts is the excess over it. A partner
that is clearly worse than usual moves the peer less, or not at all; if the peer itself is clearly worse, it says so in
its next header, follows more, and pulls less.

The trial is this project's; the distances are those of Xu & Carr, arXiv 2409.09242, carried over from worker and centre
to pairs: whether one of the two lags is read from the score, which of them from the trial.

A trial says nothing while the models are hardly trained, and little about one that was changed with care. So distances
count by themselves too. The usual one is the median over partners, of each its last one: fewer than half of them cannot
move it. A partner that is further away than usual by a factor, and by a share of this peer's own norm, is not followed;
another one is followed only as far as is usual: ClippedGossip (He et al., arXiv 2202.01545), with the median for the
radius.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.parameters.vector import Part
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.dynamic import Weighting, lag, remembered, score
from p2p_elastic.rules.ramp import ramp
from p2p_elastic.rules.trial import ERRORS, FLOOR, Trial

PARTNERS_MAX = 1000
CHANCE_MIN = 0.2  # of a partner that counts nothing to be asked, against one that counts wholly
TINY = 1e-30  # nats: a loss of nothing is no divisor
DRIFT = 0.05  # of the better loss: what is usual follows each trial by at most this, so that liars are not soon usual
EXCESS_GOOD, EXCESS_BAD = 0.25, 1.0  # of the better loss: up to the first nothing is said, from the second on all is
GATE_FACTOR, GATE_SHARE = 2.0, 0.3  # of the usual distance, and of the own norm: who is beyond both is not followed
CLIP_FACTOR = 1.25  # of the usual distance, between two that both move
KNOWN_SHARE, KNOWN_ENOUGH = 2 / 3, 12  # of the others, or so many: before their distances are known none is usual
PAIRS = Weighting(dead_zone=0.5, limit=1.5)  # between two that both move, distances vary more than to a centre


class Scale(NamedTuple):
    """What the distance to a partner is compared with, beside those to others.

    Attributes:
        norm: L2, of this peer's own vector, or of the part that was exchanged.
        others: how many partners there are to meet.
        most: of the usual distance: a partner beyond it is followed as if it were there.
    """

    norm: float
    others: int
    most: float = CLIP_FACTOR


class Verdict(NamedTuple):
    """What one exchange showed.

    Attributes:
        trust: how far the partner is trusted, 0 to 1.
        own: how far this peer can trust itself, 0 to 1.
        reasons: why the partner is trusted or followed less than wholly, for people.
        score: the raw score of the distances (`rules/dynamic.py`).
        excess: how much worse the partner did than usual, in nats; None without a trial or a finite loss.
        clip: the share of a move towards the partner that ends at the usual distance, 0 to 1.
    """

    trust: float
    own: float
    reasons: tuple[str, ...]
    score: float
    excess: float | None
    clip: float = 1.0


def chance(counts: float) -> float:
    """Work out how often a partner is asked, against one that counts wholly.

    Args:
        counts: how much it counts, 0 to 1, by its own word or by trust, whichever is less.

    Returns:
        CHANCE_MIN to 1: it may be well again, so it is never not asked at all.

    Example:
        >>> chance(1.0), chance(0.0)
        (1.0, 0.2)
    """
    return CHANCE_MIN + (1.0 - CHANCE_MIN) * counts


def trusting(theirs: Facts, verdict: Verdict | None) -> Facts:
    """The facts of a partner, with the trust of the end that judged it.

    Args:
        theirs: what the partner says of itself.
        verdict: of the other end; None: it trusts.

    Returns:
        The facts.
    """
    return theirs if verdict is None else theirs._replace(trust=verdict.trust, clip=verdict.clip)


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
        self._excesses: dict[str, float] = {}  # by how much each did worse at the last trial, in nats
        self._tried: dict[str, Verdict] = {}  # what trials made of each, whatever its distance
        self.verdicts: Mapping[str, Verdict] = {}  # the last of each partner; replaced whole: other threads read it

    def judge(
        self,
        partner: str,
        distance: float,
        trial: Trial | None,
        part: Part | None = None,
        *,
        scale: Scale | None = None,
    ) -> Verdict:
        """Judge a partner by one exchange.

        Args:
            partner: peer id.
            distance: L2, between the two vectors or parts of them, before the move.
            trial: both parameters on the same examples; None if none was made: then what was last measured stands.
            part: the elements that were exchanged; None: all.
            scale: what the distance is compared with; None: that the partner is far away says nothing of it.

        Returns:
            The verdict; with neither a trial now nor an earlier one it is full trust, limited by the distance.
        """
        known = [] if scale is None else self._known_distances(part)  # before this one
        key = history_of(partner, part)
        self._distances[key] = remembered(self._distances.pop(key, ()), distance, self._weighting)
        raw = score(self._distances[key], self._weighting.coefficients)
        last = self._tried.pop(partner, None)
        # Without a trial what was last measured stands.
        tried = self._verdict(partner, raw, trial) if trial is not None or last is None else last._replace(score=raw)
        self._tried[partner] = tried
        lost = tried.own == 0.0 and trial is not None and trial.mine > (self._initial or 0.0)  # nothing to protect
        verdict = tried if scale is None or lost else _limited(tried, distance, known, scale)
        verdicts = dict(self.verdicts)
        verdicts.pop(partner, None)
        self.verdicts = dict([*verdicts.items(), (partner, verdict)][-PARTNERS_MAX:])
        for memory in (self._distances, self._excesses, self._tried):
            forget_oldest(memory, PARTNERS_MAX)
        return verdict

    def _known_distances(self, part: Part | None) -> list[float]:
        """The last distance of each partner in this part, in order."""
        of_part = history_of("", part)
        known = [history for key, history in self._distances.items() if key[len(key.split(" ")[0]) :] == of_part]
        return sorted(math.exp(history[-1]) for history in known if history)

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

    def _verdict(self, partner: str, raw: float, trial: Trial | None) -> Verdict:
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
        self._excesses.pop(partner, None)
        self._excesses[partner] = trial.theirs - trial.mine
        step = statistics.median_low(self._excesses.values()) - self._usual
        self._usual += max(-DRIFT * better, min(DRIFT * better, step))
        if _untrained(trial, self._initial):
            return Verdict(1.0, 1.0, (), raw, excess)
        chance = min(ERRORS * trial.error, abs(self._initial))  # what does worse than untrained has not had bad luck
        beyond = max(0.0, abs(excess) - chance) / better
        lagging = lag(raw, self._weighting) if beyond > 0.0 else 0.0
        doubt = max(1.0 - ramp(beyond, bad=EXCESS_BAD, good=EXCESS_GOOD), lagging)
        if doubt == 0.0:
            return Verdict(1.0, 1.0, (), raw, excess)
        if excess < 0.0:
            return Verdict(1.0, 1.0 - doubt, (), raw, excess)
        return Verdict(1.0 - doubt, 1.0, (_reason(trial, lagging == doubt),), raw, excess)


def _untrained(trial: Trial, initial: float) -> bool:
    """Whether both losses are still so near the first one that their difference says nothing."""
    return max(abs(trial.theirs - initial), abs(trial.mine - initial)) <= FLOOR * abs(initial)


def _limited(verdict: Verdict, distance: float, known: list[float], scale: Scale) -> Verdict:
    """A verdict of a trial, limited by the distance: to nothing, or so that the move ends at the usual distance.

    The usual distance only ever opens the gate wider than the share of the norm does. Among the first that are met
    liars may be the most, so it does so once enough are known, and by their lower quartile.
    """
    usual, wide = math.inf, 0.0
    if len(known) >= max(1.0, min(KNOWN_ENOUGH, KNOWN_SHARE * scale.others)):
        usual, wide = statistics.median_low(known), GATE_FACTOR * known[(len(known) - 1) // 4]
    if distance > max(wide, GATE_SHARE * scale.norm):
        why = f"it is too far away to be followed: {distance:.3g}, this peer's own norm is {scale.norm:.3g}"
        return verdict._replace(trust=0.0, own=1.0, reasons=(*verdict.reasons, why))
    if distance <= scale.most * usual:
        return verdict
    why = f"it is followed only as far as is usual: its distance is {distance:.3g}, the usual one {usual:.3g}"
    return verdict._replace(clip=scale.most * usual / distance, reasons=(*verdict.reasons, why))


def _reason(trial: Trial, by_distance: bool) -> str:
    losses = f"on this peer's data its parameters give a loss of {trial.theirs:.3g}, this peer's own {trial.mine:.3g}"
    return f"its distance to this peer grew suddenly, and {losses}" if by_distance else losses
