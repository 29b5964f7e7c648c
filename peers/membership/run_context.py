"""A peer's place in its run, as it was configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from p2p_elastic.protocol.software import OURS, Software


@dataclass(frozen=True)
class RunContext:
    """What this peer is in the run, and how often it says so.

    Attributes:
        run: the run's name.
        codec: of the run; `auto`: of each exchange, by what its link has shown.
        fragments: how many parts the vector has, of which an exchange moves one; AUTO_FRAGMENTS: by what links show.
        streams: over which the vectors of an exchange go; None: by what the link has shown.
        group: whose leader this peer follows, and may be (LSGD); empty without groups.
        standby: does not train: keeps a fresh copy of the centre variable, to take its place.
        newcomer: joined a run that was under way: copies before it counts.
        origin: the peer whose first parameters are the run's; empty: they follow from a seed, and all have the same.
        addresses: under which others reach this peer, if they are known.
        software: what this peer runs, as it says.
        first_sequence: of this peer's records; must be beyond those of an earlier life with the same identity.
        announce_seconds: the time between two announcements.
        refresh_seconds: the time between two looks into the directory.
    """

    run: str
    codec: str = "none"
    fragments: int = 1
    streams: int | None = None
    group: str = ""
    standby: bool = False
    newcomer: bool = False
    origin: str = ""
    addresses: tuple[str, ...] = ()
    software: Software = OURS
    first_sequence: int = 1
    announce_seconds: float = 5.0
    refresh_seconds: float = 3.0


class Asking(NamedTuple):
    """What a peer says of itself when it asks.

    Attributes:
        peer: its id.
        run: the run's name.
        schema_hash: of the names and shapes of its model.
        elements: D, the length of its vector.
        codec: by which it wants vectors.
    """

    peer: str
    run: str
    schema_hash: str
    elements: int
    codec: str
