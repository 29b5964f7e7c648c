"""Whether two models that trained apart can meet in the middle: tried on our own examples before anything moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from torch import Tensor

from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.rules.base import ExchangeRule, Facts, State
from p2p_elastic.rules.merging import is_barrier
from p2p_elastic.rules.trial import Trial


def guards(rule: ExchangeRule, mine: Facts, theirs: Facts) -> bool:
    """Whether halves are merging, as far as the headers say: then each move is tried before it is made."""
    return rule.merges and (mine.apart is not None or theirs.apart is not None)


def landing(rule: ExchangeRule, state: State, vectors: Vectors, mine: Facts, theirs: Facts) -> Tensor:
    """Where the exchange would lead us [D], were the partner trusted. The state stays as it is."""
    move, _ = rule.move(vectors.theirs - vectors.mine, state, mine=mine, theirs=theirs)
    return move.add_(vectors.mine)


async def with_barrier(
    examine: Callable[[Tensor, Tensor], Awaitable[Trial | None]],
    where: Tensor,
    vectors: Vectors,
    ends: Trial,
    first_loss: float | None,
) -> Trial:
    """`ends`, and whether the loss at `where` [D] is clearly worse than that of both.

    `first_loss` is where training began, in nats.
    """
    worse = vectors.theirs if ends.theirs > ends.mine else vectors.mine
    trial = await examine(where, worse)
    return ends._replace(barrier=trial is not None and is_barrier(trial, first_loss))
