"""How the chunks of a direct connection are sealed: each one encrypted and authenticated whole, in its order.

The keys follow from a secret of each end. The two are told over libp2p streams on which Noise has proven both ends, and
are good for one meeting; so whoever holds the keys is the partner, and there are no certificates. TLS would do the same
in records of 16 KiB at most, of which each costs Python a call or two and a wait for its lock: a chunk of 255 KiB
in one piece takes half the CPU of that. It would also leave processors without instructions for AES out, for which
Python before 3.15 cannot choose another cipher.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p_elastic.errors import ExchangeError, PartnerUnreachable, RemoteProtocolError
from p2p_elastic.protocol.messages import Direct

TAG_BYTES, KEY_BYTES, NONCE_BYTES = 16, 32, 12
CHUNKS_MAX = 2**20  # of 255 KiB with one key: with AES-GCM TLS 1.3 allows about as many bytes (RFC 8446, section 5.5)
TRIED_BYTES, TRIES = 1 << 18, 4
SLOW_TIMES = 2.0
Cipher = AESGCM | ChaCha20Poly1305


class Seal:
    """One direction of one connection: what is sealed at one end opens at the other, once, and in the same order.

    The nonce of a chunk is its number, so no key is ever used with the same one twice, and a chunk that was changed,
    left out, doubled or moved does not open (AEAD, RFC 5116).

    Args:
        cipher: with a key that nothing else uses.
    """

    def __init__(self, cipher: Cipher) -> None:
        self._cipher, self._count = cipher, 0

    @property
    def worn(self) -> bool:
        """Whether this key has been used for as much as it should."""
        return self._count >= CHUNKS_MAX

    def seal(self, plain: memoryview | bytes, into: memoryview | bytearray, also: bytes | None = None) -> None:
        """Encrypt a chunk.

        Args:
            plain: its bytes.
            into: TAG_BYTES more.
            also: is authenticated with it, and not sent.
        """
        self._cipher.encrypt_into(self._nonce(), plain, also, into)

    def open(self, sealed: memoryview | bytes, into: memoryview | bytearray, also: bytes | None = None) -> None:
        """Decrypt a chunk, and check it.

        Args:
            sealed: its bytes.
            into: TAG_BYTES less.
            also: was authenticated with it.

        Raises:
            RemoteProtocolError: if it is not the next one that the other end sealed, as it was.
        """
        try:
            self._cipher.decrypt_into(self._nonce(), sealed, also, into)
        except InvalidTag as error:
            raise RemoteProtocolError("something was changed on its way, or is no partner's") from error

    def _nonce(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(NONCE_BYTES, "big")


class SealedChunks:
    """Both directions of one connection, and memory for one sealed chunk each, which is used again.

    Args:
        outgoing: of what this end sends.
        incoming: of what it receives.
    """

    def __init__(self, outgoing: Seal, incoming: Seal) -> None:
        self._outgoing, self._incoming = outgoing, incoming
        self._sending, self._receiving = memoryview(b""), memoryview(b"")

    @property
    def worn(self) -> bool:
        """Whether one of the keys has been used for as much as it should."""
        return self._outgoing.worn or self._incoming.worn

    def seal(self, chunk: memoryview) -> memoryview:
        """Encrypt a chunk.

        Args:
            chunk: its bytes.

        Returns:
            The sealed chunk, until the next one.
        """
        self._sending = sealed = _sized(self._sending, len(chunk) + TAG_BYTES)
        self._outgoing.seal(chunk, sealed)
        return sealed

    def room(self, chunk_bytes: int) -> memoryview:
        """Give memory for a sealed chunk that comes in.

        Args:
            chunk_bytes: of the chunk that is in it.

        Returns:
            TAG_BYTES more, to be filled.
        """
        self._receiving = _sized(self._receiving, chunk_bytes + TAG_BYTES)
        return self._receiving

    def open(self, buffer: memoryview, partner: str) -> None:
        """Decrypt what fills the room, and check it.

        Args:
            buffer: where the chunk goes.
            partner: peer id in the error.

        Raises:
            PartnerUnreachable: if it was changed on its way, by anybody between the two: nobody is blamed.
        """
        try:
            self._incoming.open(self._receiving, buffer)
        except RemoteProtocolError as error:
            raise PartnerUnreachable(f"the connection broke: {error}", partner=partner) from error

    def let_go(self) -> None:
        """Free the memory: the connection may be idle for long."""
        self._sending = self._receiving = memoryview(b"")


def _sized(buffer: memoryview, size: int) -> memoryview:
    """The buffer, or another one if it has not this size: the last chunk is shorter."""
    return buffer if len(buffer) == size else memoryview(bytearray(size))


class Agreed(NamedTuple):
    """What the two ends of a meeting have told each other.

    Attributes:
        dialler: of the end that dials.
        listener: of the other.
    """

    dialler: Direct
    listener: Direct

    def seals(self, number: int) -> tuple[Seal, Seal]:
        """Derive the keys of one connection (HKDF, RFC 5869).

        Args:
            number: of the connection, 0 to 255.

        Returns:
            For what the dialler sends, and for what the listener sends. AES if that is fast at both ends.

        Raises:
            ExchangeError: if this machine's OpenSSL has no ChaCha20, and the partner no AES.
        """
        secrets = bytes.fromhex(self.dialler.secret + self.listener.secret)
        about = b"p2p-elastic direct connection " + bytes([number])
        keys = HKDF(SHA256(), 2 * KEY_BYTES, bytes.fromhex(self.listener.token), about).derive(secrets)
        return seals(keys, aes=self.dialler.aes and self.listener.aes)


def seals(keys: bytes, *, aes: bool) -> tuple[Seal, Seal]:
    """Make the two directions of a connection.

    Args:
        keys: 2 KEY_BYTES, which nothing else uses.
        aes: whether AES is fast at both ends.

    Returns:
        Those of the first and of the second key.

    Raises:
        ExchangeError: if this machine's OpenSSL has no ChaCha20, and the partner no AES.
    """
    cipher = AESGCM if aes else ChaCha20Poly1305
    try:
        return Seal(cipher(keys[:KEY_BYTES])), Seal(cipher(keys[KEY_BYTES:]))
    except UnsupportedAlgorithm as error:  # such as an OpenSSL in FIPS mode
        raise ExchangeError(f"no cipher for this connection: {error}") from error


def aes_is_fast() -> bool:
    """Measure whether this processor has instructions for AES: in a millisecond.

    Returns:
        False if AES takes more than SLOW_TIMES as long as ChaCha20, which needs no instructions.
    """

    def seconds(cipher: Cipher) -> float:
        data, nonce, took = bytes(TRIED_BYTES), bytes(NONCE_BYTES), []
        for _ in range(TRIES):
            began = time.perf_counter()
            cipher.encrypt(nonce, data, None)
            took.append(time.perf_counter() - began)
        return min(took)

    key = bytes(KEY_BYTES)
    try:
        return seconds(AESGCM(key)) <= SLOW_TIMES * seconds(ChaCha20Poly1305(key))
    except UnsupportedAlgorithm:
        return True
