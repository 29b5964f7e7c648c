"""What a reader has seen under each key: an answer brings only what is new, and no one node can take an entry away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Generic, Protocol, TypeVar

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.peers.discovery.view import view_of
from p2p_elastic.peers.transport.identity import peer_text
from p2p_elastic.protocol.limits import VIEW_MAX

KEYS_MAX = 64


class Entry(Protocol):
    """A signed entry of the DHT."""

    @property
    def value(self) -> bytes:
        """The body."""

    @property
    def expiration_time(self) -> float:
        """Until when it counts, in seconds of the swarm's clock."""


E = TypeVar("E", bound=Entry)


class SeenEntries(Generic[E]):
    """The entries that one peer has seen: of each of KEYS_MAX keys its view, until they expire.

    Args:
        own: id of the peer.
        text: writes an id as text.
    """

    def __init__(self, own: bytes, text: Callable[[bytes], str] = peer_text) -> None:
        self._own, self._text = own, text
        self._seen: dict[str, Mapping[bytes, E]] = {}

    def under(self, key: str) -> Mapping[bytes, E] | None:
        """Look up what was seen under a key.

        Args:
            key: where.

        Returns:
            Id -> entry, some perhaps expired; None if the key was not read.
        """
        return self._seen.get(key)

    def add(
        self, key: str, found: Mapping[bytes, E], now: float, wanted: Collection[bytes] = (), most: int = VIEW_MAX
    ) -> Mapping[bytes, E]:
        """Take in what a node showed.

        Args:
            key: where.
            found: id -> entry.
            now: seconds of the swarm's clock.
            wanted: ids that are wanted in any case.
            most: how many entries are wanted.

        Returns:
            What is seen now: of each id the entry that lives longest, whichever node showed it.
        """
        seen = self._seen.pop(key, {})
        newer = {
            peer: e for peer, e in found.items() if peer not in seen or e.expiration_time > seen[peer].expiration_time
        }
        alive = {peer: e for peer, e in {**seen, **newer}.items() if e.expiration_time > now}
        view = view_of(self._own, {peer: e.value for peer, e in alive.items()}, wanted, most, self._text)
        self._seen[key] = kept = {peer: e for peer, e in alive.items() if peer in view}
        forget_oldest(self._seen, KEYS_MAX)
        return kept

    def clear(self) -> None:
        """Forget all."""
        self._seen.clear()
