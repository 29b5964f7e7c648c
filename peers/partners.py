"""Who could be the next partner: pure functions of what is known of the members of the run."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from p2p_elastic.peers.records import RECORD_SECONDS_MAX, PeerRecord

Members = Mapping[str, "Member"]
CHANCE_MIN = 0.2  # of a partner that counts nothing, against one that counts wholly


class Member(NamedTuple):
    """Another peer of the run, and since when we know this of it (our own monotonic seconds)."""

    record: PeerRecord
    changed_at: float
    suspect: bool = False


def observe(members: Members, records: Iterable[PeerRecord], now: float) -> dict[str, Member]:
    """The members after reading the directory.

    Who is not listed any more or said goodbye is gone. A suspect is alive again once it announced itself anew; a record
    with an older sequence than the one we know is a replay and changes nothing; but not once the known one is older
    than any entry may live: then it is the same identity, begun anew on a machine whose clock is behind.
    """
    after = {}
    for record in records:
        known = members.get(record.peer)
        older = known is not None and record.sequence < known.record.sequence
        if known is not None and record.sequence <= known.record.sequence and not (older and _outlived(known, now)):
            after[record.peer] = known
        elif not record.left:
            after[record.peer] = Member(record, now)
    return after


def _outlived(member: Member, now: float) -> bool:
    return now - member.changed_at > RECORD_SECONDS_MAX


def suspected(members: Members, peer: str) -> dict[str, Member]:
    """The members after a failed exchange with `peer`: it is not chosen until it announces itself anew."""
    after = dict(members)
    if peer in after:
        after[peer] = after[peer]._replace(suspect=True)
    return after


def choose_partner(
    members: Members,
    rng: random.Random,
    *,
    excluding: Collection[str] = (),
    trust: Mapping[str, float] | None = None,
    receives: bool = True,
) -> PeerRecord | None:
    """One of the live members that are not drained, at random; None where there is none.

    Those that count less, by their own word or by our `trust` (1 where nothing is said), are chosen less often, but
    never not at all: they may be well again. Who only sends (`receives` false) chooses all alike: those that count less
    need it most.
    """
    candidates = sorted(
        peer
        for peer, member in members.items()
        if not member.suspect and not member.record.drained and peer not in excluding
    )
    if not candidates:
        return None
    if not receives:
        return members[rng.choice(candidates)].record
    known = trust or {}
    chances = [CHANCE_MIN + (1 - CHANCE_MIN) * min(members[p].record.weight, known.get(p, 1.0)) for p in candidates]
    return members[rng.choices(candidates, chances)[0]].record


def own_weight(newcomer: bool, step: int, members: Members) -> float:
    """How much we count for a partner: 0 for a newcomer while anybody is ahead of it, otherwise 1.

    A newcomer copies the first partner that counts instead of pulling it back to where training began.
    """
    return 0.0 if newcomer and any(_is_ahead(member.record, step) for member in members.values()) else 1.0


def _is_ahead(record: PeerRecord, step: int) -> bool:
    return record.step > step or (record.centre is not None and record.centre.stamp.clock > 0)
