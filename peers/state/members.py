"""The members of the run, and how long to wait for each of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.peers.membership.contacts import Contacts
from p2p_elastic.peers.membership.liveness import Liveness, Member, heard, liveness, observe, suspected
from p2p_elastic.peers.membership.liveness_events import Watch
from p2p_elastic.peers.membership.partition import Absences
from p2p_elastic.peers.membership.tombstones import Departed
from p2p_elastic.peers.membership.versions import Versions
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.session.deadlines import Deadlines, StepTime, Waits, patience
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.status.events import EventLog

PEERS_NAMED = 20  # in an event
FOREIGN_MAX = 50  # members with another model, and schemas of theirs, that are remembered
Reads = Callable[[str], bool]


class _Look(NamedTuple):
    """The last answer of the directory: when, and whether the run has more members than it showed."""

    at: float = 0.0
    partial: bool = False


class _Known:
    """The members that were known at one moment: judged once, however often it is asked."""

    def __init__(self, members: Mapping[str, Member], at: float, announce_seconds: float) -> None:
        self.members, self._at, self._announce_seconds = MappingProxyType(members), at, announce_seconds

    @cached_property
    def _states(self) -> dict[str, Liveness]:
        return {peer: liveness(one, self._at, self._announce_seconds) for peer, one in self.members.items()}

    @cached_property
    def alive(self) -> Mapping[str, Member]:
        return MappingProxyType({peer: one for peer, one in self.members.items() if self._states[peer] == "alive"})

    @cached_property
    def not_dead(self) -> Mapping[str, Member]:
        return MappingProxyType({peer: one for peer, one in self.members.items() if self._states[peer] != "dead"})


class Membership:
    """The members of the run, as this peer sees them. Belongs to the network thread; `known` may be read from any.

    Args:
        run: the run that this peer is in.
        events: where it is written down which peer came, left, or is not heard any more.
        limits: deadlines and bounds.
    """

    def __init__(self, run: CurrentRun, events: EventLog, limits: Limits | None = None) -> None:
        self._run, self._events, self._limits = run, events, limits or Limits()
        self._known = _Known({}, 0.0, run.context.announce_seconds)  # replaced whole
        # When the directory last answered: up to then silence is a partner's, later it may be this peer's.
        self._last = _Look()
        self._departed, self._watch, self._versions = Departed(), Watch(events), Versions(events)
        self.foreign: Mapping[str, PeerRecord] = {}  # those that have another model; replaced whole, as is the next
        self.differences: Mapping[str, str] = {}  # hash of a schema -> in what it differs from this peer's
        self.apart = Absences(run.context.announce_seconds)
        self.deadlines, self.step_time = Deadlines(self._limits.bounds), StepTime()
        self.reached: frozenset[str] = frozenset()  # those that answer the directory
        self._contacts = Contacts()  # and those that answered here, or asked something

    @property
    def looked_at(self) -> float:
        """When the directory last answered, in seconds of the event loop's clock."""
        return self._last.at

    @property
    def known(self) -> Mapping[str, Member]:
        """All of them, by peer id: a value that does not change later."""
        return self._known.members

    def record_of(self, peer: str) -> PeerRecord | None:
        """Look up what a member says of itself.

        Args:
            peer: its id.

        Returns:
            Its newest record; None if it is not known.
        """
        member = self.known.get(peer)
        return None if member is None else member.record

    def may_be(self, peer: str) -> bool:
        """Whether a peer may be a member.

        Args:
            peer: its id.

        Returns:
            True also of one that is not known, if only some of the members are.
        """
        return self._last.partial or peer in self.known

    def alive(self) -> Mapping[str, Member]:
        """List the members that are neither suspect nor dead.

        Returns:
            By peer id; the others are suspect or dead.
        """
        return self._known.alive

    def not_dead(self) -> Mapping[str, Member]:
        """List the members that are alive or suspect.

        Returns:
            By peer id; the dead ones are left out.
        """
        return self._known.not_dead

    @property
    def _announce_seconds(self) -> float:
        return self._run.context.announce_seconds

    @property
    def contacts(self) -> tuple[str, ...]:
        """The peers that asked or answered something lately, the latest first."""
        return self._contacts.latest

    @property
    def departed(self) -> Collection[str]:
        """Those that said goodbye lately."""
        return self._departed.peers

    # -- what is seen and heard ---------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Another run begins: nobody is known there yet."""
        self._replace({})
        self.foreign = {}
        self.apart = Absences(self._announce_seconds)

    def look(self, listed: Collection[PeerRecord], now: float, count: int = 0, reads: Reads = lambda _: True) -> None:
        """Take in what the directory has of the run.

        Args:
            listed: the records; those of another model's schema are no members, but `foreign`.
            now: seconds of the event loop's clock.
            count: how many members there are; of more than VIEW_MAX those that are listed are a sample.
            reads: whether a member would be among them, if it was there and there was room.
        """
        sampled = count > max(VIEW_MAX, len(listed) + 1)
        if sampled:
            self._leave_out(listed, now, reads)
        before, ours = self.known, self._run.vector.schema_hash
        there = list(self._departed.without(listed, now))
        self._last = _Look(now, count > VIEW_MAX)
        self._replace(observe(before, (r for r in there if r.schema_hash == ours), now))
        self._contacts.reached(self.known.keys() & self.reached)
        foreign = (r for r in there if r.schema_hash != ours and not r.left and r.run == self._run.context.run)
        self.foreign = {r.peer: r for r in itertools.islice(foreign, FOREIGN_MAX)}
        for peer in () if sampled else sorted(before.keys() ^ self.known.keys()):
            joined = peer in self.known
            self._events.add("joined" if joined else "left", f"{peer} {'joined' if joined else 'left'}", peer=peer)
        for record in listed:
            if record.left:
                self.apart.left(record.peer, record.sequence)
        self._watch.look(self.known, self.alive(), now, self._announce_seconds)
        self._versions.look(self._run.context.software, (m.record for m in self.not_dead().values()))

    def _leave_out(self, listed: Collection[PeerRecord], now: float, reads: Reads) -> None:
        """Know those no more that are not shown and are not lost: others came, or this peer looks elsewhere."""
        shown = {record.peer for record in listed}
        gone = {
            peer
            for peer, member in self.known.items()
            if peer not in shown and (not reads(peer) or liveness(member, now, self._announce_seconds) == "alive")
        }
        self.apart.forget(gone)
        self._replace({peer: member for peer, member in self.known.items() if peer not in gone})

    def differs(self, schema_hash: str, difference: str) -> None:
        """Note in what the model of others differs from this peer's.

        Args:
            schema_hash: of theirs.
            difference: the first one, in words.
        """
        known = {**self.differences, schema_hash: difference}
        forget_oldest(known, FOREIGN_MAX)
        self.differences = known

    def _replace(self, members: Mapping[str, Member]) -> None:
        if members is not self.known:
            self._known = _Known(members, self.looked_at, self._announce_seconds)

    def heard(self, peer: str) -> None:
        """Note that a peer answered this one, or asked it something.

        Args:
            peer: its id; of one that is no member only that is noted.
        """
        self._contacts.heard(peer, member=peer in self.known)
        self._replace(heard(self.known, peer, asyncio.get_running_loop().time()))
        self._watch.look_at(peer, self.known, self.looked_at, self._announce_seconds)

    def ever_answered(self, peer: str) -> bool:
        """Whether anything ever came from a member itself; a record only says that somebody announced it.

        Args:
            peer: its id.

        Returns:
            True also if it answers the directory.
        """
        return peer in self._contacts or peer in self.reached

    def failed(self, peer: str, outcome: Outcome) -> None:
        """Count one more failed exchange with a peer.

        Args:
            peer: its id.
            outcome: how the exchange failed.
        """
        self._replace(suspected(self.known, peer))
        self._watch.look_at(peer, self.known, self.looked_at, self._announce_seconds, outcome.value)

    def look_apart(self, step: int) -> None:
        """Judge which members that ever answered were lost at once, and write down a partition that begins or ends.

        Args:
            step: steps that this peer trained so far.
        """
        before = self.apart.partition
        self.apart.look(self.known, asyncio.get_running_loop().time(), step, self._contacts.ever)
        after = self.apart.partition
        if after is not None and (before is None or after.lost != before.lost):
            text = (
                f"{len(after.lost)} of {after.before} members vanished at once: they crashed, or the network is split"
            )
            self._events.add("partition", text, peers=[*sorted(after.lost)[:PEERS_NAMED]], left=after.left)
        if before is not None and after is None:
            steps = step - before.step
            text = f"the partition ended, {steps} of this peer's steps after it began; what both sides learnt is merged"
            self._events.add("healed", text, steps=steps)

    # -- goodbyes -----------------------------------------------------------------------------------------------------

    def left(self, peer: str, sequence: int, *, asked: bool) -> PeerRecord | None:
        """Drop a member that said goodbye, and believe no earlier record of it.

        Args:
            peer: its id.
            sequence: records of it up to this number are of the life that ended.
            asked: True if it wants something to be taken from it.

        Returns:
            Its record; None if it was no member, or is back already in another life.
        """
        member = self.known.get(peer)
        if member is None or sequence < member.record.sequence:  # back already: this is the end of an earlier life
            return None
        self._departed.remember(member.record, sequence, asyncio.get_running_loop().time(), asked=asked)
        self.apart.left(peer, sequence)
        self._replace({other: m for other, m in self.known.items() if other != peer})
        self._events.add("left", f"{peer} left", peer=peer)
        return member.record

    def asked_after_leaving(self, peer: str) -> PeerRecord | None:
        """Note that a peer that left before asks that something is taken from it.

        Args:
            peer: its id.

        Returns:
            Its record the first time that it asks; None later, and for a peer that is not remembered.
        """
        gone = self._departed.get(peer)
        if gone is None or gone.asked:
            return None
        self._departed.remember(gone.record, gone.sequence, asyncio.get_running_loop().time(), asked=True)
        return gone.record

    def revise(self, peer: str, facts: Mapping[str, Any]) -> None:
        """Correct the record of a member, until its next one.

        Args:
            peer: its id; one that is no member changes nothing.
            facts: fields of `PeerRecord` that are known better here.
        """
        known = self.known.get(peer)
        if known is not None:
            self._replace({**self.known, peer: known._replace(record=known.record.model_copy(update=facts))})

    # -- how long to wait ---------------------------------------------------------------------------------------------

    def waits(self, record: PeerRecord) -> Waits:
        """Give the deadlines of a conversation with a peer.

        Args:
            record: of that peer.

        Returns:
            Its learnt deadlines. If the topology waits for steps, a slow trainer gets longer to answer.
        """
        speed = record.steps_per_second if self._run.topology.waits_for_steps else None
        return self.deadlines.of(record.peer, patience(speed, self._limits.snapshot_seconds))

    def waits_of(self, peer: str) -> Waits:
        """Give the deadlines of a conversation with a peer that asks.

        Args:
            peer: its id, of a member or a stranger.

        Returns:
            Those of the member; for a stranger, deadlines whose experience is not kept.
        """
        known = self.known.get(peer)
        if known is None:
            return self.deadlines.of_stranger(peer, self._limits.snapshot_seconds)
        return self.waits(known.record)
