"""Which members are alive, suspect or dead: pure functions of what is known of them.

All times are this peer's own monotonic seconds: nothing here depends on what another machine's clock says.
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
SILENT_ANNOUNCEMENTS = 3.0  # a member that missed more announcements is suspect,
SILENT_ANNOUNCEMENTS_MAX = 6.0  # or at most this many if it announces irregularly;
DOUBTED = 2 / 3  # the share of that silence after which a suspect is dead,
DEAD_TIMES = 2.0  # times that silence, after which any member is dead
FAILURES_MAX = 2  # exchanges that failed since it was heard: dead
UNLISTED_SECONDS, UNLISTED_MAX = 600.0, 50  # how long, and how many, vanished members are remembered


class Member(NamedTuple):
    """Another peer of the run, and what came of it. Times are in this peer's own monotonic seconds.

    Attributes:
        record: its newest record.
        changed_at: when its record last changed.
        failures: exchanges with it that failed since it was heard.
        met_at: when it last answered this peer, or opened a stream to it.
        unlisted_at: since when the directory has no record of it; None if it has one.
        interval: the time between changes of its record.
    """

    record: PeerRecord
    changed_at: float
    failures: int = 0
    met_at: float = -math.inf
    unlisted_at: float | None = None
    interval: Estimate = UNKNOWN

    @property
    def heard_at(self) -> float:
        """When anything genuine last came from it."""
        return self.changed_at if self.changed_at > self.met_at else self.met_at  # of all members, at each look

    @property
    def vanished(self) -> bool:
        """Whether its record is gone, and nothing came from it since."""
        return self.unlisted_at is not None and self.heard_at <= self.unlisted_at


def silence_allowed(member: Member, announce_seconds: float) -> float:
    """Work out how long a member may be silent: `max(3 a, s + 4 d)`, at most `6 a`.

    a is how often members announce themselves, s and d are the smoothed interval at which its record was seen to change
    and
    the mean deviation of that: a member that announces irregularly, over a bad link, is given more time.

    Args:
        member: the member.
        announce_seconds: a, the time between two announcements.

    Returns:
        Seconds.
    """
    shown = member.interval.expected or 0.0
    longest = SILENT_ANNOUNCEMENTS_MAX * announce_seconds
    return min(max(SILENT_ANNOUNCEMENTS * announce_seconds, shown), longest)


def judge(member: Member, now: float, announce_seconds: float) -> tuple[Liveness, str]:
    """Judge a member, and say why. With S the silence allowed (`silence_allowed`):

    Dead: two exchanges failed since it was heard; or one did, or its record vanished, and it was silent for 2/3 S; or
    it
    was silent for 2 S. Suspect: one exchange failed, or its record vanished, or it was silent for S.

    Args:
        member: the member.
        now: this peer's own monotonic seconds.
        announce_seconds: the time between two announcements.

    Returns:
        Alive, suspect or dead; and the reasons, in words for people, empty if it is alive.
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
    """Judge a member: `judge` without the reason.

    Args:
        member: the member.
        now: this peer's own monotonic seconds.
        announce_seconds: the time between two announcements.

    Returns:
        Alive, suspect or dead.
    """
    heard_at = member.heard_at
    doubted = member.failures > 0 or (member.unlisted_at is not None and heard_at <= member.unlisted_at)
    silence = now - heard_at
    if not doubted and silence <= SILENT_ANNOUNCEMENTS * announce_seconds:
        return "alive"  # so are most
    allowed = silence_allowed(member, announce_seconds)
    if member.failures >= FAILURES_MAX or silence > (DOUBTED if doubted else DEAD_TIMES) * allowed:
        return "dead"
    return "suspect" if doubted or silence > allowed else "alive"


def is_gone(member: Member, now: float, announce_seconds: float) -> bool:
    """Whether a member was silent for too long to be waited for, whatever it holds or leads.

    Exchanges that failed are not enough: a member that announces itself is there for others, if not for this peer.

    Args:
        member: the member.
        now: this peer's own monotonic seconds.
        announce_seconds: the time between two announcements.

    Returns:
        True if its record vanished, or it was silent for S, or for 2/3 S after an exchange that failed.
    """
    doubted = member.failures > 0
    allowed = silence_allowed(member, announce_seconds) * (DOUBTED if doubted else 1.0)
    return member.vanished or now - member.heard_at > allowed


def observe(members: Members, records: Iterable[PeerRecord], now: float) -> dict[str, Member]:
    """Take in what the directory says now.

    A member that said goodbye is gone. One that vanished without a goodbye is remembered for a while. One that
    announced
    itself anew is alive. A record with an older sequence than the one known is a replay and changes nothing, unless
    every
    record of that life must have expired: then that peer began anew, with a clock that was set back.

    Args:
        members: those known before.
        records: all that the directory has.
        now: this peer's own monotonic seconds.

    Returns:
        The members from now on, by peer id.
    """
    after, listed = {}, set()
    for record in records:
        listed.add(record.peer)
        known = members.get(record.peer)
        if known is not None and not _is_newer(record, known, now):
            after[record.peer] = known if known.unlisted_at is None else known._replace(unlisted_at=None)
        elif not record.left:
            interval = UNKNOWN if known is None else known.interval.seen(now - known.changed_at)
            after[record.peer] = Member(record, now, interval=interval)
    return {**_remembered(members, listed, now), **after}


def _is_newer(record: PeerRecord, known: Member, now: float) -> bool:
    if record.sequence < known.record.sequence and not record.left:
        return now - known.changed_at > RECORD_SECONDS_MAX
    return record.sequence > known.record.sequence


def _remembered(members: Members, listed: Collection[str], now: float) -> dict[str, Member]:
    """The members without a record, the latest UNLISTED_MAX of them."""
    unlisted = [
        (now if member.unlisted_at is None else member.unlisted_at, peer)
        for peer, member in members.items()
        if peer not in listed
    ]
    kept = sorted((since, peer) for since, peer in unlisted if now - since <= UNLISTED_SECONDS)[-UNLISTED_MAX:]
    return {peer: members[peer]._replace(unlisted_at=since) for since, peer in kept}


def suspected(members: Members, peer: str) -> Members:
    """Take in an exchange that failed.

    Args:
        members: those known before.
        peer: the partner; one that is no member changes nothing.

    Returns:
        The members, with one more failure of that one.
    """
    if peer not in members:
        return members
    return {**members, peer: members[peer]._replace(failures=members[peer].failures + 1)}


def heard(members: Members, peer: str, now: float) -> Members:
    """Take in a sign of life: a member answered this peer, or asked it something.

    Args:
        members: those known before.
        peer: the member; one that is none changes nothing.
        now: this peer's own monotonic seconds.

    Returns:
        The members; that one has no failures any more.
    """
    if peer not in members:
        return members
    return {**members, peer: members[peer]._replace(failures=0, met_at=now)}


def shown(member: Member, now: float, looked_at: float, announce_seconds: float) -> MemberStatus:
    """Show a member to people.

    Args:
        member: the member.
        now: this peer's own monotonic seconds.
        looked_at: when the directory last answered, by the same clock; the state is that of this moment.
        announce_seconds: the time between two announcements.

    Returns:
        Its status, as `/v1/status` shows it.
    """
    record, said = member.record, member.record.software
    return MemberStatus(
        peer=record.peer,
        addresses=record.places,
        version=said.version if said else None,
        protocol=said.protocol if said else None,
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
    """Work out how much this peer counts for a partner, before its signals.

    A newcomer copies the first partner that counts instead of pulling it back to where training began.

    Args:
        newcomer: whether this peer joined a run that was under way, and has not caught up.
        step: how many steps it has made.
        members: the other members.

    Returns:
        0 for a newcomer while any member is ahead of it, otherwise 1.
    """
    return 0.0 if newcomer and any(is_ahead(member.record, step) for member in members.values()) else 1.0


def is_ahead(record: PeerRecord, step: int) -> bool:
    """Whether a member has trained for longer, or has a centre variable that has moved.

    Args:
        record: what the member says of itself.
        step: how many steps this peer has made.

    Returns:
        True if it is worth copying for a newcomer.
    """
    return record.step > step or (record.centre is not None and record.centre.stamp.clock > 0)
