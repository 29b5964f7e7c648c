"""Which member is the centre, and which one is next when it is gone.

When the centre is gone, the member with the freshest copy takes its place, with the next term; if it does not, the next
one in line does (`succession`). Each member judges for itself from the same records. If two claim the place, the higher
term stands, then the smaller peer id (`rightful`). A peer that sees no other member claims nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from p2p_elastic.peers.membership.liveness import Members, is_gone
from p2p_elastic.protocol.messages import Stamp


class Candidate(NamedTuple):
    """A member and its claim to the centre.

    Attributes:
        peer: its id.
        stamp: how fresh its copy is.
        seated: whether it says that it is the centre.
    """

    peer: str
    stamp: Stamp
    seated: bool


def rightful(candidates: Iterable[Candidate]) -> Candidate | None:
    """Choose the centre whose claim stands.

    Args:
        candidates: members, whether they claim to be the centre or not.

    Returns:
        Of those that claim it, the one of the highest term, then of the smaller id; None if nobody claims it.

    Example:
        >>> claims = [Candidate("a", Stamp(term=1), True), Candidate("b", Stamp(term=2), True)]
        >>> rightful(claims).peer
        'b'
    """
    seated = [c for c in candidates if c.seated]
    return min(seated, key=lambda c: (-c.stamp.term, c.peer)) if seated else None


def succession(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Order the candidates for a vacant place: the freshest copy first, then the smaller peer id.

    Args:
        candidates: members that could be the centre.

    Returns:
        The first one is the heir; the next one follows if it does not take the place.

    Example:
        >>> copies = {"a": Stamp(term=1, clock=7), "b": Stamp(term=1, clock=9), "c": Stamp(term=1, clock=7)}
        >>> [c.peer for c in succession(Candidate(peer, stamp, False) for peer, stamp in copies.items())]
        ['b', 'a', 'c']
    """
    return sorted(candidates, key=lambda c: (-c.stamp.term, -c.stamp.clock, c.peer))


def candidates(members: Members, now: float, announce_seconds: float) -> Iterator[Candidate]:
    """List the other members that are present and could be, or are, the centre.

    Args:
        members: all that are known.
        now: in monotonic seconds.
        announce_seconds: how often members announce themselves.

    Yields:
        Members with a claim and the same protocol; not a drained one, unless it is the centre.
    """
    for peer, member in members.items():
        claim = member.record.centre
        if claim is None or not member.record.same_protocol or is_gone(member, now, announce_seconds):
            continue
        if claim.seated or not member.record.drained:  # a drained centre goes once another can come
            yield Candidate(peer, claim.stamp, claim.seated)
