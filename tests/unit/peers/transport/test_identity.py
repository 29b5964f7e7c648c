"""Who a peer is: its key file, its peer id, and what it signed."""

from __future__ import annotations

import stat
from pathlib import Path

import base58
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p_elastic.errors import ConfigError
from p2p_elastic.peers.transport.identity import SIGNATURE_BYTES, Identity, peer_from_text, peer_text, verify

checked = settings(max_examples=60)

# The Ed25519 vector of the libp2p specification (peer-ids/peer-ids.md).
PUBLIC = "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
PRIVATE_KEY_FILE = bytes.fromhex(
    "08011240" + "7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d" + PUBLIC
)
PUBLIC_KEY = bytes.fromhex("08011220" + PUBLIC)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- files


def test_the_peer_id_is_what_the_libp2p_specification_makes_of_the_key(tmp_path: Path) -> None:
    identity = Identity.load_or_create(written(tmp_path / "key", PRIVATE_KEY_FILE))
    identity_multihash = b"\x00\x24" + PUBLIC_KEY
    assert identity.peer_bytes == identity_multihash
    assert identity.peer == base58.b58encode(identity_multihash).decode()
    assert identity.peer.startswith("12D3Koo")


def test_a_file_is_written_as_libp2p_wants_it(tmp_path: Path) -> None:
    Identity.load_or_create(written(tmp_path / "key", PRIVATE_KEY_FILE)).write(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == PRIVATE_KEY_FILE


def test_a_missing_file_is_made_for_its_owner_only_and_gives_the_same_peer_ever_after(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "key"
    made = Identity.load_or_create(path)
    assert mode(path) == 0o400
    content = path.read_bytes()
    assert Identity.load_or_create(path).peer == made.peer
    assert path.read_bytes() == content
    assert made.peer_bytes.endswith(content[36:])


def test_new_identities_differ() -> None:
    assert Identity.generate().peer != Identity.generate().peer


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path / "key", PRIVATE_KEY_FILE)
    with pytest.raises(FileExistsError):
        Identity.generate().write(path)
    assert path.read_bytes() == PRIVATE_KEY_FILE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        PRIVATE_KEY_FILE[:-1],
        PRIVATE_KEY_FILE + b"\n",
        PRIVATE_KEY_FILE.hex().encode(),
        b"\x08\x00" + PRIVATE_KEY_FILE[2:],  # says RSA
        bytes.fromhex("080012a609308204a2020100") + bytes(1190),  # as an RSA key begins and as long
        bytes.fromhex("0802122508") + bytes(63),  # secp256k1
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + bytes(300),
    ],
)
def test_what_is_no_ed25519_key_of_libp2p_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "key", content)
    with pytest.raises(ConfigError, match="identity: got .*key.*a libp2p Ed25519 key file") as caught:
        Identity.load_or_create(path)
    assert (caught.value.key, caught.value.got) == ("identity", str(path))
    assert path.read_bytes() == content


def test_a_file_whose_halves_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    damaged = bytearray(PRIVATE_KEY_FILE)
    damaged[10] ^= 1
    with pytest.raises(ConfigError, match="identity: got"):
        Identity.load_or_create(written(tmp_path / "key", bytes(damaged)))


def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="identity: got .*cannot be read or written: Is a directory"):
        Identity.load_or_create(tmp_path)


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "file", b"") / "key"
    with pytest.raises(ConfigError, match="identity: got .*cannot be read or written"):
        Identity.load_or_create(path)


def test_a_file_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    path = written(tmp_path / "key", PRIVATE_KEY_FILE)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=f"identity: got .*others.*chmod 600 {path}"):
        Identity.load_or_create(path)
    path.chmod(0o600)
    assert Identity.load_or_create(path).to_bytes() == PRIVATE_KEY_FILE


# ---------------------------------------------------------------- signatures


@given(message=st.binary(max_size=100))
@checked
def test_what_was_signed_verifies_for_this_peer_and_message_only(message: bytes) -> None:
    alice, bob = Identity.generate(), Identity.generate()
    signature = alice.sign(message)
    assert len(signature) == SIGNATURE_BYTES
    assert verify(alice.peer_bytes, signature, message)
    assert not verify(bob.peer_bytes, signature, message)
    assert not verify(alice.peer_bytes, signature, message + b"!")


@given(position=st.integers(0, SIGNATURE_BYTES - 1), bit=st.integers(0, 7))
@checked
def test_a_signature_with_one_bit_changed_does_not_verify(position: int, bit: int) -> None:
    alice = Identity.generate()
    signature = bytearray(alice.sign(b"message"))
    signature[position] ^= 1 << bit
    assert not verify(alice.peer_bytes, bytes(signature), b"message")


@given(peer=st.binary(max_size=50), signature=st.binary(max_size=70))
@example(peer=b"\x01", signature=b"\x01")  # a key of small order
@checked
def test_garbage_verifies_nothing_and_raises_nothing(peer: bytes, signature: bytes) -> None:
    alice = Identity.generate()
    header = alice.peer_bytes[:6]
    assert not verify(peer, alice.sign(b"message"), b"message")
    assert not verify(alice.peer_bytes, signature, b"message")
    assert not verify(header + (peer + bytes(32))[:32], (signature + bytes(64))[:64], b"another message")


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32, b"\x01" + bytes(31)])
def test_a_peer_id_with_an_impossible_key_verifies_no_signature_of_another(key: bytes) -> None:
    alice = Identity.generate()
    assert not verify(alice.peer_bytes[:6] + key, alice.sign(b"message"), b"message")


# ---------------------------------------------------------------- as text


def test_a_peer_id_as_text_and_back() -> None:
    alice = Identity.generate()
    assert peer_text(alice.peer_bytes) == alice.peer
    assert peer_from_text(alice.peer) == alice.peer_bytes


@pytest.mark.parametrize("text", ["0OIl", "12D3Koo!", "ünïcode", "12D3 Koo"])
def test_what_is_not_base58_is_no_peer_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        peer_from_text(text)
