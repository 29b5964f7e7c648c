"""Which records the DHT node keeps and believes: entries of a dictionary that their signer's own peer id is the key of.

So nobody can overwrite, wipe or flood another peer's entry. In a private run the signer's ticket comes with each entry.
"""

from __future__ import annotations

import hashlib
import math
import struct

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.admission.tickets import CHAIN_BYTES_MAX
from p2p_elastic.peers.transport.identity import SIGNATURE_BYTES, peer_text, verify
from p2p_elastic.peers.transport.swarm_clock import SwarmClock
from p2p_elastic.protocol.records import RECORD_BYTES_MAX, RECORD_SECONDS_MAX

import p2p_elastic.peers.transport.libp2p  # noqa: F401  # isort: skip  # silences hivemind
from hivemind.dht.crypto import DHTRecord, RecordValidatorBase  # isort: skip
from hivemind.dht.protocol import DHTProtocol  # isort: skip
from hivemind.utils import MSGPackSerializer  # isort: skip

DOMAIN = b"p2p-elastic/record/1"
KEYS_PER_SIGNER = 8
SIGNERS_REMEMBERED, SIGNERS_MAX, PRUNE_SECONDS = 4096, 2**16, 10.0  # more are pruned, but not at each record
GENUINE_MAX = 2**15  # digests: 4 MB
CHAIN_LENGTH = struct.Struct("!H")


class SignedRecords(RecordValidatorBase):  # type: ignore[misc]  # hivemind has no types
    """Accepts nothing but signed dictionary entries that end soon by a clock; counts what it refuses.

    Args:
        clock: the swarm's.
        access: whose tickets are asked for in a private run.
    """

    def __init__(self, clock: SwarmClock, access: AccessList) -> None:
        self._clock, self._access = clock, access
        self.refused = 0
        self._genuine: dict[bytes, bool] = {}  # digest -> what came of it: a record comes at each look until it changes
        self._keys: dict[bytes, dict[bytes, float]] = {}
        self._pruned_at = -math.inf

    def validate(self, record: DHTRecord) -> bool:
        """Decide whether the DHT node keeps or believes a record.

        Args:
            record: as it came from another node, or from this one.

        Returns:
            True if it is signed, small and short-lived, and its signer has room for one more key.
        """
        accepted = (
            record.subkey not in DHTProtocol.RESERVED_SUBKEYS
            and len(record.value) <= self._bytes_max
            and record.expiration_time <= self._clock.now() + RECORD_SECONDS_MAX
            and self._is_genuine(record.key, record.subkey, record.value, record.expiration_time)
            and self._has_room(record)
        )
        self.refused += not accepted
        return accepted

    @property
    def _bytes_max(self) -> int:
        return RECORD_BYTES_MAX + (CHAIN_LENGTH.size + CHAIN_BYTES_MAX) * self._access.private

    def forget(self) -> None:
        """Count the keys of signers anew: the clock changed."""
        self._keys.clear()

    def _is_genuine(self, key: bytes, subkey: bytes, value: bytes, expiration: float) -> bool:
        told = struct.pack("!HHd", len(key), len(subkey), expiration) + key + subkey + value
        digest = hashlib.blake2b(told, digest_size=16).digest()
        known = self._genuine.get(digest)
        if known is None:
            known = self._genuine[digest] = self._look_at(key, subkey, value, expiration)
            forget_oldest(self._genuine, GENUINE_MAX)
        return known

    def _look_at(self, key: bytes, subkey: bytes, value: bytes, expiration: float) -> bool:
        """Check a record. That a ticket counts no more is no reason: hivemind would drop all entries of the key."""
        found = _genuine(key, subkey, value, expiration)
        if found is None or not self._access.private:
            return found is not None
        peer, body = found
        return self._access.knows(peer_text(peer), chain_and_body(body)[0])

    def _has_room(self, record: DHTRecord) -> bool:
        """hivemind stores any number of keys: a signer gets KEYS_PER_SIGNER, an honest one needs three."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        if len(self._keys) > SIGNERS_REMEMBERED and monotonic > self._pruned_at + PRUNE_SECONDS:
            self._keys = {s: keys for s, keys in self._keys.items() if max(keys.values()) > now}
            self._pruned_at = monotonic
        if len(self._keys) >= SIGNERS_MAX and record.subkey not in self._keys:
            return False
        live = {key: end for key, end in self._keys.get(record.subkey, {}).items() if end > now}
        live[record.key] = record.expiration_time
        if len(live) > KEYS_PER_SIGNER:
            return False
        self._keys[record.subkey] = live
        return True


def signed_bytes(key: bytes, subkey: bytes, expiration: float, body: bytes) -> bytes:
    """Lay out what a signer signs.

    Args:
        key: of the DHT.
        subkey: the signer's peer id.
        expiration: of the entry, in seconds of the swarm's clock.
        body: what is stored.

    Returns:
        The bytes.
    """
    return DOMAIN + struct.pack("!HHd", len(key), len(subkey), expiration) + key + subkey + body


def with_chain(chain: bytes, body: bytes) -> bytes:
    """Put a chain of tickets before what is stored in a private run.

    Args:
        chain: of the signer.
        body: what it stores.

    Returns:
        Both, for `chain_and_body`.
    """
    return CHAIN_LENGTH.pack(len(chain)) + chain + body


def chain_and_body(stored: bytes) -> tuple[bytes, bytes]:
    """Take the two apart.

    Args:
        stored: as `with_chain` made it, or anything else.

    Returns:
        The chain, which may be none, and the body.

    Example:
        >>> chain_and_body(with_chain(b"chain", b"body"))
        (b'chain', b'body')
    """
    if len(stored) < CHAIN_LENGTH.size:
        return b"", b""
    (length,) = CHAIN_LENGTH.unpack_from(stored)
    end = CHAIN_LENGTH.size + length
    return stored[CHAIN_LENGTH.size : end], stored[end:]


def _genuine(key: bytes, subkey: bytes, value: bytes, expiration: float) -> tuple[bytes, bytes] | None:
    """The signer and what it stored; None if it is not signed by whom it is about."""
    try:
        peer, signed = MSGPackSerializer.loads(subkey), MSGPackSerializer.loads(value)
    except Exception:  # noqa: BLE001  # msgpack raises all kinds of errors on garbage
        return None
    if not (isinstance(peer, bytes) and isinstance(signed, bytes) and len(signed) > SIGNATURE_BYTES):
        return None
    signature, body = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    return (peer, body) if verify(peer, signature, signed_bytes(key, peer, expiration, body)) else None
