"""The identity of a peer: an Ed25519 key, kept in a file that libp2p can read.

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
    """An Ed25519 private key and the peer id that follows from it.

    Args:
        key: the private key; it never leaves this object but through `to_bytes` and `write`.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer_bytes = _PEER_ID_HEADER + key.public_key().public_bytes_raw()
        self.peer: str = base58.b58encode(self.peer_bytes).decode()

    @classmethod
    def generate(cls) -> Identity:
        """Make a new identity from the system's random numbers.

        Returns:
            An identity that no other peer has; nothing is written to disk.
        """
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read the identity in a file, or write a new one there if the file does not exist.

        Args:
            path: the key file; a new one gets mode 0400, and its folders are made.

        Returns:
            The identity in the file. If another process writes the file at the same moment, it is that one's.

        Raises:
            ConfigError: if the file is not an Ed25519 identity, others can read it, or it cannot be read or written.
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
        """Read an identity from the content of a key file.

        Args:
            blob: the content, 68 bytes: libp2p's protobuf `PrivateKey`.
            path: the file that it was read from; only named in errors.

        Returns:
            The identity.

        Raises:
            ConfigError: if the content is no Ed25519 key, or its public half does not fit the private one.
        """
        if len(blob) != 68 or not blob.startswith(_PRIVATE_KEY_HEADER):
            raise ConfigError(KEY, str(path), "a libp2p Ed25519 key file; name a new file to have one made")
        identity = cls(Ed25519PrivateKey.from_private_bytes(blob[4:36]))
        if blob[36:] != identity.peer_bytes[len(_PEER_ID_HEADER) :]:
            raise ConfigError(KEY, str(path), "damaged")
        return identity

    def to_bytes(self) -> bytes:
        """Write the identity in libp2p's format.

        Returns:
            The content of a key file, as `load_or_create` reads it: 68 bytes.
        """
        return _PRIVATE_KEY_HEADER + self._key.private_bytes_raw() + self.peer_bytes[len(_PEER_ID_HEADER) :]

    def write(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read.

        Args:
            path: the file; it must not exist, and its folder must.

        Raises:
            OSError: if the file cannot be made.
        """
        with creating(path, 0o400) as file:
            file.write(self.to_bytes())

    def sign(self, message: bytes) -> bytes:
        """Sign a message with the private key.

        Args:
            message: any bytes; the caller adds a domain, so that a signature fits one purpose only.

        Returns:
            The signature, SIGNATURE_BYTES long.

        Example:
            >>> identity = Identity.generate()
            >>> verify(identity.peer_bytes, identity.sign(b"hello"), b"hello")
            True
        """
        return self._key.sign(message)


def _nobodys_key(public: bytes) -> bool:
    """Whether the key is a point of small order: signatures that anybody can make pass for its own."""
    return public[:-1] + bytes([public[-1] & 0x7F]) in _SMALL_ORDER


def verify(peer_bytes: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a peer signed a message, by nothing but its peer id.

    Args:
        peer_bytes: the peer id as bytes; one of another kind of key than Ed25519 has signed nothing.
        signature: SIGNATURE_BYTES bytes.
        message: what was signed.

    Returns:
        False if the signature is another's, or the key is one for which anybody can sign.
    """
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
    """Write a peer id as people see it.

    Args:
        peer_bytes: the peer id as bytes.

    Returns:
        The id in base58; that of an Ed25519 key begins with `12D3KooW`.
    """
    return str(base58.b58encode(peer_bytes).decode())


def peer_from_text(peer: str) -> bytes:
    """Read a peer id that people see.

    Args:
        peer: the peer id in base58.

    Returns:
        The id as bytes.

    Raises:
        ValueError: if it is not base58.

    Example:
        >>> peer_text(peer_from_text("12D3KooW"))
        '12D3KooW'
    """
    return bytes(base58.b58decode(peer))
