"""Choosing the next partner: at random among the live members, seldom those that count little or are slow."""

from __future__ import annotations

import random
import statistics
from collections.abc import Collection, Mapping

from p2p_elastic.peers.membership.liveness import Members, liveness
from p2p_elastic.protocol.records import PeerRecord

CHANCE_MIN = 0.2  # of a partner that counts nothing, against one that counts wholly
FAR = 3.0  # whose exchanges take more than so many times what is usual is slow;
USUAL_SECONDS_MIN = 0.5  # less than that is always usual
SLOW_CHANCE_MIN = 0.02  # of the slowest partner, against one that is as quick as usual


def usual_time(seconds: Collection[float], interval: float = 0.0) -> float:
    """What an exchange may take without being slow, divided by FAR: the median over partners, in seconds.

    It is no matter how long one takes that is over when our next one is due, `interval` seconds after it.
    """
    return max(statistics.median_low(seconds) if seconds else 0.0, USUAL_SECONDS_MIN, interval / FAR)


def chance_by_time(seconds: float, usual: float) -> float:
    """How often a partner is to be chosen, of 1, with which an exchange takes so many seconds.

    1, but for those that take more than FAR times what is usual. These are chosen in proportion, `usual / seconds`: so
    each costs us about as much time as any other, however thin its link; never less than SLOW_CHANCE_MIN.
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
) -> PeerRecord | None:
    """One of the live members that are not drained, at random; None where there is none.

    Where nobody is alive, a suspect is tried: better than nobody. The dead never are. Those that count less, by their
    own word or by our `trust` (1 where nothing is said), are chosen less often, but never not at all: they may be well
    again. So are those that are slow, `by_time` (`chance_by_time`; 1 where nothing is said): where others were asked
    before, in vain, it may come to nobody rather than to them. Who only sends (`receives` false) minds no weights:
    those that count less need it most.
    """
    states = {
        peer: liveness(member, now, announce_seconds) for peer, member in members.items() if not member.record.drained
    }
    wanted = "alive" if "alive" in states.values() else "suspect"
    candidates = sorted(peer for peer, state in states.items() if state == wanted and peer not in excluding)
    known, quick = trust or {}, by_time or {}
    if excluding and quick:  # otherwise slow ones, seldom busy with others, would be what is left
        candidates = [p for p in candidates if quick.get(p, 1.0) == 1.0 or rng.random() < quick[p]]
        quick = {}
    if not candidates:
        return None
    if not receives and not quick:
        return members[rng.choice(candidates)].record
    counted = {p: min(members[p].record.weight, known.get(p, 1.0)) if receives else 1.0 for p in candidates}
    chances = [(CHANCE_MIN + (1 - CHANCE_MIN) * counted[p]) * quick.get(p, 1.0) for p in candidates]
    return members[rng.choices(candidates, chances)[0]].record
