"""Several processes with one identity: the one that goes on, by what the directory has under their peer id.

Each begins to count its records with its start, in milliseconds of the swarm's clock, and counts far more slowly than
that: so a sequence says whose record it is, and which process began first. That one goes on. A record of a life that
has ended stays for a while, but is never renewed.
"""

from __future__ import annotations

from typing import Literal

from p2p_elastic.protocol.records import PeerRecord

Other = Literal["earlier", "later"]
TAKEN_OVER = 1000  # records to count past those of another process: as if this one had begun a second after it
LOOKS_ALONE = 4  # in a row with the own record there: a process that announces a little less often has ended


class Instances:
    """What was seen of other processes with this identity. `sequence` is that of this process's last record.

    Args:
        first_sequence: the number before that of this process's first record.
    """

    def __init__(self, first_sequence: int) -> None:
        self._first = self.sequence = first_sequence
        self._seen: dict[Other, int] = {}  # the greatest sequence of each
        self._told = False  # whether the process that began later was reported
        self._alone = 0  # looks in a row that found the own record

    def saw(self, record: PeerRecord | None) -> Other | None:
        """Take in what the directory has under this peer id; to be called before each announcement.

        Another process that began earlier is alive if its record was renewed since it was seen first, one that began
        later also
        if it replaced a record of this one. The latter is told once.

        Args:
            record: what the directory has; None if it has none.

        Returns:
            Which other process is alive, by when it began; None if none is, or the later one was told already.
        """
        if record is None:
            return None
        if record.left:
            if record.sequence > self.sequence:
                self._seen["later"] = max(record.sequence, self._seen.get("later", 0))
            self._outlast()
            return None
        if self._first < record.sequence <= self.sequence:
            self._alone += 1
            if self._alone >= LOOKS_ALONE:
                self._outlast()
            return None
        self._alone = 0
        other: Other = "earlier" if record.sequence <= self._first else "later"
        known = self._seen.get(other)
        self._seen[other] = max(record.sequence, known or 0)
        renewed = record.sequence > known if known is not None else other == "later" and self.sequence > self._first
        if not renewed or (other == "later" and self._told):
            return None
        self._told = other == "later"
        return other

    def _outlast(self) -> None:
        """A process that began later has ended: count past its records, or others take this one's for old."""
        self._told, later = False, self._seen.pop("later", None)
        if later is not None:
            self._first = self.sequence = later + TAKEN_OVER
