"""Says it once if members run different versions, and once when they all run the same again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from p2p_elastic.health.versions import Runs, differing
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.software import Software
from p2p_elastic.status.events import EventLog

log = logging.getLogger(__name__)
SAID_MAX = 8  # versions: a member that tells another one each time is not listened to for ever


class Versions:
    """Remembers which versions were spoken of. Belongs to the network thread.

    Args:
        events: where it is written down.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._said: set[Runs] = set()
        self._differ = False  # by the last word

    def look(self, own: Software, members: Iterable[PeerRecord]) -> None:
        """Compare what all members run; write down a version that was not spoken of yet.

        Args:
            own: what this peer runs.
            members: records of the others that are not dead.
        """
        here = Runs(own.version, own.protocol)
        others = {record.peer: runs_of(record) for record in members}
        new = {runs for runs in others.values() if runs != here} - self._said
        text = differing(here, others)
        if text is not None and new and len(self._said) < SAID_MAX:
            self._said |= set(sorted(new, key=str)[: SAID_MAX - len(self._said)])
            self._differ = True
            log.warning("%s", text)
            self._events.add("signal", text)
        elif self._differ and text is None and others:
            self._differ = False
            text = f"all members run the same version again: {here}"
            log.warning("%s", text)
            self._events.add("signal", text)


def runs_of(record: PeerRecord) -> Runs:
    """What a member runs, as its record says.

    Args:
        record: of the member.

    Returns:
        The versions; None in place of each if the record does not say.
    """
    said = record.software
    return Runs(None, None) if said is None else Runs(said.version, said.protocol)
