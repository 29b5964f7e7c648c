"""A peer's place in its run, as it was configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class RunContext:
    """What this peer is in the run, and how often it says so."""

    run: str
    codec: str = "none"  # of the run; `auto`: of each exchange, by what its link has shown
    fragments: int = 1  # an exchange moves one of so many parts of the vector
    streams: int | None = None  # for the vectors of an exchange; None: by what the link has shown
    group: str = ""  # whose leader we follow, and may be
    standby: bool = False  # does not train: keeps a fresh copy of the centre variable, to take its place
    newcomer: bool = False  # joined a run that was under way: copies before it counts
    addresses: tuple[str, ...] = ()  # under which others reach us, where they are known
    first_sequence: int = 1  # of our records; must be beyond those of an earlier life with the same identity
    announce_seconds: float = 5.0
    refresh_seconds: float = 3.0


class Asking(NamedTuple):
    """What we say of ourselves where we ask."""

    peer: str
    run: str
    schema_hash: str
    elements: int
    codec: str
