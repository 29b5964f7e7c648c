"""Whether two models that trained apart can meet in the middle: tried on this peer's examples before either moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from torch import Tensor

from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.rules.base import ExchangeRule, Facts, State
from p2p_elastic.rules.merging import is_barrier
from p2p_elastic.rules.trial import Trial


def guards(rule: ExchangeRule, mine: Facts, theirs: Facts) -> bool:
    """Whether halves of a swarm are merging, as far as the headers say: then each move is tried before it is made.

    Args:
        rule: the run's rule; one that does not merge never guards.
        mine: what this peer says of itself.
        theirs: what the partner says of itself.

    Returns:
        True if either end was apart from the other.
    """
    return rule.merges and (mine.apart is not None or theirs.apart is not None)


def landing(rule: ExchangeRule, state: State, vectors: Vectors, mine: Facts, theirs: Facts) -> Tensor:
    """Work out where the exchange would lead this peer if the partner were trusted; the state stays as it is.

    Args:
        rule: the run's rule.
        state: what the rule remembers.
        vectors: both models whole, `[D]`.
        mine: what this peer says of itself.
        theirs: what the partner says of itself.

    Returns:
        The parameters, `[D]`, in new memory.
    """
    move, _ = rule.move(vectors.theirs - vectors.mine, state, mine=mine, theirs=theirs)
    return move.add_(vectors.mine)


async def with_barrier(
    examine: Callable[[Tensor, Tensor], Awaitable[Trial | None]],
    where: Tensor,
    vectors: Vectors,
    ends: Trial,
    first_loss: float | None,
) -> Trial:
    """Find out whether the loss between two models is clearly worse than that of both.

    Args:
        examine: measures two vectors on this peer's own examples; None if it cannot.
        where: the point between them, `[D]`.
        vectors: both models whole, `[D]`.
        ends: the losses of both, measured before.
        first_loss: where training began, in nats; None if it is not known.

    Returns:
        `ends`, with `barrier` set.
    """
    worse = vectors.theirs if ends.theirs > ends.mine else vectors.mine
    trial = await examine(where, worse)
    return ends._replace(barrier=trial is not None and is_barrier(trial, first_loss))
