"""Dynamic weighting: from the recent history of distances to how far two ends pull each other.

A worker that was cut off, or fell back to an old state, comes back with a distance to the centre that suddenly grew.
Then the worker follows the centre, and the centre ignores the worker.

Source: Xu & Carr, arXiv 2409.09242. Of that paper only the abstract was at hand; score and shape are as recalled by
others, the constants and the sign are this project's, chosen on a toy problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules.base import ExchangeRule, Facts, State

COEFFICIENTS = (0.4, 0.3, 0.2, 0.1)  # of the last differences, the newest first


class Weighting(NamedTuple):
    """When a worker counts as lagging.

    Attributes:
        coefficients: [m], they weigh the last m differences of log-distances, the newest first; they add up to 1.
        dead_zone: a score up to this (about two standard deviations of healthy workers) is normal.
        limit: a score from this on is hopeless; the lag is linear between the two.
        sign: +1 if distances are taken at contacts (a straggler's grew), -1 for the opposite convention.
    """

    coefficients: tuple[float, ...] = COEFFICIENTS
    dead_zone: float = 0.25
    limit: float = 1.0
    sign: int = 1

    def checked(self) -> Weighting:
        """Check the fields against each other.

        Returns:
            This weighting.

        Raises:
            ConfigError: if they do not add up to 1, the dead zone is not below the limit, or for another sign.
        """
        if not self.coefficients or min(self.coefficients) < 0.0 or abs(sum(self.coefficients) - 1.0) > 1e-9:
            raise ConfigError("coefficients", self.coefficients, "numbers of 0 or more that add up to 1")
        if not 0.0 <= self.dead_zone < self.limit:
            raise ConfigError("dead-zone/limit", (self.dead_zone, self.limit), "0 <= dead zone < limit")
        if self.sign not in (1, -1):
            raise ConfigError("sign", self.sign, "1 or -1")
        return self

    def lag(self, log_distances: Sequence[float]) -> float:
        """How much a worker lags, by its history.

        Args:
            log_distances: of its contacts with the centre, the oldest first.

        Returns:
            0 (not at all) to 1; 0 if there are too few distances yet.
        """
        return lag(score(log_distances, self.coefficients), self)


def remembered(history: tuple[float, ...], distance: float, weighting: Weighting) -> tuple[float, ...]:
    """Add the distance of this contact to a history, and forget what the score does not need.

    A distance of 0 or infinity is left out: at such a contact nothing came, or the two were equal, or what came was not
    finite, and that says nothing about the next ones.

    Args:
        history: log-distances, the oldest first.
        distance: the L2 norm at this contact.
        weighting: says how many are needed: one more than it has coefficients.

    Returns:
        The new history, the oldest first.

    Example:
        >>> remembered((0.5,), 1.0, Weighting()), remembered((0.5,), 0.0, Weighting())
        ((0.5, 0.0), (0.5,))
    """
    if not 0.0 < distance < math.inf:
        return history
    return (*history, math.log(distance))[-len(weighting.coefficients) - 1 :]


def score(log_distances: Sequence[float], coefficients: Sequence[float]) -> float:
    """The raw score a = sum_j c_j (u_{t-j} - u_{t-j-1}) of log-distances u.

    It does not change if all distances are multiplied by a constant.

    Args:
        log_distances: u, the oldest first.
        coefficients: c [m], the newest difference's first.

    Returns:
        The score; 0 if there are not more than m log-distances.

    Example:
        >>> score([0.0, 0.0, 1.0], (0.5, 0.5)), score([1.0], (0.5, 0.5))
        (0.5, 0.0)
    """
    newest_first = list(log_distances)[::-1]
    if len(newest_first) <= len(coefficients):
        return 0.0
    return sum(c * (newest_first[j] - newest_first[j + 1]) for j, c in enumerate(coefficients))


def lag(raw_score: float, weighting: Weighting) -> float:
    """The lag of a raw score: w = clip((s a - a0) / (k - a0), 0, 1), with dead zone a0, limit k and sign s.

    Args:
        raw_score: a.
        weighting: a0, k and s.

    Returns:
        0 to 1; 1 for NaN.

    Example:
        >>> lag(0.25, Weighting()), lag(0.625, Weighting()), lag(9.0, Weighting())
        (0.0, 0.5, 1.0)
    """
    share = (weighting.sign * raw_score - weighting.dead_zone) / (weighting.limit - weighting.dead_zone)
    return share if 0.0 < share < 1.0 else 0.0 if share <= 0.0 else 1.0


def dynamic(rule: ExchangeRule, weighting: Weighting = Weighting()) -> ExchangeRule:  # noqa: B008 - a constant
    """Any rule towards a centre or leader; a peer whose distance to it suddenly grew copies, and is not copied.

        x^i <- x^i + h1 (x~ - x^i)      h1 = alpha + (1 - alpha) w      with w the peer's lag, 0..1, and
        x~ <- x~ + h2 (x^i - x~)        h2 = alpha (1 - w)              alpha what `rule` does without

    The state holds the last log-distances at contacts, one history per pair at both ends, so that both compute the same
    w. Without lag this is `rule`, bit for bit. If alpha is at most 1/2 the two moves never exceed the distance. It
    breaks the conservation of the sum if a peer lags: that is its purpose.

    Source: Xu & Carr, arXiv 2409.09242; see the top of this file for how sure that is.

    Args:
        rule: the rule that holds without lag.
        weighting: when a peer counts as lagging.

    Returns:
        The rule with one state per partner.

    Raises:
        ConfigError: if the weighting is not possible.

    Example:
        >>> import torch
        >>> from p2p_elastic.rules.pairwise import elastic
        >>> rule, centre = dynamic(elastic(0.1)), Facts(1, None, 1.0, centre=True)
        >>> peer = Facts(1, None, 1.0, asked=True)
        >>> rule.move(torch.tensor([2.0]), rule.init(torch.zeros(1)), mine=peer, theirs=centre)[0]
        tensor([0.2000])
    """
    weighting.checked()

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:
        history, inner = state
        history = remembered(history, distance, weighting)
        lagging = weighting.lag(history) if math.isfinite(distance) else 1.0
        copied = 0.0 if mine.centre or theirs.trust == 0.0 else lagging
        share, inner = rule.update(distance, inner, mine=mine, theirs=theirs)
        return (1.0 - lagging) * share + copied, (history, inner)

    return ExchangeRule(
        init=lambda vector: ((), rule.init(vector)),
        update=update,
        share=lambda state: rule.share(state[1]),
        share_of_leaver=lambda state: rule.share_of_leaver(state[1]),
        per_partner=True,
    )
