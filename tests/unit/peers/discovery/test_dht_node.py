"""What a node of the DHT shows of the entries under a key."""

from __future__ import annotations

from p2p_elastic.peers.discovery.dht_node import DIGEST_BYTES, KNOWN, digest_of, shown_of
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.limits import VIEW_MAX

from hivemind.dht.storage import DictionaryDHTValue  # isort: skip

EXPIRES = 1_800_000_000.25


def entries_of(count: int) -> DictionaryDHTValue:
    entries = DictionaryDHTValue()
    for number in range(count):
        entries.store(b"peer %d" % number, b'{"step":%d}' % number, EXPIRES + number)
    return entries


def told(entries: DictionaryDHTValue) -> dict[bytes, float]:
    return {subkey: entry.expiration_time for subkey, entry in entries.items()}


def test_what_somebody_knows_is_not_sent_again_and_what_was_renewed_is() -> None:
    entries = entries_of(10)
    known = told(shown_of(entries, b"peer 1", (), VIEW_MAX))
    digests = b"".join(digest_of(*entry) for entry in known.items())
    assert told(shown_of(entries, b"peer 1", (), VIEW_MAX, digests)) == {}
    entries.store(b"peer 3", b'{"step":100}', EXPIRES + 5.0)
    entries.store(b"new", b"{}", EXPIRES)
    renewed = {b"peer 3": EXPIRES + 5.0, b"new": EXPIRES}
    assert told(shown_of(entries, b"peer 1", (), VIEW_MAX, digests)) == renewed
    assert set(told(shown_of(entries, b"peer 1", (), VIEW_MAX))) == {*known, b"new"}


def test_of_many_the_same_view_is_shown_less_what_is_known() -> None:
    entries = entries_of(300)
    view = told(shown_of(entries, b"peer 1", [b"peer 250"], 32))
    assert len(view) == 32
    half = dict(list(view.items())[:16])
    digests = b"".join(digest_of(*entry) for entry in half.items())
    assert told(shown_of(entries, b"peer 1", [b"peer 250"], 32, digests)) == {
        subkey: expires for subkey, expires in view.items() if subkey not in half
    }


def test_digests_that_are_cut_off_or_of_nothing_change_nothing() -> None:
    entries = entries_of(3)
    for digests in (b"x", b"\0" * 3 * DIGEST_BYTES, b"\0" * 10_001):
        assert told(shown_of(entries, b"peer 1", (), VIEW_MAX, digests)) == told(entries)


def test_no_peer_id_is_taken_for_digests() -> None:
    assert not any(Identity.generate().peer_bytes.startswith(KNOWN[:2]) for _ in range(20))
