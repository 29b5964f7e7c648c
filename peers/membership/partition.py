"""Who of the run was lost without a goodbye, whether that is a partition, and what stands behind us since.

A member of which nothing was heard for several announcements, by record or exchange, is lost; one that announces itself
anew is back. Several that vanish together are a partition: they crashed together, or the network is split. A single one
of many is a crash. When lost ones come back, both ends say in their headers what they did meanwhile (`merging.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from p2p_elastic.peers.membership.liveness import DOUBTED, SILENT_ANNOUNCEMENTS, Member, Members
from p2p_elastic.protocol.messages import PEERS_MAX, Apart
from p2p_elastic.rules.base import Stake
from p2p_elastic.status.schema import PartitionStatus

WINDOW_ANNOUNCEMENTS = 6.0  # who is lost within so long vanished together: 30 s where peers announce every 5 s
HEALING_ANNOUNCEMENTS = 120.0  # for so long after somebody came back each move is tried before it is made: 10 minutes
FORGOTTEN_SECONDS = 3600.0
LOST_MAX = 1000
TOGETHER_MIN, SHARE_MIN = 2, 0.25  # so many, and so large a part of those that were there, are a partition


class Seen(NamedTuple):
    """The last sign of life of a member: its record's sequence; when, in our own monotonic seconds; our own step."""

    sequence: int
    at: float
    step: int


class Absence(NamedTuple):
    """A member that was lost, and since when. `stake` is there once it is back: what stands behind us until then."""

    noticed_at: float
    silent_since: float
    step: int  # ours at its last sign of life
    stake: Stake | None = None
    counted: bool = False  # in a partition


class Partition(NamedTuple):
    """Members that vanished together, of `before` others; noticed, and silent, since; our step at that time.

    `away` of them are so still; `left` other members are there.
    """

    lost: frozenset[str]
    before: int
    noticed_at: float
    silent_since: float
    step: int
    away: int
    left: int


def is_lost(seen: Seen, member: Member | None, now: float, announce_seconds: float) -> bool:
    """Whether nothing was heard of a member for too long; None: it is not listed any more.

    As `partners.is_gone`, but without more time for those that announce themselves irregularly: half of a swarm that
    is cut off has to be seen as one.
    """
    doubted = member is not None and member.failures > 0
    announcements = SILENT_ANNOUNCEMENTS * (DOUBTED if doubted else 1.0)
    return now - seen.at > announcements * announce_seconds


def vanished_together(lost: Iterable[str], alive: int) -> frozenset[str]:
    """Those `lost` within one window, where they are a partition and no crash of a single one; `alive` are left."""
    gone = frozenset(lost)
    enough = len(gone) >= TOGETHER_MIN and len(gone) >= SHARE_MIN * (len(gone) + alive)
    return gone if gone and (enough or alive == 0) else frozenset()


class Absences:
    """Keeps who is lost. Belongs to the network thread; `partition` may be read from any.

    Memory: one entry per member, and per lost one, of whom LOST_MAX are kept for an hour.
    """

    def __init__(self, announce_seconds: float) -> None:
        self._announce_seconds = announce_seconds
        self._seen: dict[str, Seen] = {}
        self._absent: dict[str, Absence] = {}  # those that came back and did not exchange with us yet, too
        self._behind: tuple[Stake, float] | None = None  # the last stake, and until when we say it to everybody
        self.partition: Partition | None = None

    @property
    def seen(self) -> Collection[str]:
        """Of whom a sign of life is remembered."""
        return self._seen.keys()

    @property
    def absent(self) -> Collection[str]:
        """Who is lost, or came back and did not exchange with us yet; LOST_MAX at most."""
        return self._absent.keys()

    def status(self, now: float, step: int) -> PartitionStatus | None:
        """What people see of the partition; None where there is none. `step` is ours."""
        split = self.partition
        if split is None:
            return None
        return PartitionStatus(
            lost=len(split.lost),
            before=split.before,
            away=split.away,
            left=split.left,
            seconds=max(0.0, now - split.silent_since),
            steps=max(0, step - split.step),
        )

    # -- signs of life ------------------------------------------------------------------------------------------------

    def look(self, members: Members, now: float, step: int) -> None:
        """Judge who is lost and who is back; to be called as often as members are read, also where that fails."""
        for peer, member in members.items():
            known = self._seen.get(peer)
            if not member.vanished and (known is None or member.record.sequence > known.sequence):
                self._heard(peer, member.record.sequence, now, step)
        for peer, seen in list(self._seen.items()):
            absence = self._absent.get(peer)
            away = absence is not None and absence.stake is None
            if not away and is_lost(seen, members.get(peer), now, self._announce_seconds):
                self._lose(peer, seen, now)
        self._forget(now)
        self._judge(now)

    def _lose(self, peer: str, seen: Seen, now: float) -> None:
        before = self._absent.pop(peer, None)  # lost again, before an exchange: what was first counts
        since = seen if before is None else seen._replace(at=before.silent_since, step=before.step)
        self._absent[peer] = Absence(now, since.at, since.step)

    def _heard(self, peer: str, sequence: int, now: float, step: int) -> None:
        seen = self._seen.get(peer)
        if seen is not None and peer not in self._absent and is_lost(seen, None, now, self._announce_seconds):
            self._lose(peer, seen, now)  # we were not there ourselves, such as a suspended machine
        absence = self._absent.get(peer)
        if absence is not None and absence.stake is None:
            stake = self._stake_since(absence.step, step)
            self._absent[peer] = absence._replace(stake=stake)
            self._say(stake, now)
        self._seen[peer] = Seen(sequence, now, step)

    def _say(self, stake: Stake, now: float) -> None:
        self._behind = stake._replace(merge=False), now + HEALING_ANNOUNCEMENTS * self._announce_seconds

    def _stake_since(self, since: int, step: int) -> Stake:
        present = sum(peer not in self._absent for peer in self._seen)
        return Stake(max(0, step - since), min(1 + present, PEERS_MAX))

    def met(self, peer: str, now: float, step: int) -> None:
        """An exchange with it completed: it is there, and we are apart no more."""
        seen = self._seen.get(peer)
        if seen is not None:
            self._seen[peer] = Seen(seen.sequence, now, step)
        self._absent.pop(peer, None)

    def left(self, peer: str, sequence: int) -> None:
        """It said goodbye in a record of that sequence: nobody waits for it."""
        seen = self._seen.get(peer)
        if seen is not None and sequence > seen.sequence:
            self._seen.pop(peer)
            self._absent.pop(peer, None)

    def _forget(self, now: float) -> None:
        excess = len(self._absent) - LOST_MAX  # the first that were lost go first
        for place, (peer, absence) in enumerate(list(self._absent.items())):
            if place < excess or now - absence.noticed_at > FORGOTTEN_SECONDS:
                self._absent.pop(peer)
                if absence.stake is None:
                    self._seen.pop(peer, None)

    # -- the partition ------------------------------------------------------------------------------------------------

    def _judge(self, now: float) -> None:
        known = self.partition
        if known is not None and 2 * len(self._away(known.lost)) <= len(known.lost):
            known = None
        window = WINDOW_ANNOUNCEMENTS * self._announce_seconds
        began = now if known is None else known.noticed_at
        lost = {p: a for p, a in self._absent.items() if a.stake is None}
        fresh = {p: a for p, a in lost.items() if not a.counted and abs(began - a.noticed_at) <= window}
        alive = sum(p not in lost for p in self._seen)
        together = vanished_together(fresh, alive) if known is None else frozenset(fresh)
        self._absent.update({p: self._absent[p]._replace(counted=True) for p in together})
        if known is None and together:
            since, step = min((fresh[p].silent_since, fresh[p].step) for p in together)
            known = Partition(together, len(together) + alive, now, since, step, 0, 0)
        if known is not None:
            everybody = known.lost | together
            known = known._replace(lost=everybody, away=len(self._away(everybody)), left=alive)
        self.partition = known

    def _away(self, peers: Iterable[str]) -> set[str]:
        return {p for p in peers if p in self._absent and self._absent[p].stake is None}

    # -- merging ------------------------------------------------------------------------------------------------------

    def stake(self, peer: str, now: float, step: int) -> Stake | None:
        """What our header says to that partner; None in quiet times."""
        absence, seen = self._absent.get(peer), self._seen.get(peer)
        if absence is not None:
            return absence.stake or self._stake_since(absence.step, step)
        if seen is not None and is_lost(seen, None, now, self._announce_seconds):
            return self._stake_since(seen.step, step)
        return self._behind[0] if self.is_healing(now) and self._behind is not None else None

    def header(self, peer: str, now: float, step: int) -> Apart | None:
        """The same, as it travels."""
        stake = self.stake(peer, now, step)
        return None if stake is None else Apart(steps=stake.steps, peers=stake.peers, merge=stake.merge)

    @property
    def awaits_merging(self) -> bool:
        """Whether somebody came back that we did not exchange with since."""
        return any(absence.stake is not None for absence in self._absent.values())

    def is_healing(self, now: float) -> bool:
        """Whether somebody came back lately."""
        return self._behind is not None and now <= self._behind[1]

    def adopt(self, stake: Stake | None, now: float) -> None:
        """We copied a partner: what stands behind it stands behind us now."""
        if stake is not None:
            back = {p: a for p, a in self._absent.items() if a.stake is not None}
            self._absent.update({p: a._replace(stake=stake._replace(merge=True)) for p, a in back.items()})
            self._say(stake, now)
