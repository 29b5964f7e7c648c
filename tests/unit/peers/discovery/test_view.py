"""What each peer sees of a swarm that is larger than a view."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from p2p_elastic.peers.discovery.dht_keys import place_of
from p2p_elastic.peers.discovery.member_shards import BEST_SHOWN
from p2p_elastic.peers.discovery.view import ANCHORS_MAX, CLAIMS_MAX, HALF_VIEW, LOWEST_MAX, WANTED_MAX, view_of
from p2p_elastic.peers.transport.identity import peer_text
from p2p_elastic.protocol.limits import VIEW_MAX


def swarm(count: int, **facts: Mapping[int, Any]) -> dict[bytes, bytes]:
    """Peers of which some say something."""
    told = [{key: of[i] for key, of in facts.items() if i in of} for i in range(count)]
    return {name(i): b"signature" + json.dumps(told[i], separators=(",", ":")).encode() for i in range(count)}


def name(i: int) -> bytes:
    return f"peer {i}".encode()


def views(bodies: Mapping[bytes, bytes]) -> dict[bytes, set[bytes]]:
    """Of half a size, as members of a shard have."""
    return {peer: view_of(peer, bodies, (), HALF_VIEW) - {peer} for peer in bodies}


@pytest.mark.parametrize("count", [0, 1, VIEW_MAX])
def test_a_swarm_that_fits_is_seen_whole(count: int) -> None:
    bodies = swarm(count)
    assert view_of(b"somebody", bodies, ()) == set(bodies)


def test_a_view_has_its_size_and_is_the_same_whoever_shows_it() -> None:
    bodies = swarm(500)
    shown = view_of(name(3), bodies, ())
    assert len(shown) == VIEW_MAX
    assert name(3) in shown
    assert view_of(name(3), dict(reversed(bodies.items())), ()) == shown
    assert len(view_of(name(4), bodies, ()) & shown) < VIEW_MAX / 2


def test_who_comes_or_goes_changes_one_place() -> None:
    bodies = swarm(500)
    before = view_of(name(3), bodies, ())
    for i in range(500, 600):
        after = view_of(name(3), bodies | {name(i): b"{}"}, ())
        assert len(before - after) <= 1
    gone = next(iter(before - {name(3)}))
    after = view_of(name(3), {peer: body for peer, body in bodies.items() if peer != gone}, ())
    assert before - after == {gone}


def test_who_is_wanted_is_there_and_strangers_are_not_made_up() -> None:
    bodies = swarm(1000)
    wanted = [name(i) for i in range(990, 1010)]
    shown = view_of(name(3), bodies, wanted)
    assert shown >= set(wanted[:10])
    assert shown <= set(bodies)
    many = [name(i) for i in range(500)]
    assert set(many[:WANTED_MAX]) <= view_of(name(3), bodies, many)
    assert len(view_of(name(3), bodies, many)) == VIEW_MAX


def test_everybody_sees_the_centre_and_the_lowest_losses() -> None:
    claims = {i: {"seated": i == 77, "stamp": 1} for i in range(70, 100)}
    losses = {i: 10.0 + i for i in range(400)} | {399: 0.25, 398: -1.5e-3}
    bodies = swarm(400, centre=claims, loss=losses)
    for i in range(0, 400, 40):
        shown = view_of(name(i), bodies, ())
        assert name(77) in shown
        assert CLAIMS_MAX <= len(shown & {name(k) for k in claims}) < 16
        assert shown >= {name(399), name(398)} | {name(k) for k in range(LOWEST_MAX - 2)}
        assert len(shown) == VIEW_MAX
        assert name(77) in view_of(name(i), bodies, (), BEST_SHOWN)


def test_half_a_view_is_a_sample_whatever_members_claim() -> None:
    claims = {i: {"seated": True, "stamp": 1} for i in range(100)}
    bodies = swarm(500, centre=claims, loss=dict.fromkeys(range(100), 0.01))
    liars = [len(view_of(name(i), bodies, (), HALF_VIEW) & {name(k) for k in claims}) for i in range(100, 500)]
    assert statistics.mean(liars) == pytest.approx(HALF_VIEW / 5, rel=0.1)


def test_a_whole_view_has_the_same_anchors_for_everybody() -> None:
    bodies = swarm(500)
    anchors = set(sorted(bodies, key=lambda peer: place_of(peer_text(peer)))[:ANCHORS_MAX])
    for i in range(0, 500, 50):
        assert anchors <= view_of(name(i), bodies, ())


def test_each_member_is_seen_by_about_as_many() -> None:
    seen = Counter(peer for view in views(swarm(1000)).values() for peer in view)
    assert len(seen) == 1000
    assert statistics.mean(seen.values()) == pytest.approx(HALF_VIEW - 1, abs=1.0)
    assert statistics.stdev(seen.values()) == pytest.approx(math.sqrt(HALF_VIEW), rel=0.2)  # as of a random graph
    assert min(seen.values()) > HALF_VIEW / 3


def test_the_survivors_of_a_half_are_one_component() -> None:
    known = {peer: view for peer, view in views(swarm(600)).items() if peer in set(map(name, range(300)))}
    reached, edge = {name(0)}, {name(0)}
    while edge:
        edge = {other for peer in edge for other in known[peer] if other in known} - reached
        reached |= edge
    assert len(reached) == 300


def test_a_body_that_is_no_record_does_no_harm() -> None:
    bodies = swarm(100) | {name(i): b'"loss":1e999,"loss":nan}"centre":{' for i in range(100, 200)}
    assert len(view_of(name(3), bodies, ())) == VIEW_MAX
