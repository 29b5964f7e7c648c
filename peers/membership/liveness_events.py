"""Writes an event, once per change, when a member is suspect, dead, or alive again."""

from __future__ import annotations

from collections.abc import Collection

from p2p_elastic.peers.membership.liveness import Liveness, Members, judge
from p2p_elastic.status.events import EventLog


class Watch:
    """Remembers what was last said of each member. Belongs to the network thread.

    Args:
        events: where changes are written.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._told: dict[str, Liveness] = {}  # of those that are not alive

    def look(self, members: Members, alive: Collection[str], now: float, announce_seconds: float) -> None:
        """Say of which members something changed; forget those that are none any more.

        Args:
            members: all members.
            alive: those that are judged alive.
            now: this peer's own monotonic seconds.
            announce_seconds: the time between two announcements.
        """
        for peer in sorted(members.keys() - alive | self._told.keys()):
            self.look_at(peer, members, now, announce_seconds)
        self._told = {peer: state for peer, state in self._told.items() if peer in members}

    def look_at(self, peer: str, members: Members, now: float, announce_seconds: float, last: str = "") -> None:
        """Judge one member.

        Args:
            peer: its id; one that is no member is left out.
            members: all members.
            now: this peer's own monotonic seconds.
            announce_seconds: the time between two announcements.
            last: what went wrong with it just now, in words for people; empty if nothing did.
        """
        if peer not in members:
            return
        state, why = judge(members[peer], now, announce_seconds)
        if state == self._told.get(peer, "alive"):
            return
        why = f"{why} ({last})" if last else why
        text = f"{peer} is alive again" if state == "alive" else f"{peer} is {state}: {why}"
        self._told[peer] = state
        if state == "alive":
            del self._told[peer]
        self._events.add(state, text, peer=peer)
