"""The election of leaders (LSGD), and leaders that are not believed.

The leader of a group is its live member with the lowest published loss. It publishes a snapshot of itself at each of
its due steps; `snapshots.py` says how that spreads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.peers.exchange.snapshots import Snapshot, SnapshotLosses, Snapshots
from p2p_elastic.peers.membership.liveness import Members, is_gone, liveness
from p2p_elastic.rules.trial import as_good_as, is_above
from p2p_elastic.status.schema import LeaderStatus

DISBELIEF_SECONDS = 20.0  # that a leader which was not believed does not lead this peer; doubled each time
HEARD_MAX = 1000


class Contender(NamedTuple):
    """A peer that may lead.

    Attributes:
        peer: its id.
        loss: the smoothed training loss that it publishes, in nats; None if that is not finite or unknown.
    """

    peer: str
    loss: float | None


def leader_of(contenders: list[Contender]) -> str | None:
    """Choose the peer with the lowest loss, then the smaller id.

    Args:
        contenders: in any order.

    Returns:
        Its id; None if no peer has a loss.

    Source:
        Teng et al., Leader SGD, arXiv 1905.10395, Algorithm 1.

    Example:
        >>> leader_of([Contender("c", 0.5), Contender("b", 0.5), Contender("a", None)])
        'b'
    """
    ranked = [(c.loss, c.peer) for c in contenders if c.loss is not None]
    return min(ranked)[1] if ranked else None


def disbelief(claimed: float, measured: SnapshotLosses) -> str | None:
    """Say why a leader is not followed.

    Its parameters must give about the loss that it claims on this peer's examples. It never saw these, so what this
    peer's parameters give on examples that it never saw is no lie either; clearly more than one and a half times both
    is.

    Args:
        claimed: the loss that made it the leader, in nats.
        measured: losses of its parameters and of this peer's, in nats.

    Returns:
        The reason; None if it is followed.
    """
    theirs, error, own = measured
    if not is_above(theirs, error, as_good_as(max(claimed, own))):
        return None
    return (
        f"claims a loss of {claimed:.3g}, its parameters give {theirs:.3g} on this peer's data "
        f"(this peer's own give {own:.3g} on unseen data)"
    )


class Disbelief(NamedTuple):
    """A leader that is not believed.

    Attributes:
        reason: why not.
        until: when it may lead again, in this peer's monotonic seconds.
        times: how often it was not believed so far.
    """

    reason: str
    until: float
    times: int


class Heard(NamedTuple):
    """What a peer told this one itself.

    Attributes:
        loss: in nats; None if it has none.
        at: when it told that, in this peer's monotonic seconds.
    """

    loss: float | None
    at: float


class Following:
    """Whom this peer follows, of its group and of all, and whom it does not believe. Belongs to the network thread.

    Args:
        peer: this peer's id.
        group: the name of its group.
        announce_seconds: how often members announce themselves.
    """

    def __init__(self, peer: str, group: str, announce_seconds: float) -> None:
        self._peer, self._group, self._announce_seconds = peer, group, announce_seconds
        self.snapshots = Snapshots()
        self.asked_for = False  # a member takes this peer for the leader: publish, whatever is thought here
        self.disbelieved: Mapping[str, Disbelief] = {}  # replaced whole: other threads read it
        self.claimed: float | None = None  # the loss that made the last leader one
        self._direct: dict[str, float] = {}  # origin -> until when only its own word counts (monotonic seconds)
        self._heard: dict[str, Heard] = {}
        self.leader: str | None = None
        self.leader_of_all: str | None = None

    def choose(self, loss: float | None, members: Members, now: float, *, of_all: bool) -> str | None:
        """Choose the leader of the group or of all groups, this peer included.

        A member leads only if it is alive, available, counts and is believed.

        Args:
            loss: of this peer, in nats; None if it is not to lead.
            members: the others.
            now: in monotonic seconds.
            of_all: whether members of all groups may lead.

        Returns:
            The leader's id; None if no peer has a loss.
        """
        contenders = [Contender(self._peer, loss)]
        for peer, member in members.items():
            record = member.record
            wanted = (of_all or record.group == self._group) and record.available and record.weight > 0.0
            if wanted and self._believed(peer, now) and not is_gone(member, now, self._announce_seconds):
                heard = self._heard.get(peer)
                newest = heard.loss if heard is not None and heard.at > member.changed_at else member.record.loss
                alive = liveness(member, now, self._announce_seconds) == "alive"
                contenders.append(Contender(peer, newest if alive else None))
        chosen = leader_of(contenders)
        self.claimed = next((c.loss for c in contenders if c.peer == chosen), None)
        if of_all:
            self.leader_of_all = chosen
        else:
            self.leader = chosen
        return chosen

    @property
    def heard(self) -> Mapping[str, Heard]:
        """What each peer told this one itself, the latest last; HEARD_MAX at most."""
        return self._heard

    def lose(self, peer: str) -> None:
        """Forget a leader that left.

        Args:
            peer: its id.
        """
        self.leader = None if self.leader == peer else self.leader
        self.leader_of_all = None if self.leader_of_all == peer else self.leader_of_all

    def hear(self, peer: str, loss: float | None, now: float) -> None:
        """Remember the loss that a peer just told, which is newer than its record.

        Args:
            peer: its id. HEARD_MAX of them are remembered.
            loss: in nats; None if it has none.
            now: in monotonic seconds.
        """
        self._heard.pop(peer, None)
        self._heard[peer] = Heard(loss, now)
        forget_oldest(self._heard, HEARD_MAX)

    def _believed(self, peer: str, now: float) -> bool:
        entry = self.disbelieved.get(peer)
        return entry is None or now >= entry.until

    def disbelieve(self, peer: str, reason: str, now: float) -> None:
        """Do not follow a peer for DISBELIEF_SECONDS, doubled each time up to 64-fold.

        Args:
            peer: its id.
            reason: shown to users.
            now: in monotonic seconds.
        """
        known = dict(self.disbelieved)
        times = known.pop(peer).times + 1 if peer in known else 1
        known[peer] = Disbelief(reason, now + DISBELIEF_SECONDS * 2.0 ** min(times - 1, 6), times)
        self.disbelieved = dict(list(known.items())[-HEARD_MAX:])

    def doubt(self, snapshot: Snapshot, reason: str, now: float) -> None:
        """Drop a snapshot that does not give what its origin claims.

        A relay may have changed it: then the origin is asked. If it came from the origin, that does not lead for a
        while.

        Args:
            snapshot: that was tried.
            reason: shown to users.
            now: in monotonic seconds.
        """
        self.snapshots.drop(snapshot)
        if snapshot.source == snapshot.origin:
            self.disbelieve(snapshot.origin, reason, now)
            return
        self._direct = {origin: until for origin, until in self._direct.items() if until > now}
        self._direct[snapshot.origin] = now + DISBELIEF_SECONDS

    def insists_on(self, origin: str, now: float) -> bool:
        """Whether a snapshot of a peer is to come from that peer itself, since a relay sent a doubtful one.

        Args:
            origin: its id.
            now: in monotonic seconds.

        Returns:
            True for DISBELIEF_SECONDS after the doubt.
        """
        return now < self._direct.get(origin, now)

    def status(self, now: float) -> LeaderStatus:
        """Say what users see of it.

        Args:
            now: in monotonic seconds.

        Returns:
            The leaders, and the peers that are not believed at present.
        """
        return LeaderStatus(
            group=self._group,
            leader=self.leader,
            leader_of_all=self.leader_of_all,
            snapshots_published=self.snapshots.published,
            disbelieved=dict(self.doubts(now)),
        )

    def doubts(self, now: float) -> Mapping[str, str]:
        """List the peers that do not lead this one at present.

        Args:
            now: in monotonic seconds.

        Returns:
            Peer -> the reason.
        """
        return {peer: entry.reason for peer, entry in self.disbelieved.items() if now < entry.until}
