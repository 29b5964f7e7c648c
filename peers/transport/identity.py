"""Who a peer is: an Ed25519 key, kept in a file that libp2p can read.

A libp2p peer id of an Ed25519 key contains the public key itself, so whatever is signed with the identity can be
checked from the peer id alone. File format: libp2p's protobuf `PrivateKey{Type=Ed25519, Data=private+public}`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2p_elastic.common.files import creating, read_private
from p2p_elastic.errors import ConfigError

KEY = "identity"
SIGNATURE_BYTES = 64
_PRIVATE_KEY_HEADER = bytes.fromhex("08011240")  # protobuf: Type = Ed25519, Data of 64 bytes
_PEER_ID_HEADER = bytes.fromhex("002408011220")  # identity multihash of 36 bytes: PublicKey{Ed25519, 32 bytes}
_FIELD = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826  # y of two of the points of order 8
_SMALL_ORDER = frozenset(
    y.to_bytes(32, "little") for y in (0, 1, _FIELD - 1, _FIELD, _FIELD + 1, _ORDER_8, _FIELD - _ORDER_8)
)  # y coordinates, the sign of x left out; RFC 8032, section 5.1


class Identity:
    """A private key and the peer id that follows from it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer_bytes = _PEER_ID_HEADER + key.public_key().public_bytes_raw()
        self.peer: str = base58.b58encode(self.peer_bytes).decode()

    @classmethod
    def generate(cls) -> Identity:
        """A new identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity in that file; a new one, written with mode 0400, where there is none yet.

        Raises:
            ConfigError: the file is not an Ed25519 identity, others can read it, or it cannot be read or written.
        """
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):  # another process was faster: then it is that one's
                    cls.generate().write(path)
            return cls.from_bytes(read_private(path, KEY, 256), path)
        except OSError as error:
            raise ConfigError(KEY, str(path), f"cannot be read or written: {error.strerror}") from error

    @classmethod
    def from_bytes(cls, blob: bytes, path: Path) -> Identity:
        """The identity in the content of the file `path`. Raises ConfigError where it is none."""
        if len(blob) != 68 or not blob.startswith(_PRIVATE_KEY_HEADER):
            raise ConfigError(KEY, str(path), "a libp2p Ed25519 key file; name a new file to have one made")
        identity = cls(Ed25519PrivateKey.from_private_bytes(blob[4:36]))
        if blob[36:] != identity.peer_bytes[len(_PEER_ID_HEADER) :]:
            raise ConfigError(KEY, str(path), "damaged")
        return identity

    def to_bytes(self) -> bytes:
        """The content of the file that `load_or_create` reads."""
        return _PRIVATE_KEY_HEADER + self._key.private_bytes_raw() + self.peer_bytes[len(_PEER_ID_HEADER) :]

    def write(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read. Raises OSError."""
        with creating(path, 0o400) as file:
            file.write(self.to_bytes())

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, SIGNATURE_BYTES long."""
        return self._key.sign(message)


def _nobodys_key(public: bytes) -> bool:
    """Whether the key is a point of small order: signatures that anybody can make pass for its own."""
    return public[:-1] + bytes([public[-1] & 0x7F]) in _SMALL_ORDER


def verify(peer_bytes: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the peer with that id signed that message."""
    if len(peer_bytes) != 38 or not peer_bytes.startswith(_PEER_ID_HEADER):
        return False
    public = peer_bytes[len(_PEER_ID_HEADER) :]
    if _nobodys_key(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def peer_text(peer_bytes: bytes) -> str:
    """A peer id as people see it."""
    return str(base58.b58encode(peer_bytes).decode())


def peer_from_text(peer: str) -> bytes:
    """A peer id as bytes. Raises ValueError where it is not base58."""
    return bytes(base58.b58decode(peer))
