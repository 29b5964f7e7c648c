"""Whether the members of a run run different versions, which ones, and what to do. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from p2p_elastic.health.causes import NAMED, names
from p2p_elastic.status.schema import PeerStatus

UPDATE = "Update them one after the other; they exchange meanwhile"
STOP_ALL = (
    "Members of different protocols do not exchange: stop all peers of the run, install the same version of "
    "p2p-elastic everywhere, and start them again"
)


class Runs(NamedTuple):
    """What one peer runs, as it says.

    Attributes:
        version: of p2p-elastic; None: it does not say, so it is an earlier one that could not.
        protocol: of the wire; None: it does not say.
    """

    version: str | None
    protocol: int | None

    def __str__(self) -> str:
        return "an earlier version" if self.version is None else f"{self.version} (protocol {self.protocol})"


def differing(own: Runs, others: Mapping[str, Runs]) -> str | None:
    """Say which members run what, if they do not all run the same as this peer.

    Args:
        own: of this peer.
        others: peer id -> of each other member.

    Returns:
        A sentence for people, with what to do; None if all run the same.

    Example:
        >>> differing(Runs("0.2.0", 3), {"a": Runs("0.2.0", 3), "b": Runs("0.1.0", 3)})
        'members run different versions: 0.2.0 (protocol 3) here; 0.1.0 (protocol 3) at b. Update them one after the other; they exchange meanwhile'
    """  # noqa: E501
    kinds = sorted({runs for runs in others.values() if runs != own}, key=str)
    if not kinds:
        return None
    said = "; ".join(f"{kind} at {names(sorted(p for p in others if others[p] == kind))}" for kind in kinds[:NAMED])
    more = f"; and {len(kinds) - NAMED} more versions" if len(kinds) > NAMED else ""
    advice = STOP_ALL if _speaks_otherwise(own, others) else UPDATE
    return f"members run different versions: {own} here; {said}{more}. {advice}"


def versions_differ(status: PeerStatus) -> str | None:
    """Say which members run what, if they do not all run the same as this peer.

    Args:
        status: all that the peer says about itself.

    Returns:
        A sentence for people; None if all run the same, or the peer is of a version that does not know.
    """
    return None if status.protocol is None else differing(Runs(status.version, status.protocol), _of_members(status))


def protocols_differ(status: PeerStatus) -> bool:
    """Whether a member speaks another wire protocol, so that it does not exchange with this peer.

    Args:
        status: all that the peer says about itself.

    Returns:
        True if at least one does; one that does not say its protocol does not count.
    """
    return _speaks_otherwise(Runs(status.version, status.protocol), _of_members(status))


def _of_members(status: PeerStatus) -> Mapping[str, Runs]:
    """Of the others, but for the dead ones."""
    return {one.peer: Runs(one.version, one.protocol) for one in status.members if one.state != "dead"}


def _speaks_otherwise(own: Runs, others: Mapping[str, Runs]) -> bool:
    return any(None not in (own.protocol, runs.protocol) and runs.protocol != own.protocol for runs in others.values())
