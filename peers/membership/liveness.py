"""Who could be the next partner: pure functions of what is known of the members of the run.

All times are our own monotonic seconds: nothing here depends on what another machine's clock says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from p2p_elastic.peers.session.deadlines import UNKNOWN, Estimate
from p2p_elastic.protocol.records import RECORD_SECONDS_MAX, PeerRecord
from p2p_elastic.status.schema import MemberStatus

Members = Mapping[str, "Member"]
Liveness = Literal["alive", "suspect", "dead"]
SILENT_ANNOUNCEMENTS = 3.0  # who missed so many announcements is suspect,
SILENT_ANNOUNCEMENTS_MAX = 6.0  # so many where it announces irregularly;
DOUBTED = 2 / 3  # the share of that silence after which a suspect is dead,
DEAD_TIMES = 2.0  # and how many times that silence anybody is
FAILURES_MAX = 2  # exchanges that failed since it was heard: dead
UNLISTED_SECONDS, UNLISTED_MAX = 600.0, 50  # so long, and so many, are remembered that vanished without a goodbye


class Member(NamedTuple):
    """Another peer of the run, and what came of it (times in our own monotonic seconds)."""

    record: PeerRecord
    changed_at: float  # when its record last changed
    failures: int = 0  # exchanges with it that failed since it was heard
    met_at: float = -math.inf  # when it last answered us, or opened a stream to us
    unlisted_at: float | None = None  # since when the directory has no record of it
    interval: Estimate = UNKNOWN  # between changes of its record

    @property
    def heard_at(self) -> float:
        """When anything genuine last came from it."""
        return max(self.changed_at, self.met_at)

    @property
    def vanished(self) -> bool:
        """Whether its record is gone, and nothing came from it since."""
        return self.unlisted_at is not None and self.heard_at <= self.unlisted_at


def silence_allowed(member: Member, announce_seconds: float) -> float:
    """How long a member may be silent, in seconds: `max(3 a, s + 4 d)`, at most `6 a`.

    a is how often members announce themselves, s and d are the smoothed interval at which its record was seen to
    change and the mean deviation of that: who announces irregularly, over a bad link, is given more time.
    """
    shown = member.interval.expected or 0.0
    longest = SILENT_ANNOUNCEMENTS_MAX * announce_seconds
    return min(max(SILENT_ANNOUNCEMENTS * announce_seconds, shown), longest)


def judge(member: Member, now: float, announce_seconds: float) -> tuple[Liveness, str]:
    """Alive, suspect or dead, and why. With S the silence allowed (`silence_allowed`):

    dead: two exchanges failed since it was heard; or one did, or its record vanished, and it was silent for 2/3 S;
    or it was silent for 2 S. Suspect: one exchange failed, or its record vanished, or it was silent for S.
    """
    state = liveness(member, now, announce_seconds)
    if state == "alive":
        return state, ""
    silence, allowed = now - member.heard_at, silence_allowed(member, announce_seconds)
    why = []
    if member.failures:
        why.append(f"{member.failures} exchange{'s' if member.failures > 1 else ''} with it failed")
    if member.vanished:
        why.append("its record is gone")
    if silence > DOUBTED * allowed:
        why.append(f"nothing came from it for {silence:.0f} s")
    return state, ", ".join(why)


def liveness(member: Member, now: float, announce_seconds: float) -> Liveness:
    """Whether a member is there: `judge` without the reason. Times in our own monotonic seconds."""
    silence, allowed = now - member.heard_at, silence_allowed(member, announce_seconds)
    doubted = member.failures > 0 or member.vanished
    if member.failures >= FAILURES_MAX or silence > (DOUBTED if doubted else DEAD_TIMES) * allowed:
        return "dead"
    return "suspect" if doubted or silence > allowed else "alive"


def is_gone(member: Member, now: float, announce_seconds: float) -> bool:
    """Whether a member was silent for too long to be waited for, whatever it holds or leads.

    Exchanges that failed are not enough: who announces itself is there for others, if not for us.
    """
    doubted = member.failures > 0
    allowed = silence_allowed(member, announce_seconds) * (DOUBTED if doubted else 1.0)
    return member.vanished or now - member.heard_at > allowed


def observe(members: Members, records: Iterable[PeerRecord], now: float) -> dict[str, Member]:
    """The members after reading the directory.

    Who said goodbye is gone. Who vanished without one is remembered for a while. Whoever announced itself anew is
    alive; a record with an older sequence than the one we know is a replay and changes nothing, unless every record of
    that life must have expired: then that peer began anew, with a clock that was set back.
    """
    after, listed = {}, set()
    for record in records:
        listed.add(record.peer)
        known = members.get(record.peer)
        if known is not None and not _is_newer(record, known, now):
            after[record.peer] = known._replace(unlisted_at=None)
        elif not record.left:
            interval = UNKNOWN if known is None else known.interval.seen(now - known.changed_at)
            after[record.peer] = Member(record, now, interval=interval)
    return {**_remembered(members, listed, now), **after}


def _is_newer(record: PeerRecord, known: Member, now: float) -> bool:
    if record.sequence < known.record.sequence and not record.left:
        return now - known.changed_at > RECORD_SECONDS_MAX
    return record.sequence > known.record.sequence


def _remembered(members: Members, listed: Collection[str], now: float) -> dict[str, Member]:
    """Those without a record, the latest UNLISTED_MAX of them."""
    unlisted = [
        (now if member.unlisted_at is None else member.unlisted_at, peer)
        for peer, member in members.items()
        if peer not in listed
    ]
    kept = sorted((since, peer) for since, peer in unlisted if now - since <= UNLISTED_SECONDS)[-UNLISTED_MAX:]
    return {peer: members[peer]._replace(unlisted_at=since) for since, peer in kept}


def suspected(members: Members, peer: str) -> Members:
    """The members after a failed exchange with `peer`."""
    if peer not in members:
        return members
    return {**members, peer: members[peer]._replace(failures=members[peer].failures + 1)}


def heard(members: Members, peer: str, now: float) -> Members:
    """The members after `peer` answered us, or asked us something: it is there."""
    if peer not in members:
        return members
    return {**members, peer: members[peer]._replace(failures=0, met_at=now)}


def shown(member: Member, now: float, looked_at: float, announce_seconds: float) -> MemberStatus:
    """What people see of a member; the directory last answered at `looked_at`."""
    record = member.record
    return MemberStatus(
        peer=record.peer,
        addresses=record.addresses,
        state=liveness(member, looked_at, announce_seconds),
        step=record.step,
        loss=record.loss,
        weight=record.weight,
        drained=record.drained,
        steps_per_second=record.steps_per_second,
        partners=record.partners,
        age_seconds=max(0.0, now - member.changed_at),
        heard_seconds=max(0.0, now - member.heard_at),
    )


def own_weight(newcomer: bool, step: int, members: Members) -> float:
    """How much we count for a partner: 0 for a newcomer while anybody is ahead of it, otherwise 1.

    A newcomer copies the first partner that counts instead of pulling it back to where training began.
    """
    return 0.0 if newcomer and any(is_ahead(member.record, step) for member in members.values()) else 1.0


def is_ahead(record: PeerRecord, step: int) -> bool:
    return record.step > step or (record.centre is not None and record.centre.stamp.clock > 0)
