"""The rules of the papers for two peers, or a peer and a centre: pairs of pure functions (`base.py`)."""

from __future__ import annotations

from p2p_elastic.rules.base import ExchangeRule, Facts, State, check_rate, stateless


def pull(moving_rate: float, mine: float, theirs: float) -> float:
    """The share of the distance that the end with weight `mine` moves towards the end with weight `theirs`.

    Equal weights give the symmetric rule's alpha at both ends; other weights share out the same total, 2 alpha.
    A weight of 0 is a newcomer's: it copies a partner that counts, and does not disturb it.

    Args:
        moving_rate: alpha, what two ends of equal weight move.
        mine: the weight of the end that moves, 0 to 1.
        theirs: the weight of the end that it moves towards, 0 to 1.

    Returns:
        0 to 1.

    Example:
        >>> pull(0.5, 1.0, 1.0), pull(0.5, 0.0, 1.0), pull(0.5, 1.0, 0.0)
        (0.5, 1.0, 0.0)
    """
    if mine == theirs:
        return moving_rate
    if mine == 0.0 or theirs == 0.0:
        return 1.0 if mine == 0.0 else 0.0
    return min(1.0, 2.0 * moving_rate * theirs / (mine + theirs))


def believed_pull(moving_rate: float, mine: Facts, theirs: Facts) -> float:
    """`pull` by the weights in the two headers, less if this end's own measurements do not bear out theirs.

    Both ends compute the same from the headers; distrust only ever shortens this end's move, so that whatever an end
    measures or claims, the two moves together stay within `pull`'s.

    Args:
        moving_rate: alpha.
        mine: what this end says of itself.
        theirs: what the other end says of itself, with `trust` and `clip` as this end measured them.

    Returns:
        The share of the distance that this end moves; 0 if it does not trust the other at all.
    """
    if theirs.trust <= 0.0:
        return 0.0
    agreed = pull(moving_rate, mine.weight, theirs.weight)
    return theirs.clip * min(agreed, pull(moving_rate, mine.weight, min(theirs.weight, theirs.trust)))


def elastic(moving_rate: float = 0.5) -> ExchangeRule:
    """Elastic Gossip, and EASGD's exchange with the centre: both ends pull each other by alpha times the difference.

        x^i <- x^i + alpha (x^k - x^i)        x^k <- x^k - alpha (x^k - x^i)

    Conserves the sum of the two vectors: the moves are negatives of each other bit for bit. alpha = 0.5 is exact
    averaging of the pair, alpha = 0 no communication. Above 0.5 the two moves together exceed the distance
    (over-relaxation); the difference still contracts, by |1 - 2 alpha|.

    If an end makes d exchanges with the same snapshot, its moves add up to alpha times the sum of the differences.
    Then alpha is capped at 1/d, with the larger d of the two ends: the Laplacian's eigenvalues stay at 2 or below, so
    peers never drive each other apart (a hub with alpha = 0.5 would, from four partners on).

    Source: Pramod, Elastic Gossip, arXiv 1812.02407 (the thesis finds the optimum at alpha in 0.25..0.5); Zhang et al.,
    EASGD, arXiv 1412.6651, Algorithm 1 a), b).

    Args:
        moving_rate: alpha, from 0 up to, not including, 1.

    Returns:
        A rule without state.

    Raises:
        ConfigError: if moving_rate is not in [0, 1).

    Example:
        >>> import torch
        >>> rule, end = elastic(0.25), Facts(step=1, loss=None, weight=1.0)
        >>> rule.move(torch.tensor([4.0]), None, mine=end, theirs=end)[0]
        tensor([1.])
    """
    check_rate("moving-rate", moving_rate)

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        partners = max(mine.partners, theirs.partners)
        rate = min(moving_rate, 1.0 / partners) if partners > 1 else moving_rate
        return believed_pull(rate, mine, theirs), state

    return ExchangeRule(init=stateless, update=update)


def follow(moving_rate: float = 0.5) -> ExchangeRule:
    """The end that asked moves by `moving_rate` times the difference; the partner stays.

        x^i <- x^i + lambda (x^k - x^i)

    With 1/2 this is Gossiping SGD's pull (Jin et al., arXiv 1611.04581); with x^k the leader it is Leader SGD's pull,
    applied after the gradient step, without the learning rate in it (Teng et al., arXiv 1905.10395, Algorithm 1).
    Not symmetric: the sum of the two vectors changes.

    Args:
        moving_rate: lambda, from 0 to 1, which copies.

    Returns:
        A rule without state.

    Raises:
        ConfigError: if moving_rate is not in [0, 1].
    """
    return _one_sided(moving_rate, asker_moves=True)


def receive(moving_rate: float = 0.5) -> ExchangeRule:
    """The end that was asked moves by `moving_rate` times the difference to what it received; the sender stays.

    With 1/2 this is Gossiping SGD's push (Jin et al., arXiv 1611.04581). Not symmetric.

    Args:
        moving_rate: from 0 to 1, which copies.

    Returns:
        A rule without state.

    Raises:
        ConfigError: if moving_rate is not in [0, 1].
    """
    return _one_sided(moving_rate, asker_moves=False)


def _one_sided(moving_rate: float, *, asker_moves: bool) -> ExchangeRule:
    check_rate("moving-rate", moving_rate, copies=True)

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        moves = mine.asked is asker_moves
        return (believed_pull(moving_rate, mine, theirs) if moves else 0.0), state

    return ExchangeRule(init=stateless, update=update)


def sum_weight() -> ExchangeRule:
    """GoSGD: push gossip with sum weights, which conserves the weighted mean of all peers.

        sender     a_s <- a_s / 2, sends (x_s, a_s);   one that leaves sends all of it, and a_s <- 0
        receiver   x_r <- (a_r x_r + a_s x_s) / (a_r + a_s);   a_r <- a_r + a_s

    The state is a (a float), which begins at 1: only ratios count, so no peer needs to know how many peers there are.
    The sum of a over all peers is conserved.

    Source: Blot et al., GoSGD, arXiv 1611.09726.

    Returns:
        A rule whose state is a.
    """

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        if mine.asked:
            return 0.0, state - mine.share
        if min(theirs.weight, theirs.trust) == 0.0 < mine.weight:  # nothing to follow; but no share must be lost
            return 0.0, state + theirs.share
        total = state + theirs.share
        if total == 0.0:  # halved away to nothing at both ends
            return 0.0, state
        merged = theirs.share / total if mine.weight > 0.0 or theirs.weight == 0.0 else 1.0
        believed = min(theirs.weight, theirs.trust) if mine.weight > 0.0 else theirs.trust
        return theirs.clip * merged * believed, total

    return ExchangeRule(
        init=lambda _vector: 1.0, update=update, share=lambda state: float(state) / 2, share_of_leaver=float
    )


def stay() -> ExchangeRule:
    """No communication: neither end moves.

    Returns:
        A rule without state whose share is always 0.
    """

    def update(distance: float, state: State, *, mine: Facts, theirs: Facts) -> tuple[float, State]:  # noqa: ARG001
        return 0.0, state

    return ExchangeRule(init=stateless, update=update)
