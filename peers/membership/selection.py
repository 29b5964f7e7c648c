"""Choosing the next partner: at random among the live members, seldom those that count little or are slow."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Collection, Mapping

from p2p_elastic.health.trust import chance
from p2p_elastic.peers.membership.liveness import Members, liveness
from p2p_elastic.protocol.records import PeerRecord

FAR = 3.0  # a partner is slow if its exchanges take more than FAR times what is usual;
USUAL_SECONDS_MIN = 0.5  # less is always usual
UNHEARD_SHARE = 0.05  # of the choices, for all members together that never answered
SLOW_CHANCE_MIN = 0.02  # of the slowest partner, against one that is as quick as usual


def usual_time(seconds: Collection[float], interval: float = 0.0) -> float:
    """Work out what an exchange may take without being slow, divided by FAR: the median over partners.

    An exchange that is over when this peer's next one is due is never slow, however long it takes.

    Args:
        seconds: what an exchange takes, of each partner; empty if nothing is known.
        interval: the time between two exchanges of this peer, in seconds.

    Returns:
        Seconds, at least USUAL_SECONDS_MIN.

    Example:
        >>> usual_time([1.0, 2.0, 60.0]), usual_time([]), usual_time([1.0], interval=30.0)
        (2.0, 0.5, 10.0)
    """
    return max(statistics.median_low(seconds) if seconds else 0.0, USUAL_SECONDS_MIN, interval / FAR)


def chance_by_time(seconds: float, usual: float) -> float:
    """Work out how often a partner is to be chosen, by how long an exchange with it takes.

    Slow ones are chosen in proportion, `usual / seconds`: so each costs this peer about as much time as any other,
    however
    thin its link.

    Args:
        seconds: what an exchange with the partner takes.
        usual: what is usual, as `usual_time` says.

    Returns:
        1 up to FAR times what is usual; less above, but never less than SLOW_CHANCE_MIN.

    Example:
        >>> chance_by_time(3.0, 1.0), chance_by_time(10.0, 1.0), chance_by_time(1000.0, 1.0)
        (1.0, 0.1, 0.02)
    """
    return max(SLOW_CHANCE_MIN, usual / seconds) if seconds > FAR * usual else 1.0


def choose_partner(
    members: Members,
    rng: random.Random,
    *,
    now: float,
    announce_seconds: float,
    excluding: Collection[str] = (),
    trust: Mapping[str, float] | None = None,
    by_time: Mapping[str, float] | None = None,
    receives: bool = True,
    answered: Callable[[str], bool] = lambda _peer: True,
    unheard: float = UNHEARD_SHARE,
) -> PeerRecord | None:
    """Choose one of the live members that are available, at random.

    If nobody is alive, a suspect is tried: better than nobody. The dead never are. Members that count less, by their
    own word or by `trust`, are chosen less often, but never not at all: they may be well again. So are slow ones, by
    `by_time`; if others were asked before, in vain, it may come to nobody rather than to a slow one. Members that never
    answered are chosen in a small share of the cases, all of them together, and nobody rather than one of them if those
    that answer cannot be asked now: anybody can announce many that are not there.

    Args:
        members: the other members, by peer id.
        rng: draws the partner.
        now: this peer's own monotonic seconds.
        announce_seconds: the time between two announcements.
        excluding: members that were asked before for the same exchange.
        trust: peer id -> how much this peer trusts it, 0 to 1; 1 if nothing is said.
        by_time: peer id -> its chance by `chance_by_time`; 1 if nothing is said.
        receives: False if this peer only sends: then weights do not matter, since those that count less need it most.
        answered: peer id -> whether anything ever came from it.
        unheard: the share for those of which nothing did; 0: none of them is chosen, unless nobody answered.

    Returns:
        The partner's record; None if there is none.
    """
    states = {
        peer: liveness(member, now, announce_seconds) for peer, member in members.items() if member.record.available
    }
    wanted = "alive" if "alive" in states.values() else "suspect"
    candidates = sorted(peer for peer, state in states.items() if state == wanted and peer not in excluding)
    known, quick = trust or {}, by_time or {}
    if excluding and quick:  # otherwise slow ones, seldom busy with others, would be what is left
        candidates = [p for p in candidates if quick.get(p, 1.0) == 1.0 or rng.random() < quick[p]]
        quick = {}
    if not candidates:
        return None
    heard = [answered(peer) for peer in candidates]
    if not any(heard) and any(map(answered, states)) and rng.random() >= unheard:
        return None  # those that answer were asked already, or are busy
    if not receives and not quick and all(heard):
        return members[rng.choice(candidates)].record
    counted = {p: min(members[p].record.weight, known.get(p, 1.0)) if receives else 1.0 for p in candidates}
    chances = [chance(counted[p]) * quick.get(p, 1.0) for p in candidates]
    return members[rng.choices(candidates, _fewer_unheard(chances, heard, unheard))[0]].record


def _fewer_unheard(chances: list[float], heard: list[bool], share: float) -> list[float]:
    """Lower the chances of those that never answered, unless nobody did."""
    ours = sum(chance for chance, one in zip(chances, heard, strict=True) if one)
    theirs = sum(chances) - ours
    most = ours * share / (1.0 - share)
    if not ours or most >= theirs:
        return chances
    return [chance if one else chance * most / theirs for chance, one in zip(chances, heard, strict=True)]
