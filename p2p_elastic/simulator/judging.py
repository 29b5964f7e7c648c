"""Dynamic weighting in a simulation: what each worker says of itself, and what it measures of those it meets.

The same functions as in a live peer (`health/signals.py`, `health/trust.py`, `rules/ramp.py`), over rows of one tensor.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap

from p2p_elastic.health import signals
from p2p_elastic.health.trust import Judge, Scale, Verdict, chance
from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.rules.ramp import settled
from p2p_elastic.rules.trial import Trial
from p2p_elastic.tasks.batch import Batch, stacked
from p2p_elastic.tasks.measures import Loss
from p2p_elastic.training.trials import FEW, LossOf

CENTRE = -1
Pair = tuple[int, int]  # the judge and the judged: a row each, or CENTRE


class Judging:
    """All workers' weights and judgements.

    Args:
        model: whose parameters rows of `flat` [W, D] are; a copy of it is used.
        loss: the task's: of model and batch, the losses [B] of its examples, in nats.
        workers: their number, W.

    Attributes:
        weights: how much each worker counts, 0 to 1.
    """

    def __init__(self, model: nn.Module, loss: Loss, workers: int) -> None:
        own = copy.deepcopy(model).eval()
        self._loss, self._slots = LossOf(own, loss), ParameterVector(own).slots
        self._judges = {judge: Judge() for judge in (CENTRE, *range(workers))}
        self._initial: list[float | None] = [None] * workers
        self._own = [1.0] * workers  # what their last exchanges showed of themselves
        self.weights = [1.0] * workers
        self._newcomers: set[int] = set()
        self._trust: dict[Pair, float] = {}
        self._batches: Sequence[Batch] = ()

    def observe(self, batches: Sequence[Batch], losses: Sequence[float], steps: Sequence[int]) -> None:
        """Begin a step: take note of what each worker sees, and set its weight.

        Args:
            batches: of the first n workers.
            losses: [W], recent means; not a number before the first.
            steps: [W], taken so far.
        """
        self._batches = batches
        for row, loss in enumerate(losses):
            if self._initial[row] is None and not math.isnan(loss):
                self._initial[row] = loss
            self.weights[row] = settled(self.weights[row], self._health(row, losses, steps))

    def restart(self, rows: Iterable[int]) -> None:
        """Note that workers began anew, and know it: each copies the first that counts, and is not copied until then.

        Args:
            rows: of these workers.
        """
        self._newcomers.update(rows)

    def _health(self, row: int, losses: Sequence[float], steps: Sequence[int]) -> float:
        others = [other for other in range(len(losses)) if other != row]
        found = (
            signals.loss(None if self._initial[row] is None else losses[row], self._initial[row]),
            signals.progress(losses[row], [losses[other] for other in others], self._initial[row]),
            signals.speed(float(steps[row]), [float(steps[other]) for other in others]),
        )
        if row in self._newcomers:
            return 0.0
        return min(self._own[row], signals.worst([one for one in found if one is not None]))

    def judge(
        self, mine: Tensor, theirs: Tensor, pairs: Sequence[Pair], parts: Sequence[Part], *, limited: bool = True
    ) -> dict[Pair, Verdict]:
        """Judge exchanges by distances and trials.

        The centre is held by the last worker, whose examples it uses. A worker that has no batch in this step, since it
        is slow, judges by distances only.

        Args:
            mine: [n, D], the vectors of the judges of `pairs`.
            theirs: [n, D], what they received; it differs from `mine` in `parts` only.
            pairs: [n], the judge and the judged.
            parts: [n], the elements that were received.
            limited: whether those that are far away are followed less; the centre is followed wherever it is.

        Returns:
            The verdicts by pair.
        """
        active, others = len(self._batches), len(self.weights) - 1
        examples = [active - 1 if judge == CENTRE else judge for judge, _ in pairs]
        tried = [at for at, row in enumerate(examples) if row < active]
        rows = [examples[at] for at in tried]
        losses = self._losses(torch.cat([theirs[tried], mine[tried]]), rows + rows) if tried else None
        distances = torch.linalg.vector_norm(theirs - mine, dim=1).tolist()
        norms = [float(torch.linalg.vector_norm(row[slice(*part)])) for row, part in zip(mine, parts, strict=True)]
        verdicts: dict[Pair, Verdict] = {}
        for at, (judge, judged) in enumerate(pairs):
            nth = tried.index(at) if at in tried else None
            trial = None if losses is None or nth is None else Trial.of(losses[nth], losses[len(tried) + nth])
            scale = None
            if limited and judged != CENTRE and judge not in self._newcomers:
                scale = Scale(norms[at], others + 1, math.inf) if judge == CENTRE else Scale(norms[at], others)
            verdicts[judge, judged] = self._judges[judge].judge(
                str(judged), distances[at], trial, parts[at], scale=scale
            )
        self._trust.update((pair, verdict.trust) for pair, verdict in verdicts.items())
        for judge in {judge for judge, _ in pairs if judge != CENTRE}:
            self._own[judge] = min(v.own for (j, _), v in verdicts.items() if j == judge)
            if any(j == judge and v.trust > 0.0 and self._counts(k) for (j, k), v in verdicts.items()):
                self._newcomers.discard(judge)
        return verdicts

    def chances(self, judge: int, others: Sequence[int]) -> list[float]:
        """How often a worker asks others, as a live peer does: seldom those that count little or are not trusted.

        Args:
            judge: the one that asks.
            others: rows.

        Returns:
            Of each of them, up to 1.
        """
        return [chance(min(self.weights[other], self._trust.get((judge, other), 1.0))) for other in others]

    def _counts(self, row: int) -> bool:
        return row == CENTRE or self.weights[row] > 0.0

    @torch.no_grad()
    def _losses(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        """Mean losses [n, groups] of parameters [n, D] on the batches of these rows, over groups of few examples."""
        named = {s.key: values[:, s.start : s.stop].view(len(values), *s.tensor().shape) for s in self._slots}
        losses = vmap(self._loss.at)(named, stacked([self._batches[row] for row in rows]))
        groups = max(1, losses.shape[1] // FEW)
        kept = groups * FEW if losses.shape[1] >= FEW else losses.shape[1]
        return losses[:, :kept].reshape(len(values), groups, -1).mean(dim=2)
