"""What a reader keeps of what different nodes show it."""

from __future__ import annotations

from typing import NamedTuple

from p2p_elastic.peers.discovery.seen_entries import KEYS_MAX, SeenEntries
from p2p_elastic.protocol.limits import VIEW_MAX


class Kept(NamedTuple):
    value: bytes
    expiration_time: float


def test_what_a_node_holds_back_stays_until_it_expires_and_the_newer_entry_counts() -> None:
    seen = SeenEntries[Kept](b"me")
    assert seen.under("key") is None
    seen.add("key", {b"a": Kept(b"1", 60.0), b"b": Kept(b"1", 50.0)}, now=0.0)
    assert seen.add("key", {}, now=40.0).keys() == {b"a", b"b"}
    held = seen.add("key", {b"a": Kept(b"0", 55.0), b"b": Kept(b"2", 70.0)}, now=45.0)
    assert {peer: entry.value for peer, entry in held.items()} == {b"a": b"1", b"b": b"2"}
    assert seen.add("key", {}, now=60.0).keys() == {b"b"}
    assert seen.under("key") == {b"b": Kept(b"2", 70.0)}
    assert seen.under("another") is None


def test_no_more_is_kept_than_a_view_of_each_of_a_number_of_keys() -> None:
    seen = SeenEntries[Kept](b"me")
    many = {bytes([number]): Kept(b"{}", 60.0) for number in range(200)}
    assert len(seen.add("key", many, now=0.0)) == VIEW_MAX
    assert bytes([150]) in seen.add("key", many, now=0.0, wanted=[bytes([150])], most=10)
    for number in range(KEYS_MAX):
        seen.add(f"key {number}", many, now=0.0, most=1)
    assert seen.under("key") is None
    seen.clear()
    assert seen.under("key 1") is None
