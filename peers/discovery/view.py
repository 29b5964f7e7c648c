"""Which of many entries of a key a peer is shown: a sample that stays the same, and those that everybody has to see.

A directory that shows everybody to everybody costs each peer as many bytes as there are members. With more of them than
VIEW_MAX each peer sees its own VIEW_MAX: those whose hash with its id is the smallest (rendezvous hashing, Thaler and
Ravishankar 1998). So all nodes that hold the entries show it the same ones, a member that comes or goes changes one
place in a few views, and all views together are a random graph, in which each member is seen by about as many.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import TypeVar

from p2p_elastic.peers.discovery.dht_keys import PLACES_KEPT, place_of
from p2p_elastic.peers.transport.identity import peer_text
from p2p_elastic.protocol.limits import VIEW_MAX

HALF_VIEW = WANTED_MAX = VIEW_MAX // 2
CLAIMS_MAX = LOWEST_MAX = VIEW_MAX // 16  # members may claim what they like: these are few, and none in half a view
ANCHORS_MAX = VIEW_MAX // 4
BODIES_READ = 2048  # whose loss and claim are remembered: each is shown, or not, to many askers
PLACES, MIX = 2**48, 0x9E37_79B9_7F4A_7C15  # of all ids; 2^64 by the golden ratio (Knuth, TAOCP 3, 6.4)
CLAIM, SEATED = re.compile(rb'"centre":\{'), re.compile(rb'"seated":true')
LOSS = re.compile(rb'"loss":(-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?)[,}]', re.IGNORECASE)

Id = TypeVar("Id", bytes, str)


def view_of(
    asker: Id,
    bodies: Mapping[Id, bytes],
    wanted: Collection[Id],
    most: int = VIEW_MAX,
    text: Callable[[Id], str] = peer_text,  # type: ignore[assignment]
) -> set[Id]:
    """Choose what a peer is shown.

    Args:
        asker: its id; its own entry is always shown.
        bodies: id -> what is stored, with the record as JSON somewhere in it.
        wanted: ids that it asks for by name; WANTED_MAX of them at most.
        most: how many are shown.
        text: writes an id as text.

    Returns:
        The ids: all of them if they are no more than `most`. Otherwise those wanted and a sample. Unless half a view is
        asked for, which is of a shard, also up to CLAIMS_MAX that have a copy of the centre variable and LOWEST_MAX
        with the lowest loss; and of a whole view the ANCHORS_MAX whose own place comes first.

    Example:
        >>> bodies = {bytes([number]): b"{}" for number in range(200)}
        >>> shown = view_of(b"a", bodies, [bytes([7])])
        >>> len(shown), bytes([7]) in shown, shown == view_of(b"a", bodies, [bytes([7])])
        (64, True, True)
    """
    if len(bodies) <= most:
        return set(bodies)
    named: list[Id] = [asker]
    named += list(wanted)[:WANTED_MAX]
    chosen = dict.fromkeys(peer for peer in named if peer in bodies)
    if len(chosen) < most and most != HALF_VIEW:
        chosen.update(dict.fromkeys(_claims(bodies) + _lowest(bodies)))
    if len(chosen) < most and most > HALF_VIEW:
        chosen.update(dict.fromkeys(heapq.nsmallest(ANCHORS_MAX, bodies, key=lambda peer: _place(peer, text))))
    if len(chosen) < most:
        own = _place(asker, text)
        ranks = {peer: (own ^ _place(peer, text)) * MIX & 2**64 - 1 for peer in bodies}
        chosen.update(dict.fromkeys(sorted(ranks, key=ranks.__getitem__)[:most]))
    return set(list(chosen)[:most])


@lru_cache(maxsize=PLACES_KEPT)
def _place(peer: Id, text: Callable[[Id], str]) -> int:
    return int(place_of(text(peer)) * PLACES)


@lru_cache(maxsize=BODIES_READ)
def claims_centre(body: bytes) -> bool:
    """Whether a member has a copy of the centre variable.

    Args:
        body: its record, as JSON.

    Returns:
        Whether it says so.
    """
    return CLAIM.search(body) is not None


@lru_cache(maxsize=BODIES_READ)
def loss_of(body: bytes) -> float | None:
    """Find the loss of a member.

    Args:
        body: its record, as JSON.

    Returns:
        In nats; None if it does not say.
    """
    found = LOSS.search(body)
    return None if found is None else float(found[1])


def _claims(bodies: Mapping[Id, bytes]) -> list[Id]:
    found = [peer for peer, body in bodies.items() if claims_centre(body)]
    return sorted(found, key=lambda peer: (SEATED.search(bodies[peer]) is None, peer))[:CLAIMS_MAX]


def _lowest(bodies: Mapping[Id, bytes]) -> list[Id]:
    losses = ((loss, peer) for peer, body in bodies.items() if (loss := loss_of(body)) is not None)
    return [peer for _, peer in heapq.nsmallest(LOWEST_MAX, losses)]
