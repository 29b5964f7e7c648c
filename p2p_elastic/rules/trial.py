"""A trial: two peers' parameters on the same examples."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

ERRORS = 2.0  # standard errors that chance may make
FLOOR = 0.05  # of the loss where training began: below it differences are no harm


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
