"""Following a leader (LSGD): who leads, and a leader that is not believed.

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

DISBELIEF_SECONDS = 20.0  # so long a leader that was not believed does not lead us; doubled each time
HEARD_MAX = 1000


class Contender(NamedTuple):
    """A peer and the smoothed training loss that it publishes, in nats; None where that is not finite or unknown."""

    peer: str
    loss: float | None


def leader_of(contenders: list[Contender]) -> str | None:
    """The one with the lowest loss, then the smaller id; None where nobody has a loss. NaN never leads.

    Source: Teng et al., Leader SGD, arXiv 1905.10395, Algorithm 1.
    """
    ranked = [(c.loss, c.peer) for c in contenders if c.loss is not None]
    return min(ranked)[1] if ranked else None


def disbelief(claimed: float, measured: SnapshotLosses) -> str | None:
    """Why a leader is not followed; None where it is. Losses in nats.

    Its parameters must give about the loss that it claims on our own examples. It never saw these, so what our own
    parameters give on examples that we never saw is no lie either; clearly more than one and a half times both is.
    """
    theirs, error, own = measured
    if not is_above(theirs, error, as_good_as(max(claimed, own))):
        return None
    return f"claims a loss of {claimed:.3g}, its parameters give {theirs:.3g} on our data (ours {own:.3g} on unseen)"


class Disbelief(NamedTuple):
    """Why, until when (our own monotonic seconds), and how often so far."""

    reason: str
    until: float
    times: int


class Heard(NamedTuple):
    """What a peer told us itself, and when (our own monotonic seconds)."""

    loss: float | None
    at: float


class Following:
    """Whom this peer follows, of its group and of all, and whom it does not believe. Belongs to the network thread."""

    def __init__(self, peer: str, group: str, announce_seconds: float) -> None:
        self._peer, self._group, self._announce_seconds = peer, group, announce_seconds
        self.snapshots = Snapshots()
        self.asked_for = False  # somebody sees the leader in us: publish, whatever we think
        self.disbelieved: Mapping[str, Disbelief] = {}  # replaced whole: other threads read it
        self.claimed: float | None = None  # the loss that made the last leader one
        self._direct: dict[str, float] = {}  # origin -> until when only its own word counts (monotonic seconds)
        self._heard: dict[str, Heard] = {}
        self.leader: str | None = None
        self.leader_of_all: str | None = None

    def choose(self, loss: float | None, members: Members, now: float, *, of_all: bool) -> str | None:
        """The leader of the group, or of all groups, ourselves included; `loss` is our own."""
        contenders = [Contender(self._peer, loss)]
        for peer, member in members.items():
            record = member.record
            wanted = (of_all or record.group == self._group) and not record.drained and record.weight > 0.0
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
        """What each peer told us itself, the latest last; HEARD_MAX at most."""
        return self._heard

    def lose(self, peer: str) -> None:
        """That peer is there no more."""
        self.leader = None if self.leader == peer else self.leader
        self.leader_of_all = None if self.leader_of_all == peer else self.leader_of_all

    def hear(self, peer: str, loss: float | None, now: float) -> None:
        """What a peer just told us, newer than its record."""
        self._heard.pop(peer, None)
        self._heard[peer] = Heard(loss, now)
        forget_oldest(self._heard, HEARD_MAX)

    def _believed(self, peer: str, now: float) -> bool:
        entry = self.disbelieved.get(peer)
        return entry is None or now >= entry.until

    def disbelieve(self, peer: str, reason: str, now: float) -> None:
        """Do not follow `peer` for a while."""
        known = dict(self.disbelieved)
        times = known.pop(peer).times + 1 if peer in known else 1
        known[peer] = Disbelief(reason, now + DISBELIEF_SECONDS * 2.0 ** min(times - 1, 6), times)
        self.disbelieved = dict(list(known.items())[-HEARD_MAX:])

    def doubt(self, snapshot: Snapshot, reason: str, now: float) -> None:
        """Its parameters do not give what its origin claims. A relay may have changed it: then the origin is asked."""
        self.snapshots.drop(snapshot)
        if snapshot.source == snapshot.origin:
            self.disbelieve(snapshot.origin, reason, now)
            return
        self._direct = {origin: until for origin, until in self._direct.items() if until > now}
        self._direct[snapshot.origin] = now + DISBELIEF_SECONDS

    def insists_on(self, origin: str, now: float) -> bool:
        """Whether a snapshot of that peer is to come from itself."""
        return now < self._direct.get(origin, now)

    def status(self, now: float) -> LeaderStatus:
        """What people see of it."""
        return LeaderStatus(
            group=self._group,
            leader=self.leader,
            leader_of_all=self.leader_of_all,
            snapshots_published=self.snapshots.published,
            disbelieved=dict(self.doubts(now)),
        )

    def doubts(self, now: float) -> Mapping[str, str]:
        """Peer -> why it does not lead us at present."""
        return {peer: entry.reason for peer, entry in self.disbelieved.items() if now < entry.until}
