"""From whom anything came: a record only says that somebody announced it."""

from __future__ import annotations

from collections.abc import Iterable

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.trust import PARTNERS_MAX
from p2p_elastic.peers.discovery.view import WANTED_MAX


class Contacts:
    """The peers that answered this one, or asked it something; PARTNERS_MAX members, and the latest of all peers."""

    def __init__(self) -> None:
        self._members: dict[str, None] = {}  # the latest last, as is the next
        self._all: dict[str, None] = {}
        self._once: dict[str, None] = {}

    def heard(self, peer: str, *, member: bool) -> None:
        """Note that something came.

        Args:
            peer: from whom.
            member: whether it is one; strangers put no member out of memory.
        """
        _put_last(self._all, peer, WANTED_MAX)
        if member:
            _put_last(self._members, peer, PARTNERS_MAX)

    def reached(self, peers: Iterable[str]) -> None:
        """Note members that answer the directory now.

        Args:
            peers: their ids.
        """
        for peer in peers:
            _put_last(self._once, peer, PARTNERS_MAX)

    def ever(self, peer: str) -> bool:
        """Whether a member was there once: something came from it, or it answered the directory.

        Args:
            peer: its id.

        Returns:
            False if all that is known of it are records.
        """
        return peer in self._members or peer in self._once

    def __contains__(self, peer: str) -> bool:
        """Whether anything ever came from a member."""
        return peer in self._members

    @property
    def latest(self) -> tuple[str, ...]:
        """The last WANTED_MAX peers, members or not, the latest first."""
        return tuple(reversed(self._all))


def _put_last(known: dict[str, None], peer: str, most: int) -> None:
    known.pop(peer, None)
    known[peer] = None
    forget_oldest(known, most)
