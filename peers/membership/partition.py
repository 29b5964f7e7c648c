"""The members that were lost without a goodbye, whether that is a partition, and what stands behind this peer since.

A member of which nothing was heard for several announcements, by record or exchange, is lost; one that announces itself
anew is back. Several that vanish together are a partition: they crashed together, or the network is split. A single one
of many is a crash. When lost ones come back, both ends say in their headers what they did meanwhile (`merging.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from p2p_elastic.peers.membership.liveness import DOUBTED, SILENT_ANNOUNCEMENTS, Member, Members
from p2p_elastic.protocol.messages import PEERS_MAX, Apart
from p2p_elastic.rules.base import Stake
from p2p_elastic.status.schema import PartitionStatus

WINDOW_ANNOUNCEMENTS = 6.0  # members lost within this time vanished together: 30 s if peers announce every 5 s
HEALING_ANNOUNCEMENTS = 120.0  # after a member came back each move is tried before it is made: 10 minutes
FORGOTTEN_SECONDS = 3600.0
LOST_MAX = 1000
TOGETHER_MIN, SHARE_MIN = 2, 0.25  # as many, and that part of those that were there, are a partition


class Seen(NamedTuple):
    """The last sign of life of a member.

    Attributes:
        sequence: of its record.
        at: when, in this peer's own monotonic seconds.
        step: how many steps this peer had made.
    """

    sequence: int
    at: float
    step: int


class Absence(NamedTuple):
    """A member that was lost.

    Attributes:
        noticed_at: when it was found to be lost, in this peer's own monotonic seconds.
        silent_since: when its last sign of life was, by the same clock.
        step: how many steps this peer had made at that sign of life.
        stake: what stands behind this peer until both exchange; None while the member is away.
        counted: whether it was counted as part of a partition.
    """

    noticed_at: float
    silent_since: float
    step: int
    stake: Stake | None = None
    counted: bool = False


class Partition(NamedTuple):
    """Members that vanished together. Times are in this peer's own monotonic seconds.

    Attributes:
        lost: their peer ids.
        before: how many others there were before.
        noticed_at: when the partition was found.
        silent_since: when the first of them was heard last.
        step: how many steps this peer had made at that time.
        away: how many of them are so still.
        left: how many other members are there.
    """

    lost: frozenset[str]
    before: int
    noticed_at: float
    silent_since: float
    step: int
    away: int
    left: int


def is_lost(seen: Seen, member: Member | None, now: float, announce_seconds: float) -> bool:
    """Whether nothing was heard of a member for too long.

    As `liveness.is_gone`, but without more time for those that announce themselves irregularly: half of a swarm that is
    cut
    off has to be seen as one.

    Args:
        seen: its last sign of life.
        member: what is known of it; None if it is not listed any more.
        now: this peer's own monotonic seconds.
        announce_seconds: the time between two announcements.

    Returns:
        True after SILENT_ANNOUNCEMENTS announcements; earlier if an exchange with it failed.
    """
    doubted = member is not None and member.failures > 0
    announcements = SILENT_ANNOUNCEMENTS * (DOUBTED if doubted else 1.0)
    return now - seen.at > announcements * announce_seconds


def vanished_together(lost: Iterable[str], alive: int) -> frozenset[str]:
    """Tell a partition from the crash of a single member.

    Args:
        lost: the members lost within one window.
        alive: how many are left.

    Returns:
        All of `lost` if they are a partition: TOGETHER_MIN and SHARE_MIN of all, or no member is left; otherwise none.

    Example:
        >>> sorted(vanished_together({"a", "b"}, alive=4)), sorted(vanished_together({"a"}, alive=4))
        (['a', 'b'], [])
    """
    gone = frozenset(lost)
    enough = len(gone) >= TOGETHER_MIN and len(gone) >= SHARE_MIN * (len(gone) + alive)
    return gone if gone and (enough or alive == 0) else frozenset()


class Absences:
    """Keeps the members that are lost. Belongs to the network thread; `partition` may be read from any.

    Memory: one entry per member, and per lost one, of which LOST_MAX are kept for an hour.

    Args:
        announce_seconds: the time between two announcements.
    """

    def __init__(self, announce_seconds: float) -> None:
        self._announce_seconds = announce_seconds
        self._seen: dict[str, Seen] = {}
        self._absent: dict[str, Absence] = {}  # with those that came back and did not exchange with this peer yet
        self._behind: tuple[Stake, float] | None = None  # the last stake, and until when everybody hears of it
        self.partition: Partition | None = None

    @property
    def seen(self) -> Collection[str]:
        """Of whom a sign of life is remembered."""
        return self._seen.keys()

    @property
    def absent(self) -> Collection[str]:
        """Who is lost, or came back and did not exchange with us yet; LOST_MAX at most."""
        return self._absent.keys()

    @property
    def away(self) -> Collection[str]:
        """Who was lost in the partition that there is, and is not back."""
        return set() if self.partition is None else self._away(self.partition.lost)

    def status(self, now: float, step: int) -> PartitionStatus | None:
        """Show the partition to people.

        Args:
            now: this peer's own monotonic seconds.
            step: how many steps this peer has made.

        Returns:
            The status, as `/v1/status` shows it; None if there is no partition.
        """
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

    def look(self, members: Members, now: float, step: int, met: Callable[[str], bool] = lambda _peer: True) -> None:
        """Judge which members are lost and which are back.

        To be called as often as members are read, also if that fails.

        Args:
            members: those known.
            now: this peer's own monotonic seconds.
            step: how many steps this peer has made.
            met: whether a member was there once. Others can be announced by anybody: alone they are no partition.
        """
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
        self._judge(now, met)

    def _lose(self, peer: str, seen: Seen, now: float) -> None:
        before = self._absent.pop(peer, None)  # lost again, before an exchange: what was first counts
        since = seen if before is None else seen._replace(at=before.silent_since, step=before.step)
        self._absent[peer] = Absence(now, since.at, since.step)

    def _heard(self, peer: str, sequence: int, now: float, step: int) -> None:
        seen = self._seen.get(peer)
        if seen is not None and peer not in self._absent and is_lost(seen, None, now, self._announce_seconds):
            self._lose(peer, seen, now)  # this peer was not there itself: a suspended machine, say
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
        """Take in an exchange that completed: the partner is there, and both are apart no more.

        Args:
            peer: the partner.
            now: this peer's own monotonic seconds.
            step: how many steps this peer has made.
        """
        seen = self._seen.get(peer)
        if seen is not None:
            self._seen[peer] = Seen(seen.sequence, now, step)
        self._absent.pop(peer, None)

    def left(self, peer: str, sequence: int) -> None:
        """Take in a goodbye: nobody waits for that member.

        Args:
            peer: the member.
            sequence: of the record with the goodbye; one that is older than its last sign of life changes nothing.
        """
        seen = self._seen.get(peer)
        if seen is not None and sequence > seen.sequence:
            self._seen.pop(peer)
            self._absent.pop(peer, None)

    def forget(self, peers: Collection[str]) -> None:
        """Wait no more for members of which nothing would be heard here if they were back.

        Args:
            peers: their ids.
        """
        for peer in peers:
            self._seen.pop(peer, None)
            self._absent.pop(peer, None)
        if self.partition is not None and not self.partition.lost.isdisjoint(peers):
            lost = self.partition.lost.difference(peers)
            self.partition = self.partition._replace(lost=lost, away=len(self._away(lost))) if lost else None

    def _forget(self, now: float) -> None:
        excess = len(self._absent) - LOST_MAX  # the first that were lost go first
        for place, (peer, absence) in enumerate(list(self._absent.items())):
            if place < excess or now - absence.noticed_at > FORGOTTEN_SECONDS:
                self._absent.pop(peer)
                if absence.stake is None:
                    self._seen.pop(peer, None)

    # -- the partition ------------------------------------------------------------------------------------------------

    def _judge(self, now: float, met: Callable[[str], bool]) -> None:
        known = self.partition
        if known is None and not self._absent:
            return
        if known is not None and 2 * len(self._away(known.lost)) <= len(known.lost):
            known = None
        window = WINDOW_ANNOUNCEMENTS * self._announce_seconds
        began = now if known is None else known.noticed_at
        lost = {p: a for p, a in self._absent.items() if a.stake is None}
        fresh = {p: a for p, a in lost.items() if not a.counted and abs(began - a.noticed_at) <= window}
        alive = sum(p not in lost for p in self._seen)
        together = vanished_together(fresh, alive) if known is None else frozenset(fresh)
        together = together if any(map(met, together)) else frozenset()
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
        """Work out what this peer's header says to a partner of what stands behind it.

        Args:
            peer: the partner.
            now: this peer's own monotonic seconds.
            step: how many steps this peer has made.

        Returns:
            The stake; None in quiet times.
        """
        absence, seen = self._absent.get(peer), self._seen.get(peer)
        if absence is not None:
            return absence.stake or self._stake_since(absence.step, step)
        if seen is not None and is_lost(seen, None, now, self._announce_seconds):
            return self._stake_since(seen.step, step)
        return self._behind[0] if self.is_healing(now) and self._behind is not None else None

    def header(self, peer: str, now: float, step: int) -> Apart | None:
        """The same as `stake`, as it travels.

        Args:
            peer: the partner.
            now: this peer's own monotonic seconds.
            step: how many steps this peer has made.

        Returns:
            The field of the header; None in quiet times.
        """
        stake = self.stake(peer, now, step)
        return None if stake is None else Apart(steps=stake.steps, peers=stake.peers, merge=stake.merge)

    @property
    def awaits_merging(self) -> bool:
        """Whether a member came back that this peer did not exchange with since."""
        return any(absence.stake is not None for absence in self._absent.values())

    def is_healing(self, now: float) -> bool:
        """Whether a member came back lately.

        Args:
            now: this peer's own monotonic seconds.

        Returns:
            True for HEALING_ANNOUNCEMENTS announcements after it.
        """
        return self._behind is not None and now <= self._behind[1]

    def adopt(self, stake: Stake | None, now: float) -> None:
        """Take over the stake of a partner that was copied: what stands behind it stands behind this peer now.

        Args:
            stake: what the partner's header said; None changes nothing.
            now: this peer's own monotonic seconds.
        """
        if stake is not None:
            back = {p: a for p, a in self._absent.items() if a.stake is not None}
            self._absent.update({p: a._replace(stake=stake._replace(merge=True)) for p, a in back.items()})
            self._say(stake, now)
