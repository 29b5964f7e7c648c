"""A trial: two peers' parameters on the same examples."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

ERRORS = 2.0  # standard errors that chance may make
FLOOR = 0.05  # a share of the loss at which training began: smaller differences are no harm
CLAIM_MARGIN, CLAIM_SLACK = 1.5, 0.1  # a factor of a claimed loss, and nats: a loss up to this is still as good
CLAIM_ERRORS = 3.0  # standard errors that chance may make if a claim is tried


def as_good_as(claimed: float) -> float:
    """The highest loss that is still as good as a claimed one, on other examples.

    Args:
        claimed: in nats; negative if it is an objective that is to be made large.

    Returns:
        Nats.

    Example:
        >>> as_good_as(3.0), as_good_as(-3.0)
        (4.6, -1.9)
    """
    return (CLAIM_MARGIN * claimed if claimed > 0.0 else claimed / CLAIM_MARGIN) + CLAIM_SLACK


def is_above(loss: float, error: float, most: float, errors: float = CLAIM_ERRORS) -> bool:
    """Whether a measured loss is clearly above a limit.

    Args:
        loss: in nats.
        error: its standard error, in nats.
        most: the limit, in nats.
        errors: standard errors that chance may make.

    Returns:
        True also if the loss is NaN.
    """
    return not loss - errors * error <= most


class Estimate(NamedTuple):
    """A mean and its standard error.

    Attributes:
        mean: of the observations.
        error: its standard error, in the same unit.
    """

    mean: float
    error: float


class Trial(NamedTuple):
    """What two parameter vectors achieve on the same examples.

    Attributes:
        theirs: mean loss in nats of the partner's parameters.
        mine: mean loss in nats of this peer's parameters.
        error: the standard error of their difference, in nats.
        barrier: whether the loss is clearly worse than at both where the exchange would lead (`merging.py`).
    """

    theirs: float
    mine: float
    error: float = 0.0
    barrier: bool = False

    @classmethod
    def of(cls, theirs: Tensor, mine: Tensor) -> Trial:
        """Build a trial from losses per group of examples.

        Args:
            theirs: mean losses [n] of the partner's parameters over n groups, on any device.
            mine: mean losses [n] of this peer's parameters over the same groups.

        Returns:
            The trial; its error is 0 for a single group.

        Example:
            >>> import torch
            >>> Trial.of(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
            Trial(theirs=2.0, mine=1.0, error=1.0, barrier=False)
        """
        theirs, mine = theirs.cpu().double(), mine.cpu().double()  # Apple's GPUs have no float64
        error = float((theirs - mine).std()) / len(mine) ** 0.5 if len(mine) > 1 else 0.0
        return cls(float(theirs.mean()), float(mine.mean()), error)

    @property
    def the_other_way_round(self) -> Trial:
        """What the same examples show to the partner."""
        return Trial(self.mine, self.theirs, self.error)
